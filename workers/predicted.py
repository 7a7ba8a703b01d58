"""What a file will take: the cost model, its lists of lengths counted on a cut, and what stands around the graph."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.allocation.budget import cost
from workers.pruning.export.write import with_header
from workers.pruning.graph.open_batch import close_batch
from workers.pruning.graph.save import size_bytes
from workers.pruning.graph.shapes import Shapes
from workers.pruning.graph.split import LARGEST_MESSAGE, most_apart
from workers.pruning.graph.storage import file_bytes
from workers.pruning.groups.cost_model import cost_model, growth
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Budget, Cost, CostModel, Grouping, Keep, Metric, Term

_LOCATION: Final = "1000-pruned.onnx.data"  # as long as any that a job writes
_PREFIXES: Final = 6  # lengths in front of nested messages, each of which may lose a byte with what it holds


def predict(graph: ir.Model, grouping: Grouping, *, shapes: Shapes, before: Cost) -> CostModel:
    """Give the cost model of a graph, its bytes no fewer and hardly more than any cut's file has.

    Where a cut writes out lists of lengths, `cost_model` bounds them from their names. Here they are counted on the cut
    that takes one unit of every group, which has them all; what other cuts have beside weights is no more but for
    lengths that take a byte less there, which are added.
    """
    model = cost_model(graph, grouping, shapes=shapes, full_bytes=before.size_bytes)
    if not growth(graph, grouping):
        return model
    keep = np.ones(grouping.num_units, np.bool_)
    keep[[group.start for group in grouping.groups if group.width > 1]] = False
    smaller = cut(graph, grouping, Keep(mask=keep))
    kept = [group.width - (group.width > 1) for group in grouping.groups]
    surplus = cost(model, kept).size_bytes - file_bytes(smaller) - _shortened(graph, smaller)
    return replace(model, size_bytes=_less(model, max(0, surplus)))


def _less(model: CostModel, surplus: int) -> tuple[Term, ...]:
    return tuple(
        term if term.lengths else replace(term, coefficient=term.coefficient - surplus) for term in model.size_bytes
    )


def _shortened(graph: ir.Model, smaller: ir.Model) -> int:
    """Most bytes by which lengths, and the prefixes of what holds them, became shorter in a cut."""
    lengths = dict(_lengths(smaller))
    total = 0
    for name, before in _lengths(graph):
        lost = sum(_varint(a) - _varint(b) for a, b in zip(before, lengths.get(name, before), strict=False))
        total += lost + _PREFIXES * (lost > 0)
    return total


def _lengths(graph: ir.Model) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Lengths that a file states: of every tensor, and of a weight how many bytes it has."""
    for name, value in graph.graph.initializers.items():
        if value.const_value is not None:
            yield name, (*value.const_value.shape.numpy(), value.const_value.nbytes)
    for node in graph.graph:
        for value in node.outputs:
            yield value.name or "", tuple(n for n in value.shape or () if isinstance(n, int))


def _varint(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def around(graph: ir.Model, uploaded: ir.Model, metadata: Sequence[dict[str, str]], *, apart: bool) -> list[int]:
    """Give, for each metadata, how many bytes of the shipped file stand around the graph that `graph.cost` counts."""
    closed = close_batch(graph, uploaded)
    counted = file_bytes(graph)
    sizes = [size_bytes(with_header(closed, uploaded, entries)) for entries in metadata]
    large = sum(value.const_value is not None for value in graph.graph.initializers.values())
    references = most_apart(large, _LOCATION) if apart or counted > LARGEST_MESSAGE else 0
    return [size - counted + references for size in sizes]


def lowered(budgets: Iterable[Budget], size: int) -> tuple[Budget, ...]:
    """Keep room for so many bytes in every limit of the file."""
    return tuple(
        replace(budget, limit=budget.limit - size) if budget.metric is Metric.SIZE_BYTES else budget
        for budget in budgets
    )
