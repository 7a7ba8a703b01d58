"""One integer label per element of a tensor, stored only along the axes on which it changes.

Elements with the same label live and die together; label `FIXED` marks elements that always stay. Data movement in the
network is the same movement of the labels. A 64-channel activation of 224 x 224 keeps 64 labels, not 3 million.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from workers.pruning.types import IntArray

FIXED: Final = 0
UNKNOWN: Final = -1  # an axis whose length the file does not tell; labels are constant along it


class NotUnderstood(Exception):
    """A node whose effect on channels cannot be followed: what it touches is frozen and the reason reported."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a tensor of `shape` at batch 1; `compact` has length 1 on every axis along which they do not change."""

    shape: tuple[int, ...]
    compact: IntArray

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def varying(self) -> tuple[int, ...]:
        """Axes along which labels change."""
        return tuple(axis for axis, length in enumerate(self.compact.shape) if length > 1)


def fixed(shape: Sequence[int]) -> Labels:
    """Labels of a tensor from which nothing may be removed."""
    return Labels(tuple(shape), np.full((1,) * len(shape), FIXED, np.int64))


def along(line: IntArray, axis: int, shape: Sequence[int]) -> Labels:
    """Labels that change along one axis only; `line` gives them there."""
    lengths = [1] * len(shape)
    lengths[axis] = len(line)
    full = list(shape)
    full[axis] = len(line)
    return Labels(tuple(full), _squash(line.reshape(lengths)))


def _squash(compact: IntArray) -> IntArray:
    """Drop repetition: keep one position of every axis along which labels do not change."""
    for axis in range(compact.ndim):
        if compact.shape[axis] > 1:
            first = compact.take([0], axis=axis)
            if (compact == first).all():
                compact = first
    return compact


def lengthened(labels: Labels, axis: int) -> IntArray:
    """The compact array with `axis` written out in full.

    Raises:
        NotUnderstood: the length of the axis is unknown.
    """
    if labels.shape[axis] == UNKNOWN:
        raise NotUnderstood("the length of an axis that it rearranges is unknown")
    lengths = list(labels.compact.shape)
    lengths[axis] = labels.shape[axis]
    return np.broadcast_to(labels.compact, lengths)


def transpose(labels: Labels, order: Sequence[int]) -> Labels:
    """Reorder the axes."""
    return Labels(tuple(labels.shape[axis] for axis in order), labels.compact.transpose(order))


def take(labels: Labels, axis: int, positions: IntArray) -> Labels:
    """Pick positions along one axis; positions in several axes replace the axis by them, a scalar drops it."""
    shape = labels.shape[:axis] + positions.shape + labels.shape[axis + 1 :]
    if labels.compact.shape[axis] == 1:
        lengths = labels.compact.shape
        compact = labels.compact.reshape(lengths[:axis] + (1,) * positions.ndim + lengths[axis + 1 :])
    else:
        compact = _squash(np.asarray(labels.compact.take(positions, axis=axis)))
    return Labels(shape, compact)


def expand(labels: Labels, shape: Sequence[int]) -> Labels:
    """Repeat axes of length 1 (and missing leading axes) up to `shape`."""
    compact = labels.compact.reshape((1,) * (len(shape) - labels.ndim) + labels.compact.shape)
    return Labels(tuple(shape), compact)


def concatenate(parts: Sequence[Labels], axis: int) -> Labels:
    """Join along one axis."""
    if all(axis not in part.varying for part in parts) and _same(parts):
        length = UNKNOWN if any(part.shape[axis] == UNKNOWN for part in parts) else sum(p.shape[axis] for p in parts)
        first = parts[0]
        return Labels((*first.shape[:axis], length, *first.shape[axis + 1 :]), first.compact)
    arrays = [lengthened(part, axis) for part in parts]
    lengths = [max(array.shape[i] for array in arrays) for i in range(parts[0].ndim)]
    grown = [np.broadcast_to(a, [*lengths[:axis], a.shape[axis], *lengths[axis + 1 :]]) for a in arrays]
    compact = np.concatenate(grown, axis=axis)
    shape = (*parts[0].shape[:axis], compact.shape[axis], *parts[0].shape[axis + 1 :])
    return Labels(shape, _squash(compact))


def _same(parts: Sequence[Labels]) -> bool:
    first = parts[0].compact
    return all(part.compact.shape == first.shape and bool((part.compact == first).all()) for part in parts[1:])


def reshape(labels: Labels, shape: Sequence[int]) -> Labels:
    """Same elements in the same order in another shape; only the axes that take part are written out.

    Raises:
        NotUnderstood: lengths are unknown, or the two shapes do not hold the same number of elements.
    """
    lengths: list[int] = []
    result: list[int] = []
    for old, new in _blocks(labels.shape, shape):
        changes = any(labels.compact.shape[axis] > 1 for axis in old)
        lengths += [labels.shape[axis] if changes else 1 for axis in old]
        result += [shape[axis] if changes else 1 for axis in new]
    if UNKNOWN in lengths or UNKNOWN in result:
        raise NotUnderstood("it reshapes an axis of unknown length")
    return Labels(tuple(shape), _squash(np.broadcast_to(labels.compact, lengths).reshape(result)))


def reshape_size(labels: Labels, shape: Sequence[int]) -> int:
    """Number of labels that `reshape` writes out before it drops repetition."""
    size = 1
    for old, _ in _blocks(labels.shape, shape):
        if any(labels.compact.shape[axis] > 1 for axis in old):
            size *= prod(labels.shape[axis] for axis in old)
    return size


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    """Split two shapes into the shortest runs of axes that hold the same number of elements."""
    if 0 in old or 0 in new:
        raise NotUnderstood("it reshapes a tensor without elements")
    blocks: list[tuple[range, range]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start = (i, j)
        if i < len(old) and j < len(new) and old[i] == new[j]:
            i, j = i + 1, j + 1
        elif i < len(old) and old[i] == 1:
            i += 1
        elif j < len(new) and new[j] == 1:
            j += 1
        else:
            i, j = _matched(old, new, start)
        blocks.append((range(start[0], i), range(start[1], j)))
    return blocks


def _matched(old: Sequence[int], new: Sequence[int], start: tuple[int, int]) -> tuple[int, int]:
    """End of the shortest pair of runs from `start` with the same number of elements."""
    i, j = start
    left = right = 1
    while (i, j) == start or left != right:
        if j >= len(new) or (i < len(old) and left <= right):
            if i >= len(old):
                raise NotUnderstood("its input and output hold different numbers of elements")
            left, i = left * old[i], i + 1
        else:
            right, j = right * new[j], j + 1
        if left < 0 or right < 0:
            raise NotUnderstood("it reshapes an axis of unknown length")
    return i, j
