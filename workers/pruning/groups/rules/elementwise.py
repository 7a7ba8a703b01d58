"""Operators that treat every element alike, alone or with its partner in another tensor."""

import numpy as np
import onnx_ir as ir

from workers.pruning.groups.labels import UNKNOWN, Labels, NotUnderstood, expand
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import is_weight, weight


def unary(state: Propagation, node: ir.Node) -> None:
    """Channels stay where they are; further inputs are settings (bounds of Clip, ratio of Dropout)."""
    labels = state.input(node)
    for index, output in enumerate(node.outputs):
        if index == 0 or output.uses() or output.is_graph_output():
            state.put(node, labels, index)


def nary(state: Propagation, node: ir.Node) -> None:
    """Tie partners of computed operands; constants that hold a number per channel are tagged."""
    computed = [
        state.input(node, index)
        for index, value in enumerate(node.inputs)
        if value is not None and not is_weight(node, index)
    ]
    if not computed:
        raise NotUnderstood("it has only constant inputs")
    labels = join(state, *computed)
    constants = [weight(node, index) for index in range(len(node.inputs)) if is_weight(node, index)]
    labels = _grown(labels, [shape for _, shape in constants])
    for value, shape in constants:
        for axis, length in enumerate(shape):
            if length > 1:
                state.tag_like(node, value, axis, labels, labels.ndim - len(shape) + axis)
    state.put(node, labels)


def _grown(labels: Labels, shapes: list[tuple[int, ...]]) -> Labels:
    """Labels after broadcasting against constants."""
    ndim = max([labels.ndim, *(len(shape) for shape in shapes)])
    lengths = [1] * (ndim - labels.ndim) + list(labels.shape)
    for shape in shapes:
        for axis, length in enumerate(shape, start=ndim - len(shape)):
            lengths[axis] = length if lengths[axis] == 1 else lengths[axis]
    return expand(labels, lengths)


def join(state: Propagation, *operands: Labels) -> Labels:
    """Tie the elements of broadcast operands that meet, and give the labels of the result.

    An operand that is repeated along an axis says nothing about that axis: a spatial mask of one channel does not tie
    the channels that it multiplies.

    Raises:
        NotUnderstood: the shapes do not broadcast.
    """
    result = operands[0]
    for operand in operands[1:]:
        result = _join(state, result, operand)
    return result


def _join(state: Propagation, left: Labels, right: Labels) -> Labels:
    shape = _broadcast(left, right)
    left, right = _raised(left, len(shape)), _raised(right, len(shape))
    if _silent(state, right, left):
        return Labels(shape, left.compact)
    if _silent(state, left, right):
        return Labels(shape, right.compact)
    state.ties.unite(left.compact, right.compact)
    lengths = np.broadcast_shapes(left.compact.shape, right.compact.shape)
    return Labels(shape, np.broadcast_to(left.compact, lengths))


def _silent(state: Propagation, labels: Labels, other: Labels) -> bool:
    """Whether `labels` are uniform and repeated along every axis on which `other` changes, ties that it has counted."""
    if not other.varying or labels.varying:
        return False
    met = [axis for axis in other.varying if labels.shape[axis] != 1]
    if not met or len(met) == len(other.varying):
        return not met
    classes = state.ties.roots()[other.compact]
    return all(bool((classes == classes.take([0], axis=axis)).all()) for axis in met)


def _raised(labels: Labels, ndim: int) -> Labels:
    return expand(labels, (1,) * (ndim - labels.ndim) + labels.shape)


def _broadcast(left: Labels, right: Labels) -> tuple[int, ...]:
    ndim = max(left.ndim, right.ndim)
    return tuple(map(_longer, _raised(left, ndim).shape, _raised(right, ndim).shape))


def _longer(left: int, right: int) -> int:
    if right in {left, 1}:
        return left
    if left == 1:
        return right
    if UNKNOWN in {left, right}:
        return max(left, right)
    raise NotUnderstood(f"lengths {left} and {right} do not broadcast")
