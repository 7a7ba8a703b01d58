"""The cost of every possible cut as sums of products of widths: exact, and cheap to evaluate without the graph."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Final, cast

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import UnknownShape
from workers.pruning.graph.cost import live_values, node_macs
from workers.pruning.graph.save import size_bytes
from workers.pruning.graph.shapes import nominal_shapes
from workers.pruning.graph.values import attribute, constant, is_float
from workers.pruning.types import FROZEN, CostModel, Grouping, IntArray, Json, Length, Term

_Axes = tuple[Length, ...]


def cost_model(graph: ir.Model, grouping: Grouping) -> CostModel:
    """Cost of any Keep as a function of how many units each group keeps.

    Source: derivation from the counting rules of graph.cost. Units of a group lie equally often on the same axes, so
    every axis length is linear in the kept widths, and every cost is a sum of products of axis lengths. MACs,
    parameters and activation bytes are those of the cut graph exactly. File bytes count weights exactly and take
    everything else as it is before the cut, which is a few bytes too many at most.

    Raises:
        UnknownShape: a shape depends on more than the batch, so that no cost is known.
    """
    axes = _Measured(graph, grouping)
    weights = [value for value in graph.graph.initializers.values() if is_float(value)]
    sized = [(_weight_bytes(value), axes.of(value)) for value in weights]
    full = sum(width * prod(_full(length, grouping) for length in lengths) for width, lengths in sized)
    rest = size_bytes(graph) - full + _growth(graph, grouping)
    return CostModel(
        widths=tuple(group.width for group in grouping.groups),
        macs=_merged(_macs(graph, axes)),
        params=_merged((1.0, axes.of(value)) for value in weights),
        size_bytes=_merged([(float(rest), ()), *sized]),
        peak=_peak(graph, axes),
    )


def _weight_bytes(value: ir.Value) -> float:
    tensor = value.const_value
    return 0.0 if tensor is None or not tensor.size else tensor.nbytes / tensor.size


def _full(length: Length, grouping: Grouping) -> int:
    return length.fixed + sum(positions * grouping.groups[group].width for group, positions in length.parts)


def _growth(graph: ir.Model, grouping: Grouping) -> int:
    """Bytes by which a cut may make anything but weights grow: lists of lengths that it has to write out."""
    grown = 0
    for node in graph.graph:
        source = node.inputs[0] if node.inputs else None
        if source is None or source.name not in grouping.value_axes:
            continue
        written = {"Split": 1, "Reshape": 1, "Expand": 1, "Resize": 3}.get(node.op_type)
        if written is not None and (len(node.inputs) <= written or constant(node.inputs[written]) is None):
            grown += _LISTED_BYTES + 8 * len(node.name or "")
    return grown


_LISTED_BYTES: Final = 256  # a list of lengths, and at worst a node that sets one of them at run time


class _Measured:
    """Length of every axis of every tensor as a function of the kept widths."""

    def __init__(self, graph: ir.Model, grouping: Grouping) -> None:
        self._shapes = nominal_shapes(graph)
        self._starts = np.asarray([group.start for group in grouping.groups], np.int64)
        self._cut: dict[str, dict[int, Length]] = {}
        for name, by_axis in grouping.value_axes.items():
            self._cut[name] = {axis: self._length(units) for axis, units in by_axis.items()}
        for entry in grouping.initializer_axes:
            self._cut.setdefault(entry.initializer, {})[entry.axis] = self._length(entry.units)

    def _length(self, units: IntArray) -> Length:
        present, counts = np.unique(units[units != FROZEN], return_counts=True)
        groups = np.searchsorted(self._starts, present, side="right") - 1
        positions = dict(zip(groups.tolist(), counts.tolist(), strict=True))  # the same for all units of a group
        return Length(fixed=int((units == FROZEN).sum()), parts=tuple(sorted(positions.items())))

    def of(self, value: ir.Value | None) -> _Axes:
        """Lengths of all axes."""
        name = "" if value is None else value.name or ""
        shape = self._shapes.get(name)
        if shape is None or None in shape:
            raise UnknownShape(
                "A shape depends on more than the batch, so the cost is not known",
                where=f"value {name!r}",
                actual="no shape" if shape is None else list(shape),
                allowed="known lengths on every axis but the first of the inputs",
                advice="Export with a fixed image size or sequence length.",
            )
        cut = self._cut.get(name, {})
        return tuple(cut.get(axis) or Length(fixed=length or 0) for axis, length in enumerate(shape))


def activation_elements(graph: ir.Model, grouping: Grouping) -> tuple[Term, ...]:
    """Elements of everything that the nodes compute for one sample, as a function of how many units each group keeps.

    Raises:
        UnknownShape: a shape depends on more than the batch.
    """
    axes = _Measured(graph, grouping)
    values = [value for node in graph.graph for value in node.outputs if value.uses() or value.is_graph_output()]
    return _merged((1.0, axes.of(value)) for value in values)


def _macs(graph: ir.Model, axes: _Measured) -> Iterable[tuple[float, _Axes]]:
    for node in graph.graph:
        if not node.domain and node.op_type in _PRODUCTS:
            yield 1.0, _PRODUCTS[node.op_type](node, axes)
        elif not node.domain and node.op_type == "Attention":  # its channels are frozen
            yield float(node_macs(graph)[node.name or ""]), ()


def _conv(node: ir.Node, axes: _Measured) -> _Axes:
    return axes.of(node.outputs[0]) + axes.of(node.inputs[1])[1:]


def _conv_transpose(node: ir.Node, axes: _Measured) -> _Axes:
    return axes.of(node.inputs[0]) + axes.of(node.inputs[1])[1:]


def _gemm(node: ir.Node, axes: _Measured) -> _Axes:
    return (*axes.of(node.outputs[0]), axes.of(node.inputs[0])[0 if attribute(node, "transA", 0) else 1])


def _matmul(node: ir.Node, axes: _Measured) -> _Axes:
    return (*axes.of(node.outputs[0]), axes.of(node.inputs[0])[-1])


def _einsum(node: ir.Node, axes: _Measured) -> _Axes:
    """One product per combination of all indices; its channels are frozen, so only the present lengths count."""
    terms = str(attribute(node, "equation")).replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = [length.fixed for length in axes.of(value)]
        named = term.replace("...", "")
        before = term.index("...") if "..." in term else len(named)
        hidden = [f"...{number}" for number in range(len(shape) - len(named))]
        for axis, length in zip([*named[:before], *hidden, *named[before:]], shape, strict=True):
            lengths[axis] = max(lengths.get(axis, 1), length)
    return tuple(Length(fixed=length) for length in lengths.values())


_PRODUCTS: Final[Mapping[str, Callable[[ir.Node, _Measured], _Axes]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _peak(graph: ir.Model, axes: _Measured) -> tuple[tuple[Term, ...], ...]:
    """Live bytes at every node; steps that are live sets of another step are left out."""
    products: dict[ir.Value, tuple[float, _Axes]] = {}
    steps: dict[tuple[Term, ...], None] = {}
    live = [frozenset(step) for step in live_values(graph)]
    for number, step in enumerate(live):
        if step < live[min(number + 1, len(live) - 1)] or step < live[max(number - 1, 0)]:
            continue
        for value in step:
            if value not in products:
                products[value] = (_bytes_per_element(value), axes.of(value))
        steps[_merged(products[value] for value in step)] = None
    return tuple(steps)


def _bytes_per_element(value: ir.Value) -> float:
    bits = 32 if value.dtype is None or value.dtype == ir.DataType.STRING else value.dtype.bitwidth
    return bits / 8


def _merged(products: Iterable[tuple[float, _Axes]]) -> tuple[Term, ...]:
    """Terms with constant lengths multiplied out and equal products added up, in a fixed order."""
    sums: Counter[_Axes] = Counter()
    for coefficient, lengths in products:
        factor = prod(length.fixed for length in lengths if not length.parts)
        open_lengths = sorted(
            (length for length in lengths if length.parts), key=lambda length: (length.parts, length.fixed)
        )
        sums[tuple(open_lengths)] += coefficient * factor  # type: ignore[assignment]
    ordered = sorted(sums.items(), key=lambda item: [(length.parts, length.fixed) for length in item[0]])
    return tuple(
        Term(coefficient=float(coefficient), lengths=lengths) for lengths, coefficient in ordered if coefficient
    )


def to_json(model: CostModel, grouping: Grouping) -> dict[str, Json]:
    """The model as plain data: a term is [coefficient, [[fixed, [[group index, positions], ...]], ...]].

    The groups' ids stand in the order of the widths. `app.domain.plan` reads this form.
    """
    return {
        "widths": list(model.widths),
        "group_ids": [group.id for group in grouping.groups],
        "macs": _terms_json(model.macs),
        "params": _terms_json(model.params),
        "size_bytes": _terms_json(model.size_bytes),
        "peak": [_terms_json(step) for step in model.peak],
    }


def _terms_json(terms: Sequence[Term]) -> list[Json]:
    return [
        [term.coefficient, [[length.fixed, [list(part) for part in length.parts]] for length in term.lengths]]
        for term in terms
    ]


def from_json(data: Mapping[str, Json]) -> CostModel:
    """The model that `to_json` wrote."""
    steps = cast("Sequence[Sequence[Json]]", data["peak"])
    return CostModel(
        widths=tuple(cast("Sequence[int]", data["widths"])),
        macs=_terms(data["macs"]),
        params=_terms(data["params"]),
        size_bytes=_terms(data["size_bytes"]),
        peak=tuple(_terms(step) for step in steps),
    )


def _terms(data: Json) -> tuple[Term, ...]:
    listed = cast("Sequence[tuple[float, Sequence[tuple[int, Sequence[tuple[int, int]]]]]]", data)
    return tuple(
        Term(
            coefficient=coefficient,
            lengths=tuple(Length(fixed=fixed, parts=tuple((g, n) for g, n in parts)) for fixed, parts in lengths),
        )
        for coefficient, lengths in listed
    )
