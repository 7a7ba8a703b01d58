"""The cost of every possible cut as sums of products of widths: exact, and cheap to evaluate without the graph."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Final, cast

import onnx_ir as ir

from workers.pruning.graph.cost import live_values, node_macs
from workers.pruning.graph.shapes import Shapes, nominal_shapes
from workers.pruning.graph.storage import file_bytes, stored_bytes
from workers.pruning.graph.values import attribute, constant, is_float
from workers.pruning.groups.lengths import ONE, Axes, Axis, Lengths
from workers.pruning.types import CostModel, Grouping, Json, Length, Term

_Product = tuple[Length, ...]


def cost_model(
    graph: ir.Model, grouping: Grouping, *, shapes: Shapes | None = None, full_bytes: int | None = None
) -> CostModel:
    """Cost of any Keep as a function of how many units each group keeps.

    Source: derivation from the counting rules of graph.cost. Units of a group lie equally often on the same axes, so
    every axis length is linear in the kept widths, and every cost is a sum of products of axis lengths. MACs,
    parameters and activation bytes are those of the cut graph exactly. File bytes count weights exactly and take
    everything else as it is before the cut, which is a few bytes too many at most.

    Args:
        graph: The network.
        grouping: What may be cut of it.
        shapes: Its nominal shapes, for a caller that knows them already.
        full_bytes: The size of its file, likewise.

    Raises:
        UnknownShape: a shape depends on more than the batch, so that no cost is known.
    """
    shapes = nominal_shapes(graph) if shapes is None else shapes
    axes = Lengths(graph, grouping, shapes)
    weights = [value for value in graph.graph.initializers.values() if is_float(value)]
    sized = [(stored_bytes(value), axes.of(value)) for value in weights]
    widths = [group.width for group in grouping.groups]
    full = sum(width * prod(_full(axis, widths) for axis in axes_of) for width, axes_of in sized)
    rest = (file_bytes(graph) if full_bytes is None else full_bytes) - full + growth(graph, grouping)
    return CostModel(
        widths=tuple(group.width for group in grouping.groups),
        macs=_merged(_macs(graph, axes, shapes)),
        params=_merged((1.0, axes.of(value)) for value in weights),
        size_bytes=_merged([(float(rest), ()), *sized]),
        peak=_peak(graph, axes),
        single=tuple(index for index, group in enumerate(grouping.groups) if group.whole_heads),
    )


def _full(axis: Axis, widths: Sequence[int]) -> int:
    return sum(
        prod(length.fixed + sum(positions * widths[group] for group, positions in length.parts) for length in summand)
        for summand in axis
    )


def growth(graph: ir.Model, grouping: Grouping) -> int:
    """Most bytes by which a cut makes anything but weights grow: lists of lengths that it has to write out."""
    return sum(_listed_bytes(node, grouping) for node in graph.graph if not node.domain and _is_listed(node))


def _is_listed(node: ir.Node) -> bool:
    """Whether a cut gives the node a list that is not there; one that is there keeps its length."""
    if node.op_type in _TARGETS:
        target = node.inputs[_TARGETS[node.op_type]] if len(node.inputs) > _TARGETS[node.op_type] else None
        return target is not None and constant(target) is None
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    return node.op_type in {"Shape", "Size"} or (node.op_type == "Split" and constant(sizes) is None)


def _listed_bytes(node: ir.Node, grouping: Grouping) -> int:
    """Lists of 8-byte lengths and nodes that set one of them at run time, once per cut: inside of heads, whole heads.

    Their names are those of the node or its output with a word behind, and stand in up to 8 places and in each reader.
    """
    touched = [value.name or "" for value in (*node.inputs[:1], *node.outputs) if value is not None]
    if not any(grouping.units_of(name) for name in touched):
        return 0
    cuts = 1 + any(name in grouping.head_axes for name in touched)
    name = max(len(node.name or ""), *(len(value.name or "") for value in node.outputs))
    ranks = [len(value.shape or ()) for value in (*node.inputs[:1], *node.outputs) if value is not None]
    return cuts * (_LISTED_BYTES + 8 * name + 9 * max(len(node.outputs), *ranks) + 8 * len(node.outputs[0].uses()))


_TARGETS: Final = {"Reshape": 1, "Expand": 1, "Resize": 3}
_LISTED_BYTES: Final = 256  # the words behind names, and the fields of two nodes, two initializers and two shapes


def activation_elements(graph: ir.Model, grouping: Grouping) -> tuple[Term, ...]:
    """Elements of everything that the nodes compute for one sample, as a function of how many units each group keeps.

    Raises:
        UnknownShape: a shape depends on more than the batch.
    """
    axes = Lengths(graph, grouping)
    values = [value for node in graph.graph for value in node.outputs if value.uses() or value.is_graph_output()]
    return _merged((1.0, axes.of(value)) for value in values)


def _macs(graph: ir.Model, axes: Lengths, shapes: Shapes) -> Iterable[tuple[float, Axes]]:
    counted = node_macs(graph, shapes)
    for node in graph.graph:
        if not node.domain and node.op_type in _PRODUCTS:
            yield 1.0, _PRODUCTS[node.op_type](node, axes)
        elif not node.domain and node.op_type == "Attention":  # its channels are frozen
            yield float(counted[node.name or ""]), ()


def _conv(node: ir.Node, axes: Lengths) -> Axes:
    return axes.of(node.outputs[0]) + axes.of(node.inputs[1])[1:]


def _conv_transpose(node: ir.Node, axes: Lengths) -> Axes:
    return axes.of(node.inputs[0]) + axes.of(node.inputs[1])[1:]


def _gemm(node: ir.Node, axes: Lengths) -> Axes:
    return (*axes.of(node.outputs[0]), axes.of(node.inputs[0])[0 if attribute(node, "transA", 0) else 1])


def _matmul(node: ir.Node, axes: Lengths) -> Axes:
    return (*axes.of(node.outputs[0]), axes.of(node.inputs[0])[-1])


def _einsum(node: ir.Node, axes: Lengths) -> Axes:
    """One product per combination of all indices; an index that is repeated somewhere counts in full."""
    terms = str(attribute(node, "equation")).replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, Axis] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = axes.of(value)
        named = term.replace("...", "")
        before = term.index("...") if "..." in term else len(named)
        hidden = [f"...{number}" for number in range(len(shape) - len(named))]
        indices = [*named[:before], *hidden, *named[before:]]
        lengths |= {index: axis for index, axis in zip(indices, shape, strict=True) if axis != ONE}
    return tuple(lengths.values())


_PRODUCTS: Final[Mapping[str, Callable[[ir.Node, Lengths], Axes]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _peak(graph: ir.Model, axes: Lengths) -> tuple[tuple[Term, ...], ...]:
    """Live bytes at every node; steps that are live sets of another step are left out."""
    products: dict[ir.Value, tuple[float, Axes]] = {}
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


def _merged(products: Iterable[tuple[float, Axes]]) -> tuple[Term, ...]:
    """Terms with constant lengths multiplied out and equal products added up, in a fixed order."""
    sums: Counter[_Product] = Counter()
    for coefficient, lengths in _multiplied_out(products):
        factor = prod(length.fixed for length in lengths if not length.parts)
        open_lengths = sorted(
            (length for length in lengths if length.parts), key=lambda length: (length.parts, length.fixed)
        )
        sums[tuple(open_lengths)] += coefficient * factor  # type: ignore[assignment]
    ordered = sorted(sums.items(), key=lambda item: [(length.parts, length.fixed) for length in item[0]])
    return tuple(
        Term(coefficient=float(coefficient), lengths=lengths) for lengths, coefficient in ordered if coefficient
    )


def _multiplied_out(products: Iterable[tuple[float, Axes]]) -> Iterator[tuple[float, _Product]]:
    for coefficient, axes in products:
        for summands in product(*axes):
            yield coefficient, tuple(length for summand in summands for length in summand)


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
        "single": list(model.single),
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
        single=tuple(cast("Sequence[int]", data.get("single", ()))),
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
