"""The second stage of a detector: layers that work on rows picked from one image, each row for itself.

What enters them in the original, behind nodes that no gradient passes, becomes an input of the trunk; a sample is then
an image and one of the rows that the original picks from it. So rows are scored, repaired and learned from as images
are, and what one row costs counts as often as there are rows.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from workers.pruning.graph.open_batch import follow_input
from workers.pruning.graph.shapes import ROWS, forget_shapes, infer_shapes
from workers.pruning.graph.values import all_values, fresh_name, is_float, reads
from workers.pruning.graph.weights import is_parameter

_PICKING: Final = frozenset({"Gather", "GatherElements", "GatherND"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondStage:
    """Layers behind a stop whose first axis numbers rows."""

    rows: int  # for one image
    fed: tuple[ir.Value, ...]  # what enters
    nodes: frozenset[ir.Node]
    outputs: tuple[ir.Value, ...]  # what leaves, or is an output of the network


def second_stage(candidates: Sequence[ir.Value], alive: Container[ir.Value]) -> SecondStage | None:
    """Find the layers that give these values, rows of one image; gradients pass the values `alive`.

    Where rows of several numbers are given, those with most layers count. None where no layer with weights is found, or
    where something else enters than rows of numbers that come from a stop or are picked from others. That each row is
    computed for itself is not looked at here: `open_batch` tries it.
    """
    given: dict[int, list[ir.Value]] = {}
    for value in candidates:
        if (rows := row_count(value)) is not None:
            given.setdefault(rows, []).append(value)
    found = (_stage(values, rows, alive) for rows, values in given.items())
    stages = [stage for stage in found if stage is not None and _num_layers(stage)]
    return max(stages, key=_num_layers, default=None)


def _stage(candidates: Sequence[ir.Value], rows: int, alive: Container[ir.Value]) -> SecondStage | None:
    """Go from these values back to where rows come to be."""
    outputs = [value for value in candidates if not _enters(value, rows, alive)]
    fed: dict[ir.Value, None] = {}
    nodes: dict[ir.Node, None] = {}
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or _enters(value, rows, alive):
            if row_count(value) != rows or not is_float(value) or (value in alive and not _is_picked(node)):
                return None
            fed[value] = None
        elif node not in nodes:
            nodes[node] = None
            waiting += _computed(node)
    return SecondStage(rows=rows, fed=tuple(fed), nodes=frozenset(nodes), outputs=tuple(outputs))


def _enters(value: ir.Value, rows: int, alive: Container[ir.Value]) -> bool:
    """Whether a value is none of the stage's own: no gradient passes it, or it is picked from other rows."""
    node = value.producer()
    if node is None or value not in alive:
        return True
    return any(read in alive and row_count(read) != rows for read in _computed(node))


def _is_picked(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in _PICKING and not node.domain


def _computed(node: ir.Node) -> list[ir.Value]:
    return [value for value in reads(node) if value is not None and not value.is_initializer()]


def _num_layers(stage: SecondStage) -> int:
    held = (value for node in stage.nodes for value in node.inputs if value is not None and value.is_initializer())
    return sum(is_parameter(value) for value in held)


def depends(graph: ir.Graph, on: Iterable[ir.Value]) -> set[ir.Value]:
    """Give these values and all that is computed from them."""
    found = set(on)
    for node in graph:
        if any(value in found for value in reads(node)):
            found.update(node.outputs)
    return found


def feed(graph: ir.Model, rows: Mapping[str, int]) -> None:
    """Make inputs of these values in place, one row of each for a sample; `rows` is how many an image has.

    What computed them is dead by that, and left in the graph. Shapes are inferred anew.
    """
    first = graph.graph.inputs[0]
    batch = None if first.shape is None else first.shape[0]
    taken = {value.name or "" for value in all_values(graph)}
    computed = {value.name: value for node in graph.graph for value in node.outputs if value.name in rows}
    for name in rows:
        value = computed[name]
        entering = ir.Value(name=name, type=value.type, shape=ir.Shape([batch, *list(value.shape or ())[1:]]))
        value.name = fresh_name(name, taken)
        value.replace_all_uses_with(entering)
        graph.graph.inputs.append(entering)
    graph.metadata_props[ROWS] = json.dumps(dict(rows), sort_keys=True)


def settle(graph: ir.Model, outputs: Container[str | None]) -> None:
    """Let shapes behind the inputs that were fed, and these outputs, have the batch first; in place."""
    counts = set(fed_rows(graph).values())
    first = graph.graph.inputs[0]
    batch = None if first.shape is None else first.shape[0]
    for node in graph.graph:
        if node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0):
            for count in counts:
                follow_input(node, count)
    for value in graph.graph.outputs:
        if value.name in outputs and value.shape:
            value.shape = ir.Shape([batch, *list(value.shape)[1:]])
    forget_shapes(graph)
    infer_shapes(graph)


def unfeed(graph: ir.Model, names: Iterable[str]) -> None:
    """Compute what was fed again, in place; the graph has nodes that give it under the same names."""
    for name in names:
        entering = next(value for value in graph.graph.inputs if value.name == name)
        computed = next(value for node in graph.graph for value in node.outputs if value.name == name)
        entering.replace_all_uses_with(computed)
        graph.graph.inputs.remove(entering)


def fed_rows(graph: ir.Model) -> dict[str, int]:
    """Tell the inputs that a network itself computes, and how many rows of each an image has."""
    found: dict[str, int] = json.loads(graph.metadata_props.get(ROWS, "{}"))
    return found


def row_count(value: ir.Value) -> int | None:
    """Give the first length of a value where it is a number other than one."""
    first = value.shape[0] if value.shape else None
    return first if isinstance(first, int) and first != 1 else None
