"""Which positions of every weight and value stay, for one Keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InconsistentGroup
from workers.pruning.graph.values import constant
from workers.pruning.types import FROZEN, AnyArray, BoolArray, Grouping, InitializerAxis, IntArray, Keep


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
    """Masks of all tensors that a Keep makes smaller; of activations, what goes inside of heads only.

    Raises:
        InconsistentGroup: the Keep is of another Grouping, or would empty a tensor.
    """
    inside, *whole = stages(grouping, keep)
    weights = {name: dict(masks) for name, masks in inside.weights.items()}
    for later in whole:
        for name, masks in later.weights.items():
            for axis, mask in masks.items():
                both = np.array(weights.get(name, {}).get(axis, np.ones(len(mask), np.bool_)))
                both[np.flatnonzero(both)] = mask
                weights.setdefault(name, {})[axis] = both
    return Plan(values=inside.values, weights=weights)


def stages(grouping: Grouping, keep: Keep) -> tuple[Plan, ...]:
    """Cuts that follow each other: inside of attention heads and everywhere else, then whole heads of what is left.

    Raises:
        InconsistentGroup: the Keep is of another Grouping, or would empty a tensor.
    """
    if keep.mask.shape != (grouping.num_units,):
        raise InconsistentGroup(
            "A keep mask does not fit its grouping", actual=keep.mask.shape, allowed=(grouping.num_units,)
        )
    first_crossing = grouping.first_crossing
    whole = [entry for entry in grouping.initializer_axes if (entry.units >= first_crossing).any()]
    others = [entry for entry in grouping.initializer_axes if not (entry.units >= first_crossing).any()]
    inside = _stage(grouping.value_axes, others, keep, Plan(values={}, weights={}))
    return (inside, _stage(grouping.head_axes, whole, keep, inside)) if whole else (inside,)


def _stage(
    value_axes: Mapping[str, Mapping[int, IntArray]], entries: Sequence[InitializerAxis], keep: Keep, before: Plan
) -> Plan:
    values = {}
    for name, axes in value_axes.items():
        for axis, units in axes.items():
            kept = before.values.get(name)
            mask = positions_kept(units if kept is None or kept.axis != axis else units[kept.mask], keep)
            if not mask.all():
                values[name] = Kept(axis=axis, mask=_not_empty(mask, name))
    weights: dict[str, dict[int, BoolArray]] = {}
    for entry in entries:
        gone = before.weights.get(entry.initializer, {}).get(entry.axis)
        mask = positions_kept(entry.units if gone is None else entry.units[gone], keep)
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
