"""Normalisations, softmax, reductions: per channel they are followed; across channels they freeze them."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.summation import MEANS, SUMS
from workers.pruning.graph.values import opset
from workers.pruning.groups.labels import Labels, NotUnderstood, fixed
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import axis_of, given, integer, integers, weight
from workers.pruning.types import Role

_MIXES = "it computes one figure over all channels, which would change if some were removed"


def batch_normalization(state: Propagation, node: ir.Node) -> None:
    """Scale, shift, mean and variance hold a number per channel."""
    labels = state.input(node)
    line = state.line(labels, 1)
    for index in range(1, 5):
        value, _ = weight(node, index)
        state.tag(node, value, 0, Role.THROUGH, line)
    for output in node.outputs[1:]:
        if output.uses() or output.is_graph_output():
            raise NotUnderstood("it is in training mode")
    state.put(node, labels)


def instance_normalization(state: Propagation, node: ir.Node) -> None:
    """Each position of axis 1 is normalised over everything behind it, which therefore goes or stays as a whole.

    Exporters write GroupNormalization as this operator between two Reshapes: a group of channels is one unit then. A
    single position holds all channels, which are normalised over those that are there, as in `layer_normalization`.
    """
    labels = state.input(node)
    stored = [weight(node, index)[0] for index in (1, 2)]
    if labels.shape[1] != 1:
        labels = state.collapse(labels, range(2, labels.ndim))
        line = state.line(labels, 1)
        for value in stored:
            state.tag(node, value, 0, Role.THROUGH, line)
    state.put(node, labels)


def layer_normalization(state: Propagation, node: ir.Node) -> None:
    """All axes from `axis` on are normalised together, over the channels that are there.

    The layer that gets fewer channels takes its mean and variance over these, as the masked network is made to.
    """
    labels = state.input(node)
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        raise NotUnderstood("its statistics are used elsewhere")
    for index in range(1, len(node.inputs)):
        if given(node, index) is None:
            continue
        value, shape = weight(node, index)
        for axis, length in enumerate(shape):
            if length > 1:
                state.tag_like(node, value, axis, labels, labels.ndim - len(shape) + axis)
    state.put(node, labels)


def group_normalization(state: Propagation, node: ir.Node) -> None:
    """A group of channels is normalised together, so it goes or stays as a whole.

    A single group is normalised over the channels that are there, as in `layer_normalization`.
    """
    labels = state.input(node)
    groups = integer(node, "num_groups", 1)
    stored = [weight(node, index)[0] for index in (1, 2)]
    line = state.line(labels, 1)
    if groups > 1:
        rows = line.reshape(groups, -1)
        state.ties.unite(rows, rows[:, :1])
    for value in stored:
        state.tag(node, value, 0, Role.THROUGH, line)
    state.put(node, labels)


def softmax(state: Propagation, node: ir.Node) -> None:
    """One axis from opset 13 on, all axes from `axis` on before."""
    labels = state.input(node)
    modern = opset(state.graph) >= 13
    first = axis_of(integer(node, "axis", -1 if modern else 1), labels.ndim)
    _mixes(state, node, [first] if modern else range(first, labels.ndim))


def over_what_stays(state: Propagation, node: ir.Node) -> None:
    """LpNormalization and MeanVarianceNormalization take their figures over the channels that are there."""
    state.put(node, state.input(node))


def cumulative(state: Propagation, node: ir.Node) -> None:
    """CumSum: every channel sees those before it."""
    labels = state.input(node)
    listed = integers(node, 1, "axis")
    _mixes(state, node, [axis_of(listed[0] if listed else 0, labels.ndim)])


def across_channels(state: Propagation, node: ir.Node) -> None:
    """LRN looks at neighbouring channels."""
    _mixes(state, node, [1])


def _mixes(state: Propagation, node: ir.Node, axes: Sequence[int]) -> None:
    labels = state.input(node)
    state.freeze_along(node, labels, axes, _MIXES)
    for index in range(len(node.outputs)):
        if index == 0:
            state.put(node, labels)
        elif node.outputs[index].uses() or node.outputs[index].is_graph_output():
            raise NotUnderstood("its statistics are used elsewhere")


def reduce(state: Propagation, node: ir.Node) -> None:
    """Axes are summed up, averaged or compared away."""
    labels = state.input(node)
    listed = integers(node, 1, "axes")
    if not listed:
        if integer(node, "noop_with_empty_axes", 0):
            state.put(node, labels)
            return
        listed = list(range(labels.ndim))
    axes = [axis_of(axis, labels.ndim) for axis in listed]
    if node.op_type in SUMS | MEANS:
        labels = _summed(state, labels, axes)
    _without(state, node, labels, axes)


def _summed(state: Propagation, labels: Labels, axes: Sequence[int]) -> Labels:
    """Labels that a sum or mean leaves: what goes along its axes is missing from it, as if it were zero.

    Positions inside of heads go from all heads alike; whole heads, which the axes may lie inside of, stay apart.
    """
    over = [axis for axis in labels.varying if axis in axes]
    others = [axis for axis in labels.varying if axis not in axes]
    if over and others and state.whole_heads:
        return state.collapse(labels, over)
    if over:
        state.collapse(labels, others)
        return fixed(labels.shape)
    return labels


def arg_reduce(state: Propagation, node: ir.Node) -> None:
    """ArgMax and ArgMin along one axis."""
    labels = state.input(node)
    _without(state, node, labels, [axis_of(integer(node, "axis", 0), labels.ndim)])


def _without(state: Propagation, node: ir.Node, labels: Labels, axes: Sequence[int]) -> None:
    state.freeze_along(node, labels, axes, _MIXES)
    keep = integer(node, "keepdims", 1)
    compact, shape = labels.compact, list(labels.shape)
    for axis in sorted(axes, reverse=True):
        compact = np.asarray(compact.take([0] if keep else 0, axis=axis))
        shape[axis : axis + 1] = [1] if keep else []
    state.put(node, Labels(tuple(shape), compact))


def shape_only(state: Propagation, node: ir.Node) -> None:
    """Shape and Size read lengths, not channels.

    What depends on a channel count was folded when the file was read, or keeps the count that it has now: surgery sees
    to that. An output of the network that tells a count has to stay what it is.
    """
    if node.outputs[0].is_graph_output():
        state.freeze(node, state.input(node), "an output of the network tells how many channels there are")
    state.put(node, fixed(state.output_shape(node)))
