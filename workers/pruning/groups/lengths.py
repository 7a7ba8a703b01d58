"""How long every axis of every tensor is for any cut, as a sum of products of kept widths."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import UnknownShape
from workers.pruning.graph.shapes import Shapes, nominal_shapes
from workers.pruning.types import FROZEN, Grouping, IntArray, Length

Axis = tuple[tuple[Length, ...], ...]  # a sum of products; more than one length only where whole heads cross positions
Axes = tuple[Axis, ...]
ONE: Final[Axis] = ((Length(fixed=1),),)


class Lengths:
    """Length of every axis of every tensor as a function of the kept widths."""

    def __init__(self, graph: ir.Model, grouping: Grouping, shapes: Shapes | None = None) -> None:
        """`shapes` are the nominal ones of the graph, for a caller that knows them already."""
        self._shapes = nominal_shapes(graph) if shapes is None else shapes
        self._starts = np.asarray([group.start for group in grouping.groups], np.int64)
        self._cut: dict[str, dict[int, Axis]] = {}
        entries = [(entry.initializer, {entry.axis: entry.units}) for entry in grouping.initializer_axes]
        first_crossing = grouping.first_crossing
        inside, whole = _by_place(
            [*grouping.value_axes.items(), *(e for e in entries if not _has(e[1], first_crossing))],
            [*grouping.head_axes.items(), *(e for e in entries if _has(e[1], first_crossing))],
        )
        for name, axis in inside | whole:
            units, heads = inside.get((name, axis)), whole.get((name, axis))
            self._cut.setdefault(name, {})[axis] = self._axis(units, heads)

    def _axis(self, units: IntArray | None, heads: IntArray | None) -> Axis:
        """A sum over groups of heads of kept heads times what each holds, and of what lies in no head."""
        if heads is None or units is None:
            alone = heads if units is None else units
            return ((self._length(alone),),) if alone is not None else ONE
        found: list[tuple[Length, ...]] = []
        groups = np.where(heads == FROZEN, FROZEN, np.searchsorted(self._starts, heads, side="right") - 1)
        for group in np.unique(groups).tolist():
            here = groups == group
            if group == FROZEN:
                found.append((self._length(units[here]),))
            else:
                of_one = units[heads == heads[here][0]]
                found.append((Length(fixed=0, parts=((group, 1),)), self._length(of_one)))
        return tuple(found)

    def _length(self, units: IntArray) -> Length:
        present, counts = np.unique(units[units != FROZEN], return_counts=True)
        groups = np.searchsorted(self._starts, present, side="right") - 1
        positions = dict(zip(groups.tolist(), counts.tolist(), strict=True))  # the same for all units of a group
        return Length(fixed=int((units == FROZEN).sum()), parts=tuple(sorted(positions.items())))

    def of(self, value: ir.Value | None) -> Axes:
        """Lengths of all axes.

        Raises:
            UnknownShape: a shape depends on more than the batch, so that no cost is known.
        """
        name = "" if value is None else value.name or ""
        shape = self._shapes.get(name)
        if shape is None or None in shape:
            raise UnknownShape(
                "A shape depends on more than the batch, so the cost is not known",
                where=f"value {name!r}",
                actual="no shape" if shape is None else list(shape),
                allowed="known lengths on every axis but the first of the inputs",
                advice="Export with a fixed image size or sequence length.",
            )
        cut = self._cut.get(name, {})
        return tuple(cut.get(axis) or ((Length(fixed=length or 0),),) for axis, length in enumerate(shape))


_Places = dict[tuple[str, int], IntArray]
_Named = list[tuple[str, Mapping[int, IntArray]]]


def _has(by_axis: Mapping[int, IntArray], first: int) -> bool:
    return any((units >= first).any() for units in by_axis.values())


def _by_place(*kinds: _Named) -> tuple[_Places, ...]:
    return tuple({(name, axis): units for name, axes in kind for axis, units in axes.items()} for kind in kinds)
