"""Which positions of every weight and value stay, for one Keep."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InconsistentGroup
from workers.pruning.graph.values import constant
from workers.pruning.types import FROZEN, AnyArray, BoolArray, Grouping, IntArray, Keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The axis of a tensor from which positions go, and which of them stay."""

    axis: int
    mask: BoolArray

    @property
    def count(self) -> int:
        """Positions that stay."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Tensors that become smaller: activations by name, weights by name with one mask per axis."""

    values: Mapping[str, Kept]
    weights: Mapping[str, Mapping[int, BoolArray]]

    def value(self, value: ir.Value | None) -> Kept | None:
        """What stays of an activation, or None where all of it does."""
        return None if value is None else self.values.get(value.name or "")


def plan(grouping: Grouping, keep: Keep) -> Plan:
    """Masks of all tensors that a Keep makes smaller.

    Raises:
        InconsistentGroup: the Keep is of another Grouping, or would empty a tensor.
    """
    if keep.mask.shape != (grouping.num_units,):
        raise InconsistentGroup(
            "A keep mask does not fit its grouping", actual=keep.mask.shape, allowed=(grouping.num_units,)
        )
    values = {}
    for name, axes in grouping.value_axes.items():
        for axis, units in axes.items():
            mask = positions_kept(units, keep)
            if not mask.all():
                values[name] = Kept(axis=axis, mask=_not_empty(mask, name))
    weights: dict[str, dict[int, BoolArray]] = {}
    for entry in grouping.initializer_axes:
        mask = positions_kept(entry.units, keep)
        if not mask.all():
            weights.setdefault(entry.initializer, {})[entry.axis] = _not_empty(mask, entry.initializer)
    return Plan(values=values, weights=weights)


def replaced(value: ir.Value, array: AnyArray) -> None:
    """Give an initializer other numbers of the same type, in place."""
    value.const_value = ir.Tensor(np.ascontiguousarray(array), dtype=value.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def numbers(value: ir.Value) -> AnyArray:
    """The array of an initializer.

    Raises:
        InconsistentGroup: the grouping calls something a weight that is none.
    """
    array = constant(value)
    if array is None:
        raise InconsistentGroup("A weight of the grouping is no initializer of the graph", where=repr(value.name))
    return array


def positions_kept(units: IntArray, keep: Keep) -> BoolArray:
    """Whether each position of an axis stays."""
    if not len(keep.mask):
        return np.ones(len(units), np.bool_)
    return np.asarray((units == FROZEN) | keep.mask[units])


def _not_empty(mask: BoolArray, name: str) -> BoolArray:
    if not mask.any():
        raise InconsistentGroup(
            "A keep mask would empty a tensor", where=repr(name), allowed="at least one unit a group"
        )
    return mask
