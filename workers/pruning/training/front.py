"""Layers in front that a short training leaves as they are: what the repair made of them is near the original already.

They cost most of a step, since maps are largest in front, and nothing has to be computed backwards through them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import onnx_ir as ir
import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.renormalise import fold_all
from workers.pruning.graph.values import is_float, sample_elements

LARGEST_SHARE: Final = 2 / 3  # of the values of a sample that may stay
NUM_SAMPLES: Final = 128
LARGEST_ERROR: Final = 0.15  # mean square, of the variance that the original has there

Observer = Callable[[Sequence[torch.Tensor | None], Sequence[torch.Tensor]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The nodes that stay, by name, and the initializers that they read."""

    nodes: frozenset[str] = frozenset()
    initializers: frozenset[str] = frozenset()
    end: str = ""  # the value that leads on

    def apart(self, graph: ir.Model) -> tuple[GraphModule, GraphModule]:
        """The front as it stays, with its normalisations folded, and what is behind it, ready to train."""
        folded, end = fold_all(graph, within=self.nodes), self.end
        maker = next(node for node in graph.graph if node.outputs[0].name == end)
        if maker.op_type == "BatchNormalization" and maker.inputs[0] is not None:  # folded: what it read is the end
            end = maker.inputs[0].name or ""
        front = _between(folded, [value.name or "" for value in graph.graph.inputs], [end])
        rest = _between(graph, [self.end], [value.name or "" for value in graph.graph.outputs])
        return GraphModule(front, trainable=False).eval(), GraphModule(rest)

    def write_back(self, module: GraphModule, graph: ir.Model) -> ir.Model:
        """Return a new graph with the values that were trained."""
        return module.write_back(graph, without=self.initializers)


def find_front(
    graph: ir.Model,
    original: ir.Model,
    modules: tuple[GraphModule, GraphModule],
    inputs: Sequence[torch.Tensor],
) -> Front:
    """Give the longest front that ends where the network still computes nearly what the original does.

    Source: derivation. A front ends in a value that alone leads on from it; it holds two thirds of all values at most,
    and there the network has all channels of the original and an error of at most 0.15 of their variance. Fronts
    whose normalisations cannot be folded, or whose weights are read behind them too, are none.
    `modules` run both graphs; they are left in evaluation mode.
    """
    twins = {node.outputs[0].name: node.name or "" for node in original.graph}
    shapes = {value.name: list(value.shape or ()) for node in original.graph for value in node.outputs}
    ends = [end for end in _ends(graph) if shapes.get(end.value.name) == list(end.value.shape or ())]
    inputs = [each[:NUM_SAMPLES] for each in inputs]
    here = _seen(modules[0].eval(), [end.node for end in ends], inputs)
    there = _seen(modules[1].eval(), [twins.get(end.value.name, "") for end in ends], inputs)
    for end, a, b in reversed(list(zip(ends, here, there, strict=True))):
        if _error(a, b) <= LARGEST_ERROR:
            return _front(graph, end)
    return Front()


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A value that alone leads on from the nodes in front of it, the node that makes it, and how many they are."""

    value: ir.Value
    node: str
    length: int


def _ends(graph: ir.Model) -> list[_End]:
    """Values that everything behind them depends on alone, up to the largest share, in the order of the graph."""
    nodes = list(graph.graph)
    last = {value: number for number, node in enumerate(nodes) for value in node.inputs if value is not None}
    last |= dict.fromkeys(graph.graph.outputs, len(nodes))
    most = LARGEST_SHARE * sum(sample_elements(value) for node in nodes for value in node.outputs)
    live = {value for value in graph.graph.inputs if value in last}
    ends: list[_End] = []
    size = 0
    for number, node in enumerate(nodes):
        size += sum(sample_elements(value) for value in node.outputs)
        if size > most:
            break
        live = {value for value in (*live, *node.outputs) if last.get(value, -1) > number}
        if live == {node.outputs[0]}:
            ends.append(_End(value=node.outputs[0], node=node.name or "", length=number + 1))
    return ends


def _between(graph: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> ir.Model:
    """The part of a graph that makes some values from others."""
    return ir.Model(ir.convenience.extract(graph.graph, inputs, outputs), ir_version=graph.ir_version)


def _front(graph: ir.Model, end: _End) -> Front:
    nodes = list(graph.graph)[: end.length]
    names = frozenset(node.name or "" for node in nodes)
    stored = {value for node in nodes for value in node.inputs if value is not None and value.is_initializer()}
    folded = {node.name for node in fold_all(graph, within=names).graph if node.op_type == "BatchNormalization"}
    if folded & names or any(use.node.name not in names for value in stored if is_float(value) for use in value.uses()):
        return Front()
    held = frozenset(value.name or "" for value in stored)
    return Front(nodes=names, initializers=held, end=end.value.name or "")


def _seen(module: GraphModule, nodes: Sequence[str], inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """First outputs of some nodes."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Observer:
        return lambda _, outputs: found.update({name: outputs[0]})

    with torch.no_grad():
        module.run(inputs, watch={name: keep(name) for name in nodes})
    return [found[name] for name in nodes]


def _error(here: torch.Tensor, there: torch.Tensor) -> float:
    """Mean square of a difference over the variance of the channels; infinite where nothing varies."""
    others = [axis for axis in range(there.dim()) if axis != 1]
    variance = there.float().var(dim=others, correction=0).mean()
    return float((here.float() - there.float()).square().mean() / variance) if variance > 0 else inf
