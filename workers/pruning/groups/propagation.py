"""The state of label propagation: labels of every value, ties between labels, and which weights carry them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.shapes import Shapes, shapes_at_batch
from workers.pruning.graph.values import all_values
from workers.pruning.groups.labels import FIXED, UNKNOWN, Labels, NotUnderstood, fixed
from workers.pruning.groups.ties import Ties
from workers.pruning.types import Frozen, IntArray, Role

_Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One axis of a weight and the labels at its positions: those of `labels` along its axis `along`."""

    initializer: str
    axis: int
    node: str
    role: Role
    labels: Labels
    along: int


class Propagation:
    """What the rules of the operators read and write."""

    def __init__(self, graph: ir.Model, *, whole_heads: bool = False, shapes: Shapes | None = None) -> None:
        """With `whole_heads`, labels of products of activations change from head to head instead of inside of heads.

        `shapes` are those of the graph at batch 1, for a caller that has inferred them already.
        """
        self.graph = graph
        self.whole_heads = whole_heads
        self.heads: list[IntArray] = []  # labels that stand for whole heads somewhere, or lie across channels alike
        self.has_heads = False  # whether there may be any: a product of activations with leading axes, or such a layer
        self.labels: dict[ir.Value, Labels] = {}
        self.ties = Ties()
        self.even: list[IntArray] = []  # a row of labels for each group of a convolution, which lose equally many
        self.tags: list[Tag] = []
        self.frozen: dict[str, Frozen] = {}
        self.shapes = _shapes_at_one(graph, shapes)
        for value in graph.graph.inputs:
            if not value.is_initializer() and value.shape is not None:
                self.labels[value] = fixed(self.shape_of(value))

    def shape_of(self, value: ir.Value) -> tuple[int, ...]:
        """Shape at batch 1; axes that the file does not fix are UNKNOWN.

        Raises:
            NotUnderstood: not even the number of axes is known.
        """
        shape = self.shapes.get(value.name or "")
        if shape is None:
            raise NotUnderstood(f"the shape of {value.name!r} is unknown")
        return tuple(UNKNOWN if length is None else length for length in shape)

    def input(self, node: ir.Node, index: int = 0) -> Labels:
        """Labels of an input that is computed or fed.

        Raises:
            NotUnderstood: the input is absent, or nothing is known of its shape.
        """
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            raise NotUnderstood(f"its input {index} is missing")
        if value not in self.labels:
            raise NotUnderstood(f"the shape of its input {value.name!r} is unknown")
        return self.labels[value]

    def output_shape(self, node: ir.Node, index: int = 0) -> tuple[int, ...]:
        """Shape of an output at batch 1 as the file tells it."""
        return self.shape_of(node.outputs[index])

    def put(self, node: ir.Node, labels: Labels, index: int = 0) -> None:
        """Set the labels of an output."""
        if index < len(node.outputs):
            self.labels[node.outputs[index]] = labels

    def tag(self, node: ir.Node, value: ir.Value, axis: int, role: Role, line: IntArray) -> None:
        """Say which label every position along an axis of a weight carries."""
        labels = Labels((len(line),), np.asarray(line))
        names = {"initializer": value.name or "", "node": node.name or ""}
        self.tags.append(Tag(**names, axis=axis, role=role, labels=labels, along=0))

    def tag_like(self, node: ir.Node, value: ir.Value, axis: int, labels: Labels, position: int) -> None:
        """Say that an axis of a constant holds a number for each label of an activation along its axis `position`."""
        names = {"initializer": value.name or "", "node": node.name or ""}
        self.tags.append(Tag(**names, axis=axis, role=Role.THROUGH, labels=labels, along=position))

    def line(self, labels: Labels, axis: int) -> IntArray:
        """Labels along `axis`, after everything across it has been tied together.

        Raises:
            NotUnderstood: the length of the axis is unknown.
        """
        if labels.shape[axis] == UNKNOWN:
            raise NotUnderstood("the length of its channel axis is unknown")
        compact = self.collapse(labels, [other for other in range(labels.ndim) if other != axis]).compact
        return np.broadcast_to(compact.reshape(-1), (labels.shape[axis],))

    def collapse(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Tie all labels along `axes` together, so that they no longer change there."""
        compact = labels.compact
        for axis in axes:
            if compact.shape[axis] > 1:
                first = compact.take([0], axis=axis)
                self.ties.unite(compact, first)
                compact = first
        return Labels(labels.shape, compact)

    def freeze_along(self, node: ir.Node, labels: Labels, axes: Sequence[int], reason: str) -> None:
        """Freeze all labels of a tensor when they change along one of `axes`; `reason` says why they must stay."""
        if any(labels.compact.shape[axis] > 1 for axis in axes):
            self.freeze(node, labels, reason)

    def freeze(self, node: ir.Node, labels: Labels, reason: str) -> None:
        """Freeze all labels of a tensor and name the node."""
        if (labels.compact != FIXED).any():
            self.ties.freeze(labels.compact)
            self.name(node, reason)

    def name(self, node: ir.Node, reason: str) -> None:
        """Report a node whose channels stay; the first reason is kept."""
        name = node.name or ""
        self.frozen.setdefault(name, Frozen(node=name, op_type=node.op_type, reason=reason))


def _shapes_at_one(graph: ir.Model, inferred: Shapes | None) -> Shapes:
    """Shapes at batch 1; where the file forbids that batch, the shapes that hold for any.

    A length that is inferred at batch 1 no longer, because another one is open, is the one that the file has.
    """
    listed = {value.name or "": value.shape for value in all_values(graph) if value.shape is not None}
    known = {
        name: tuple(length if isinstance(length, int) else None for length in shape) for name, shape in listed.items()
    }
    try:
        found = shapes_at_batch(graph) if inferred is None else inferred
    except InvalidGraph:
        return known
    return {**known, **{name: _filled(shape, known.get(name)) for name, shape in found.items()}}


def _filled(shape: _Shape, known: _Shape | None) -> _Shape:
    if known is None or len(known) != len(shape):
        return shape
    return tuple(there if here is None else here for here, there in zip(shape, known, strict=True))


def fill_unknown(shape: Sequence[int], elements: int) -> tuple[int, ...]:
    """Compute the one unknown length of a shape from its number of elements; a shape without it is returned as is."""
    known = prod(length for length in shape if length != UNKNOWN)
    if list(shape).count(UNKNOWN) != 1 or known == 0 or elements < 0 or elements % known:
        return tuple(shape)
    return tuple(elements // known if length == UNKNOWN else length for length in shape)
