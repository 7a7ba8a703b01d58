"""Run a graph node by node for all calibration batches at once, keeping only the values that are still needed.

Compensation changes a layer and needs what follows to see the change. Running the network anew for every layer would
cost layers^2; here every node runs once.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Final

import onnx_ir as ir
import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.precision import FLOAT32, arithmetic
from workers.pruning.graph.values import reads

WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Walk:
    """A position in a graph: every node before it has run, and the values still needed are at hand."""

    def __init__(
        self,
        graph: ir.Model,
        module: GraphModule,
        inputs: Mapping[str, Sequence[torch.Tensor]],
        *,
        held: Mapping[str, int] | None = None,
        precision: str = FLOAT32,
    ) -> None:
        """`held` says how many more uses a value has besides the nodes that read it; see `release`.

        Layers are computed in `precision`.
        """
        self._precision = precision
        self.module = module
        self._nodes = schedule(graph)
        self._position = 0
        first = next(iter(inputs.values()))
        self._num_batches, self._device = len(first), first[0].device.type
        self._values: dict[str, list[torch.Tensor]] = {name: list(parts) for name, parts in inputs.items()}
        self._uses: dict[str, int] = dict(held or {})
        for node in self._nodes:
            for name in _computed(node):
                self._uses[name] = self._uses.get(name, 0) + 1

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        """A value at hand: one tensor per batch."""
        return self._values[name]

    def nodes(self) -> Iterator[ir.Node]:
        """Yield each node just before it runs; asking for the next one runs it."""
        while self._position < len(self._nodes):
            yield self._nodes[self._position]
            self.step()

    def step(self) -> None:
        """Run the next node for every batch."""
        node = self._nodes[self._position]
        self._position += 1
        names = [value.name if value is not None and _is_computed(value) else None for value in reads(node)]
        results: list[tuple[torch.Tensor, ...]] = []
        with torch.no_grad(), arithmetic(self._precision, self._device):
            for number in range(self._num_batches):
                computed = [None if name is None else self._values[name][number] for name in names]
                results.append(self.module.step(node.name or "", computed))
        for name in _computed(node):
            self.release(name)
        for value, parts in zip(node.outputs, zip(*results, strict=True), strict=False):
            if self._uses.get(value.name or "", 0) > 0:
                self._values[value.name or ""] = list(parts)

    def advance_to(self, name: str) -> list[torch.Tensor]:
        """Run nodes until the value `name` is there."""
        while name not in self._values:
            self.step()
        return self._values[name]

    def release(self, name: str) -> None:
        """Say that one use of a value is over; after the last one it is freed."""
        self._uses[name] -= 1
        if self._uses[name] <= 0:
            self._values.pop(name, None)


def schedule(graph: ir.Model) -> list[ir.Node]:
    """Order the nodes so that of two branches the one with fewer layers comes first, right before what joins them.

    The shortcut of a residual block is then there when the last layer of the branch is repaired, and values live short.
    """
    depth: dict[str, tuple[int, int]] = {}  # layers with weights, then nodes, on the longest way from an input
    for node in graph.graph:
        layers, nodes = max((depth.get(name, (0, 0)) for name in _computed(node)), default=(0, 0))
        level = (layers + (node.op_type in WEIGHTED), nodes + 1)
        depth |= {value.name or "": level for value in node.outputs}
    done: set[str] = set()
    order: list[ir.Node] = []
    stack = [last for value in graph.graph.outputs if (last := value.producer()) is not None]
    while stack:
        node = stack[-1]
        if node.name in done:
            stack.pop()
            continue
        waiting = sorted(_computed(node), key=lambda name: depth.get(name, (0, 0)))
        producers = {value.name: value.producer() for value in reads(node) if value is not None}
        missing = [p for p in (producers[name] for name in waiting) if p is not None and p.name not in done]
        if missing:
            stack.extend(reversed(missing))
        else:
            stack.pop()
            done.add(node.name or "")
            order.append(node)
    return order


def _computed(node: ir.Node) -> list[str]:
    """Names of what a node reads that are neither initializers nor absent, each once."""
    return list(dict.fromkeys(value.name or "" for value in reads(node) if value is not None and _is_computed(value)))


def _is_computed(value: ir.Value) -> bool:
    return bool(value.name) and not value.is_initializer()


def peak_bytes(graph: ir.Model) -> int:
    """Bytes of one sample's values at the fullest moment of a walk; dimensions that are no numbers count as one."""
    order = schedule(graph)
    uses: dict[str, int] = {}
    for node in order:
        for name in _computed(node):
            uses[name] = uses.get(name, 0) + 1
    sizes = {value.name: _bytes(value) for value in graph.graph.inputs}
    live = peak = sum(sizes.values())
    for node in order:
        fresh = {value.name: _bytes(value) for value in node.outputs if uses.get(value.name or "")}
        sizes |= fresh
        live += sum(fresh.values())
        peak = max(peak, live)
        for name in _computed(node):
            uses[name] -= 1
            live -= 0 if uses[name] else sizes[name]
    return peak


def _bytes(value: ir.Value) -> int:
    if value.shape is None:
        return 0
    return 4 * prod(dim for dim in list(value.shape)[1:] if isinstance(dim, int))
