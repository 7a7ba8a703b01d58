"""Which layers can be repaired, and what each of them is to give again.

A layer is a Conv, Gemm or MatMul with stored weights, together with the BatchNormalization or the bias that directly
follows it: what it gives behind these is its *answer*. Where the answer is one term of a sum and nothing else, the sum
is what the layer is held to, so that it also makes up for what the other term has lost.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from workers.pruning.compensation.walk import schedule
from workers.pruning.graph.values import reads
from workers.pruning.types import Grouping, IntArray, Keep

_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer of the cut graph and where its answer is found in both graphs."""

    node: ir.Node
    source: str  # the value that the layer reads
    weight: str
    bias: str | None  # an initializer: of the layer itself, or of the Add behind it
    normalisation: ir.Node | None
    axis: int  # of the channels in the answer
    wanted: str  # value of the original: the answer, or the sum that it ends in
    other: str | None  # value of the cut graph: the other term of that sum
    kept: IntArray  # channels of the original that are left


def find_layers(
    original: ir.Model, cut: ir.Model, grouping: Grouping, keep: Keep, changed: Container[str]
) -> dict[str, Layer]:
    """List the layers that read a changed value, by node name, in the order in which they run.

    A layer that only lost outputs needs no repair. Weights that several nodes read are left alone.
    """
    before = {node.name: node for node in original.graph}
    available = {value.name for value in cut.graph.inputs}
    layers: dict[str, Layer] = {}
    for node in schedule(cut):
        twin = before.get(node.name)
        if (
            node.op_type in _OPERATORS
            and twin is not None
            and twin.op_type == node.op_type
            and any(value is not None and value.name in changed for value in twin.inputs)
            and _is_refittable(node)
        ):
            kept = _Kept(before, grouping, keep)
            layer = _layer(node, kept, available)
            if layer is not None:
                layers[node.name or ""] = layer
        available |= {value.name for value in node.outputs}
    return layers


def changed_values(original: ir.Model, grouping: Grouping, keep: Keep) -> set[str]:
    """Name the values that lost channels, and all that is computed from them."""
    changed = {
        name
        for name in (*grouping.value_axes, *grouping.head_axes)
        if any(not keep.mask[units[units >= 0]].all() for _, units in grouping.units_of(name))
    }
    for node in original.graph:
        if any(value is not None and value.name in changed for value in reads(node)):
            changed |= {value.name for value in node.outputs if value.name}
    return changed


@dataclass(frozen=True, slots=True)
class _Kept:
    before: Mapping[str | None, ir.Node]
    grouping: Grouping
    keep: Keep

    def channels(self, value: ir.Value, axis: int) -> IntArray:
        """Channels of a value of the original that are left."""
        stays = self.grouping.kept(value.name or "", axis, self.keep)
        if stays is not None:
            return np.flatnonzero(stays)
        length = value.shape[axis] if value.shape is not None else 0
        return np.arange(length if isinstance(length, int) else 0)


def _is_refittable(node: ir.Node) -> bool:
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or source.const_value is not None or weight.const_value is None:
        return False
    rank = len(weight.const_value.shape)
    return len(weight.uses()) == 1 and (rank == 2 if node.op_type != "Conv" else rank > 2)


def _layer(node: ir.Node, kept: _Kept, available: Container[str | None]) -> Layer | None:
    answer, bias = node, node.inputs[2] if len(node.inputs) > 2 else None
    normalisation = _only_reader(node, "BatchNormalization")
    if normalisation is not None:
        answer = normalisation
    elif node.op_type == "MatMul":
        answer, bias = _with_bias(node)
    total, other = _sum(answer, available)
    twin = kept.before.get(total.name)
    rank = len(node.outputs[0].shape or ())
    axis = 1 if node.op_type == "Conv" else rank - 1
    if twin is None or rank < 2 or (bias is not None and (bias.const_value is None or len(bias.uses()) > 1)):
        return None
    names = [value.name or "" if value is not None else "" for value in node.inputs]
    return Layer(
        node=node,
        source=names[0],
        weight=names[1],
        bias=bias.name if bias is not None else None,
        normalisation=normalisation,
        axis=axis,
        wanted=twin.outputs[0].name or "",
        other=other,
        kept=kept.channels(twin.outputs[0], axis),
    )


def _only_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    """The node of this kind that alone reads the output of `node`, or None."""
    output = node.outputs[0]
    readers = [use.node for use in output.uses()]
    if len(readers) != 1 or output.is_graph_output() or readers[0].op_type != op_type:
        return None
    return readers[0]


def _with_bias(node: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """A MatMul with the vector added behind it, or alone."""
    add = _only_reader(node, "Add")
    if add is None:
        return node, None
    constants = [value for value in add.inputs if value is not None and value.const_value is not None]
    if len(constants) != 1 or constants[0].const_value is None or len(constants[0].const_value.shape) != 1:
        return node, None
    return add, constants[0]


def _sum(answer: ir.Node, available: Container[str | None]) -> tuple[ir.Node, str | None]:
    """The Add that alone reads the answer, with its other term if that is there before; or the answer itself."""
    add = _only_reader(answer, "Add")
    if add is None:
        return answer, None
    others = [value for value in add.inputs if value is not None and value is not answer.outputs[0]]
    shape = answer.outputs[0].shape
    if len(others) != 1 or others[0].const_value is not None or shape is None or others[0].shape is None:
        return answer, None
    if others[0].name not in available or list(shape)[1:] != list(others[0].shape)[1:]:
        return answer, None
    return add, others[0].name
