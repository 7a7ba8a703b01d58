"""Run the rules over a graph; what they do not understand is frozen and named."""

from collections import defaultdict
from collections.abc import Sequence

import onnx_ir as ir

from workers.pruning.graph.head import added_outputs
from workers.pruning.graph.shapes import Shapes
from workers.pruning.graph.values import operator, reads
from workers.pruning.groups.labels import NotUnderstood, fixed
from workers.pruning.groups.propagation import Propagation, Tag
from workers.pruning.groups.rules.table import RULES
from workers.pruning.types import IntArray

_MALFORMED = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, ZeroDivisionError)


def propagate(graph: ir.Model, *, heads_of: Propagation | None = None, shapes: Shapes | None = None) -> Propagation:
    """Labels, ties and tags of a whole graph.

    With `heads_of`, the result without it, whole heads are told apart and not positions inside of them.

    Requires: nodes in topological order, unique names; shapes inferred as far as they can be.
    Ensures: every channel that an unknown operator, a graph input or a graph output touches is frozen.
    """
    known = shapes if heads_of is None else heads_of.shapes
    state = Propagation(graph, whole_heads=heads_of is not None, shapes=known)
    for node in graph.graph:
        _visit(state, node)
    for value in graph.graph.outputs:
        _freeze_output(state, value)
    _settle_shared_weights(state)
    return state


def _visit(state: Propagation, node: ir.Node) -> None:
    if node.domain not in {"", "ai.onnx"}:
        _barrier(state, node, f"operator {operator(node)} is not followed")
        return
    rule = RULES.get(node.op_type)
    if rule is None:
        _barrier(state, node, f"operator {node.op_type} is not followed")
        return
    try:
        rule(state, node)
    except NotUnderstood as reason:
        _barrier(state, node, str(reason))
    except _MALFORMED as error:
        _barrier(state, node, f"it does not look as its operator demands ({error})")


def _barrier(state: Propagation, node: ir.Node, reason: str) -> None:
    """Freeze everything that a node reads, subgraphs included, and let nothing that it gives be removed."""
    for value in reads(node):
        if value is not None and value in state.labels:
            state.freeze(node, state.labels[value], reason)
    for value in node.outputs:
        state.labels.pop(value, None)
        try:
            state.labels[value] = fixed(state.shape_of(value))
        except NotUnderstood:
            state.name(node, reason)


def _freeze_output(state: Propagation, value: ir.Value) -> None:
    producer = value.producer()
    labels = state.labels.get(value)
    if producer is not None and labels is not None:
        inner = value.name in added_outputs(state.graph)
        what = "what a node reads that no gradient passes" if inner else "an output of the network"
        state.freeze(producer, labels, f"it gives {what}")


def _settle_shared_weights(state: Propagation) -> None:
    """A weight that several nodes read is cut once: its labels are tied where all read it alike, frozen otherwise."""
    by_name: dict[str, list[Tag]] = defaultdict(list)
    for tag in state.tags:
        by_name[tag.initializer].append(tag)
    for name, tags in by_name.items():
        value = state.graph.graph.initializers[name]
        uses = [use.node.name for use in value.uses()]
        if len(uses) > 1 or value.is_graph_output():
            _settle(state, tags, uses, exposed=value.is_graph_output())


def _settle(state: Propagation, tags: Sequence[Tag], uses: Sequence[str | None], *, exposed: bool) -> None:
    for axis in {tag.axis for tag in tags}:
        here = [tag for tag in tags if tag.axis == axis]
        lines = [] if exposed or len(here) < len(uses) else _lines(state, here)
        for line in lines[1:]:
            state.ties.unite(lines[0], line)
        if not lines:
            for tag in here:
                state.ties.freeze(tag.labels.compact)


def _lines(state: Propagation, tags: Sequence[Tag]) -> list[IntArray]:
    try:
        return [state.line(tag.labels, tag.along) for tag in tags]
    except NotUnderstood:
        return []
