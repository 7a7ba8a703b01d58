"""Operators that move elements without changing them: the same movement is made on the labels."""

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.tables import is_turned_table
from workers.pruning.groups.labels import (
    UNKNOWN,
    Labels,
    NotUnderstood,
    along,
    concatenate,
    expand,
    fixed,
    lengthened,
    reshape,
    reshape_size,
    take,
    transpose,
)
from workers.pruning.groups.propagation import Propagation, fill_unknown
from workers.pruning.groups.rules.arguments import array, axis_of, integer, integers, is_weight, text, weight
from workers.pruning.types import IntArray, Role

_LIMIT = 1 << 20  # labels of one tensor; above it all changing axes but the longest are tied together


def reshaped(state: Propagation, node: ir.Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements in the same order."""
    labels = operand(state, node, 0)
    target = state.output_shape(node)
    if UNKNOWN not in labels.shape:
        target = fill_unknown(target, int(np.prod(labels.shape)))
    if len(labels.varying) > 1 and reshape_size(labels, target) > _LIMIT:
        longest = max(labels.varying, key=lambda axis: labels.compact.shape[axis])
        labels = state.collapse(labels, [axis for axis in labels.varying if axis != longest])
    state.put(node, reshape(labels, target) if labels.varying else _uniform(labels, target))


def _uniform(labels: Labels, shape: tuple[int, ...]) -> Labels:
    return Labels(shape, labels.compact.reshape((1,) * len(shape)))


def transposed(state: Propagation, node: ir.Node) -> None:
    """Transpose."""
    labels = _table(state, node) if is_turned_table(node) else operand(state, node, 0)
    listed = node.attributes.get("perm")
    order = list(range(labels.ndim))[::-1] if listed is None else [int(axis) for axis in listed.as_ints()]
    state.put(node, transpose(labels, order))


def _table(state: Propagation, node: ir.Node) -> Labels:
    """Labels of a table on its way to the last layer: one for each column, since any row may be picked elsewhere."""
    value, shape = weight(node, 0)
    made = state.ties.fresh(shape[1])
    state.tag(node, value, 1, Role.THROUGH, made)
    return along(made, 1, shape)


def operand(state: Propagation, node: ir.Node, index: int) -> Labels:
    """Labels of an input; a constant that moves along with activations gets labels of its own."""
    if not is_weight(node, index):
        return state.input(node, index)
    value, shape = weight(node, index)
    size = int(np.prod(shape))
    if size > _LIMIT or size == 0:
        return fixed(shape)
    labels = Labels(shape, state.ties.fresh(size).reshape(shape))
    for axis, length in enumerate(shape):
        if length > 1:
            state.tag_like(node, value, axis, labels, axis)
    return labels


def concat(state: Propagation, node: ir.Node) -> None:
    """Concat: channels keep their labels at an offset."""
    parts = [operand(state, node, index) for index in range(len(node.inputs))]
    axis = axis_of(integer(node, "axis", 1), parts[0].ndim)
    if any(part.shape[axis] == UNKNOWN for part in parts) and not any(axis in part.varying for part in parts):
        for part in parts[1:]:
            state.ties.unite(parts[0].compact, part.compact)
        widest = max(parts, key=lambda part: part.compact.size)
        parts = [Labels(part.shape, widest.compact) for part in parts]
    copies = _copies(state, parts[0], axis, (len(parts),)) if len(set(node.inputs)) == 1 else None
    state.put(node, concatenate(parts, axis) if copies is None else copies)


def split(state: Propagation, node: ir.Node) -> None:
    """Split: every output takes its run of channels."""
    labels = operand(state, node, 0)
    axis = axis_of(integer(node, "axis", 0), labels.ndim)
    start = 0
    for index in range(len(node.outputs)):
        shape = state.output_shape(node, index)
        if axis in labels.varying:
            if shape[axis] == UNKNOWN:
                raise NotUnderstood("the sizes of its parts are unknown")
            part = take(labels, axis, np.arange(start, start + shape[axis]))
            start += shape[axis]
        else:
            part = Labels(shape, labels.compact)
        state.put(node, part, index)


def sliced(state: Propagation, node: ir.Node) -> None:
    """Slice: a run of channels, or any run of other axes."""
    labels = operand(state, node, 0)
    shape = state.output_shape(node)
    if any(node.inputs[1:]) and not all(is_weight(node, i) for i, v in enumerate(node.inputs) if i and v is not None):
        if any(labels.shape[axis] == UNKNOWN or labels.shape[axis] != shape[axis] for axis in labels.varying):
            raise NotUnderstood("which channels it takes is known at run time only")
        state.put(node, Labels(shape, labels.compact))
        return
    for axis, run in _runs(node, labels).items():
        labels = take(labels, axis, np.arange(labels.shape[axis])[run])
    state.put(node, Labels(shape, labels.compact))


def _runs(node: ir.Node, labels: Labels) -> dict[int, slice]:
    """The part that Slice takes of every axis along which labels change."""
    starts, ends = integers(node, 1, "starts") or [], integers(node, 2, "ends") or []
    axes = integers(node, 3, "axes") or list(range(len(starts)))
    steps = integers(node, 4, "steps") or [1] * len(starts)
    runs = {}
    for start, end, position, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(position, labels.ndim)
        if axis in labels.varying:
            if step != 1:
                raise NotUnderstood("it takes channels in steps, or backwards")
            runs[axis] = slice(start, end)
    return runs


def gather(state: Propagation, node: ir.Node) -> None:
    """Gather: channels picked by constant indices; rows of an embedding table picked by computed ones."""
    if is_weight(node, 0):
        _embedding(state, node)
        return
    labels = state.input(node)
    axis = axis_of(integer(node, "axis", 0), labels.ndim)
    indices = array(node, 1)
    if indices is None:
        if axis in labels.varying:
            raise NotUnderstood("which channels it picks is known at run time only")
        indices = np.zeros(state.input(node, 1).shape, np.int64)
    length = labels.shape[axis]
    positions: IntArray = np.asarray(indices, np.int64)
    if axis in labels.varying:
        positions = np.where(positions < 0, positions + length, positions)
    copies = _copies(state, labels, axis, positions.shape)
    state.put(node, take(labels, axis, positions) if copies is None else copies)


def _embedding(state: Propagation, node: ir.Node) -> None:
    value, shape = weight(node, 0)
    if integer(node, "axis", 0) != 0 or len(shape) != 2:
        raise NotUnderstood("it picks from a constant along an axis other than the first")
    made = state.ties.fresh(shape[1])
    state.tag(node, value, 1, Role.PRODUCE, made)
    target = state.output_shape(node)
    state.put(node, along(made, len(target) - 1, target))


def pad(state: Propagation, node: ir.Node) -> None:
    """Pad: channels that are added hold a constant; each gets a label of its own."""
    labels = state.input(node)
    pads = integers(node, 1, "pads") or []
    axes = integers(node, 3, "axes") or list(range(labels.ndim))
    for position, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        axis = axis_of(position, labels.ndim)
        if not before and not after:
            continue
        if axis in labels.varying or (axis == 1 and not labels.varying):
            if text(node, "mode", "constant") != "constant" or min(before, after) < 0:
                raise NotUnderstood("it pads channels with copies, or crops them")
            labels = _padded(state, labels, axis, before=before, after=after)
        else:
            labels = _longer(labels, axis, before + after)
    state.put(node, labels)


def _padded(state: Propagation, labels: Labels, axis: int, *, before: int, after: int) -> Labels:
    lengths = list(labels.shape)
    parts = [lengthened(labels, axis)]
    for count, position in ((before, 0), (after, 2)):
        lengths[axis] = count
        filler = along(state.ties.fresh(count), axis, lengths) if count else None
        parts.insert(position, filler.compact) if filler is not None else None
    grown = np.broadcast_shapes(*(part.take([0], axis=axis).shape for part in parts))
    joined = [np.broadcast_to(p, [*grown[:axis], p.shape[axis], *grown[axis + 1 :]]) for p in parts]
    compact = np.concatenate(joined, axis=axis)
    lengths[axis] = compact.shape[axis]
    return Labels(tuple(lengths), compact)


def _longer(labels: Labels, axis: int, added: int) -> Labels:
    lengths = list(labels.shape)
    lengths[axis] = UNKNOWN if lengths[axis] == UNKNOWN else lengths[axis] + added
    return Labels(tuple(lengths), labels.compact)


def expanded(state: Propagation, node: ir.Node) -> None:
    """Expand: axes of length 1 are repeated."""
    labels = operand(state, node, 0)
    shape = list(state.output_shape(node))
    for axis in labels.varying:
        shape[axis - labels.ndim] = labels.shape[axis]
    pairs = zip(labels.shape, shape[-labels.ndim :], strict=True)
    repeated = [axis for axis, (old, new) in enumerate(pairs) if new not in {old, UNKNOWN}]
    alike = len(shape) == labels.ndim and len(repeated) == 1
    copies = _copies(state, labels, repeated[0], (shape[repeated[0]],)) if alike else None
    state.put(node, expand(labels, shape) if copies is None else copies)


def tile(state: Propagation, node: ir.Node) -> None:
    """Tile: whole axes are repeated one after the other."""
    labels = operand(state, node, 0)
    repeats = integers(node, 1, "repeats")
    if repeats is None:
        raise NotUnderstood("its repeats are missing")
    repeated = [axis for axis, count in enumerate(repeats) if count != 1]
    copies = _copies(state, labels, repeated[0], (repeats[repeated[0]],)) if len(repeated) == 1 else None
    if copies is not None:
        state.put(node, copies)
        return
    for axis in labels.varying:
        if repeats[axis] != 1:
            labels = take(labels, axis, np.tile(np.arange(labels.shape[axis]), repeats[axis]))
    state.put(node, Labels(state.output_shape(node), labels.compact))


def _copies(state: Propagation, labels: Labels, axis: int, counts: tuple[int, ...]) -> Labels | None:
    """Labels of copies of the one head of keys or values that serves all heads of queries, None for anything else.

    Each copy goes with the head that reads it; the head that they are copies of stays.
    """
    inside = labels.ndim - 2
    if not state.whole_heads or axis >= inside or labels.shape[axis] != 1 or any(i < inside for i in labels.varying):
        return None
    if len(counts) != 1 or counts[0] == UNKNOWN or counts[0] <= 1:
        return None
    state.ties.freeze(labels.compact)
    return along(state.ties.fresh(counts[0]), axis, labels.shape)
