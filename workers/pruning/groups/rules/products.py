"""Conv, ConvTranspose, Gemm, MatMul: where channels are made and read."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from workers.pruning.groups.labels import FIXED, UNKNOWN, Labels, NotUnderstood, along, expand, fixed, transpose
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import array, given, integer, is_weight, weight
from workers.pruning.groups.rules.elementwise import join
from workers.pruning.types import IntArray, Role

_LIMIT = 1 << 24  # channels times groups; above it the same positions go in every group
_MATRIX = 2  # axes of a matrix; axes in front of them are heads, or samples


def conv(state: Propagation, node: ir.Node) -> None:
    """Filters (out, in / groups, ...): every filter makes a channel and reads the input channels of its group."""
    value, shape = weight(node, 1)
    groups = integer(node, "group", 1)
    source = _input_channels(state, node, shape[1] * groups)
    made = _Filters(
        state=state,
        node=node,
        value=value,
        groups=groups,
        inputs=shape[1],
        outputs=shape[0] // groups,
        transposed=False,
    ).tagged(source)
    _finish(state, node, made)


def conv_transpose(state: Propagation, node: ir.Node) -> None:
    """Filters (in, out / groups, ...)."""
    value, shape = weight(node, 1)
    groups = integer(node, "group", 1)
    source = _input_channels(state, node, shape[0])
    made = _Filters(
        state=state, node=node, value=value, groups=groups, inputs=shape[0] // groups, outputs=shape[1], transposed=True
    ).tagged(source)
    _finish(state, node, made)


def _input_channels(state: Propagation, node: ir.Node, count: int) -> IntArray:
    labels = state.input(node)
    if labels.shape[1] == UNKNOWN and labels.compact.size == 1:
        return np.full(count, labels.compact.item(), np.int64)
    line = state.line(labels, 1)
    if len(line) != count:
        raise NotUnderstood(f"it reads {count} channels of {len(line)}")
    return line


def _finish(state: Propagation, node: ir.Node, made: IntArray) -> None:
    bias = given(node, 2)
    if bias is not None:
        bias, _ = weight(node, 2)
        state.tag(node, bias, 0, Role.THROUGH, made)
    source = state.input(node)
    try:
        shape = state.output_shape(node)
    except NotUnderstood:
        shape = (source.shape[0], len(made), *(UNKNOWN for _ in source.shape[2:]))
    state.put(node, along(made, 1, shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filters:
    """The filters of a convolution, `inputs` and `outputs` counted per group."""

    state: Propagation
    node: ir.Node
    value: ir.Value
    groups: int
    inputs: int
    outputs: int
    transposed: bool

    def tagged(self, source: IntArray) -> IntArray:
        """Tag the filters and give the labels of the output channels."""
        if self.groups == 1:
            made = self.state.ties.fresh(self.outputs)
            self._tag(self._in_axis, Role.CONSUME, source)
            self._tag(self._out_axis, Role.PRODUCE, made)
            return made
        whole = self.inputs == 1 or self.groups >= max(self.inputs, self.outputs)
        if whole and (source != FIXED).any():
            return self._by_whole_groups(source)
        return self._inside_groups(source)

    @property
    def _in_axis(self) -> int:
        return 0 if self.transposed else 1

    @property
    def _out_axis(self) -> int:
        return 1 if self.transposed else 0

    def _tag(self, axis: int, role: Role, line: IntArray) -> None:
        self.state.tag(self.node, self.value, axis, role, line)

    def _by_whole_groups(self, source: IntArray) -> IntArray:
        """Each group of the convolution goes or stays as a whole, as in a depthwise convolution."""
        rows = source.reshape(self.groups, self.inputs)
        self.state.ties.unite(rows, rows[:, :1])
        made = np.repeat(rows[:, 0], self.outputs)
        self._tag(0, Role.THROUGH, source if self.transposed else made)
        return made

    def _inside_groups(self, source: IntArray) -> IntArray:
        """The number of groups stays; the same positions are read in every group, and equally many go from each.

        Filters list what they read once for all groups, and what they make one by one. Those of a transposed
        convolution do it the other way round; there the same positions go on both sides.
        """
        read = source.reshape(self.groups, self.inputs)
        made = self.state.ties.fresh(self.groups * self.outputs).reshape(self.groups, self.outputs)
        self.state.ties.unite(read, read[:1])
        if self.transposed or self.outputs == 1 or made.size * self.groups > _LIMIT:
            self.state.ties.unite(made, made[:1])
        else:
            self.state.even.append(made)
        self._tag(self._in_axis, Role.CONSUME, read.reshape(-1) if self.transposed else read[0])
        self._tag(self._out_axis, Role.PRODUCE, made[0] if self.transposed else made.reshape(-1))
        return made.reshape(-1)


def gemm(state: Propagation, node: ir.Node) -> None:
    """A x B + C, either matrix possibly transposed; either may be a weight."""
    swap_a, swap_b = integer(node, "transA", 0) == 1, integer(node, "transB", 0) == 1
    if is_weight(node, 1):
        made = _with_weight(
            state, node, state.input(node, 0), position=1, source_axis=0 if swap_a else 1, in_axis=1 if swap_b else 0
        )
    elif is_weight(node, 0):
        made = _with_weight(
            state, node, state.input(node, 1), position=0, source_axis=1 if swap_b else 0, in_axis=0 if swap_a else 1
        )
    else:
        left, right = state.input(node, 0), state.input(node, 1)
        made = contraction(
            state,
            transpose(left, (1, 0)) if swap_a else left,
            transpose(right, (1, 0)) if swap_b else right,
        )
    state.put(node, _with_addend(state, node, made))


def matmul(state: Propagation, node: ir.Node) -> None:
    """Product over the last axis of the left and the last but one of the right operand."""
    if is_weight(node, 1):
        _, shape = weight(node, 1)
        source = state.input(node, 0)
        made = _with_weight(
            state, node, source, position=1, source_axis=source.ndim - 1, in_axis=max(len(shape) - 2, 0)
        )
    elif is_weight(node, 0):
        _, shape = weight(node, 0)
        source = state.input(node, 1)
        made = _with_weight(
            state, node, source, position=0, source_axis=max(source.ndim - 2, 0), in_axis=len(shape) - 1
        )
    else:
        made = contraction(state, state.input(node, 0), state.input(node, 1))
    state.put(node, made)


def _with_weight(
    state: Propagation, node: ir.Node, source: Labels, *, position: int, source_axis: int, in_axis: int
) -> Labels:
    """Labels of a product with the weight at input `position`; its units lie on the output's last axis or before it."""
    value, shape = weight(node, position)
    if len(shape) < 2 or source.ndim < 2:
        raise NotUnderstood("it multiplies by a vector")
    out_axis = 2 * len(shape) - 3 - in_axis
    across = node.op_type == "MatMul" and len(shape) == _MATRIX and _lies_across(source, source_axis)
    state.has_heads |= across
    if across and not state.whole_heads:
        return Labels(state.output_shape(node), source.compact)
    state.tag(node, value, in_axis, Role.CONSUME, state.line(source, source_axis))
    made = state.ties.fresh(shape[out_axis])
    state.heads += [made] if across else []
    state.tag(node, value, out_axis, Role.PRODUCE, made)
    return along(made, len(state.output_shape(node)) - 2 + position, state.output_shape(node))


def _lies_across(source: Labels, source_axis: int) -> bool:
    """Whether a layer mixes positions of its input and lets the channels of each through, see `heads`."""
    return bool(source.varying) and source_axis not in source.varying


def _with_addend(state: Propagation, node: ir.Node, made: Labels) -> Labels:
    if given(node, 2) is None:
        return made
    constant = array(node, 2)
    if constant is None:
        return join(state, made, state.input(node, 2))
    value, shape = weight(node, 2)
    for axis, length in enumerate(shape):
        if length > 1:
            state.tag_like(node, value, axis, made, made.ndim - len(shape) + axis)
    return made


def contraction(state: Propagation, left: Labels, right: Labels) -> Labels:
    """Labels of the product of two activations.

    Along the contracted axis the operands are tied. Heads and other leading axes share the labels of the last two axes:
    one label is one position of the head dimension in all heads.

    Raises:
        NotUnderstood: an operand is a vector, or rows and columns could both be removed, which one label cannot say.
    """
    if left.ndim < 2 or right.ndim < 2:
        raise NotUnderstood("it multiplies by a vector")
    ndim = max(left.ndim, right.ndim)
    state.has_heads |= ndim > _MATRIX
    if state.whole_heads:
        return _by_heads(state, _raised(left, ndim), _raised(right, ndim))
    left, right = _settled(state, _raised(left, ndim), ndim - 1), _settled(state, _raised(right, ndim), ndim - 2)
    _tie_contracted(state, left, right, ndim)
    parts = [_kept(left, ndim - 2, ndim - 1), _kept(right, ndim - 1, ndim - 2)]
    if sum(bool(part.varying) for part in parts) == 2 and not _over_heads(parts, ndim):
        raise NotUnderstood("it multiplies two tensors whose rows and columns could both be removed")
    heads = zip(left.shape[:-2], right.shape[:-2], strict=True)
    shape = (*(max(pair) if UNKNOWN not in pair else UNKNOWN for pair in heads), left.shape[-2], right.shape[-1])
    return Labels(shape, join(state, *parts).compact)


def _by_heads(state: Propagation, left: Labels, right: Labels) -> Labels:
    """Labels that change along leading axes only: everything inside a head is tied, in both operands alike."""
    last = left.ndim - 2
    heads = zip(left.shape[:last], right.shape[:last], strict=True)
    shape = (*(max(pair) if UNKNOWN not in pair else UNKNOWN for pair in heads), left.shape[-2], right.shape[-1])
    left, right = (state.collapse(labels, [last, last + 1]) for labels in (left, right))
    state.heads += [labels.compact for labels in (left, right) if labels.varying]
    return Labels(shape, join(state, _without_matrix(left), _without_matrix(right)).compact)


def _without_matrix(labels: Labels) -> Labels:
    return Labels((*labels.shape[:-2], 1, 1), labels.compact)


def _raised(labels: Labels, ndim: int) -> Labels:
    return expand(labels, (1,) * (ndim - labels.ndim) + labels.shape)


def _settled(state: Propagation, labels: Labels, contracted: int) -> Labels:
    """Leave one changing axis: the contracted one before the other of the last two, these before leading ones."""
    last = [axis for axis in labels.varying if axis >= labels.ndim - 2]
    if not last:
        return labels
    keep = contracted if contracted in last else last[0]
    return state.collapse(labels, [axis for axis in range(labels.ndim) if axis != keep])


def _tie_contracted(state: Propagation, left: Labels, right: Labels, ndim: int) -> None:
    if ndim - 1 not in left.varying and ndim - 2 not in right.varying:
        return
    first = state.line(left, ndim - 1) if ndim - 1 in left.varying else np.full(1, FIXED, np.int64)
    second = state.line(right, ndim - 2) if ndim - 2 in right.varying else np.full(1, FIXED, np.int64)
    state.ties.unite(first, second)


def _kept(labels: Labels, own: int, contracted: int) -> Labels:
    """What an operand passes on: its own free axis or leading axes, never the contracted axis."""
    shape = list(labels.shape)
    shape[contracted] = 1
    if contracted in labels.varying:
        return fixed([1] * labels.ndim)
    if own in labels.varying:
        shape[: labels.ndim - 2] = [1] * (labels.ndim - 2)
        return Labels(tuple(shape), labels.compact)
    shape[own] = 1
    return Labels(tuple(shape), labels.compact if labels.varying else fixed(shape).compact)


def _over_heads(parts: list[Labels], ndim: int) -> bool:
    return all(axis < ndim - 2 for part in parts for axis in part.varying)
