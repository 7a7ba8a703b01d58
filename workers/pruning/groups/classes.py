"""Labels to classes: ties resolved until every class is a whole slice of one axis wherever it occurs."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.values import constant
from workers.pruning.groups.even import tie_uneven
from workers.pruning.groups.labels import FIXED, Labels
from workers.pruning.groups.propagation import Propagation
from workers.pruning.types import IntArray


@dataclass(frozen=True, slots=True)
class Line:
    """The one axis of a tensor along which its classes change, and the labels there."""

    axis: int
    labels: IntArray


def settle(state: Propagation) -> IntArray:
    """Tie labels until no tensor holds classes that are not whole slices of one axis; give the class of every label.

    A tensor whose classes change along several axes keeps the axis with the most different slices; across the others
    its labels are tied. Classes that would leave the groups of a convolution unequal are tied as well, see `even`.
    Classes that fill a whole tensor are frozen, since a tensor cannot be emptied.
    """
    several = [labels for labels in _distinct(state) if len(labels.varying) > 1]
    roots = state.ties.roots()
    while tie_uneven(state, roots) or _tie_across(state, several, roots):
        roots = state.ties.roots()
    for labels in _distinct(state):
        classes = roots[labels.compact]
        first = classes.flat[0] if classes.size else FIXED
        if first != FIXED and (classes == first).all():
            state.ties.freeze(np.full(1, first, np.int64))
    return state.ties.roots()


def _distinct(state: Propagation) -> list[Labels]:
    seen = {id(labels.compact): labels for labels in state.labels.values()}
    seen.update((id(tag.labels.compact), tag.labels) for tag in state.tags)
    return list(seen.values())


def _tie_across(state: Propagation, several: list[Labels], roots: IntArray) -> bool:
    changed = False
    for labels in several:
        classes = roots[labels.compact]
        if (classes == FIXED).all() or owner(labels, roots) is not None:
            continue
        counts = {axis: len(np.unique(_rows(classes, axis), axis=0)) for axis in labels.varying}
        best = max(counts, key=lambda axis: (counts[axis], axis))
        rows = _rows(classes, best)
        changed |= state.ties.unite(rows, rows[:, :1])
    return changed


def _rows(classes: IntArray, axis: int) -> IntArray:
    return np.moveaxis(classes, axis, 0).reshape(classes.shape[axis], -1)


def owner(labels: Labels, roots: IntArray) -> Line | None:
    """The axis along which classes change, or None where nothing may be removed or the classes are no whole slices."""
    classes = roots[labels.compact]
    if (classes == FIXED).all():
        return None
    for axis in labels.varying:
        rows = _rows(classes, axis)
        if (rows == rows[:, :1]).all():
            return Line(axis, np.ascontiguousarray(rows[:, 0]))
    return None


def on_open_axis(value: ir.Value, line: Line) -> bool:
    """Whether the axis has no fixed length in the file, so that a new length could not be written into it.

    Nothing has to be written where channels lie beside samples on an axis that a Reshape leaves to be computed and
    that only Transposes and Reshapes read, as when patches are unfolded.
    """
    if value.shape is not None and isinstance(value.shape[line.axis], int):
        return False
    producer = value.producer()
    if producer is None or value.shape is None or value.is_graph_output():
        return True
    made = producer.op_type == "Transpose" or _entry(producer, line.axis) == _COMPUTED
    read = all(use.node.op_type == "Transpose" or _entry(use.node, line.axis) not in {None, 0} for use in value.uses())
    return not (made and read)


def _entry(node: ir.Node, axis: int) -> int | None:
    """What the constant target of a Reshape says of an axis; 1 behind its end, None for anything else."""
    target = constant(node.inputs[1]) if node.op_type == "Reshape" and len(node.inputs) > 1 else None
    if target is None:
        return None
    return int(target[axis]) if axis < len(target) else 1


_COMPUTED: Final = -1
