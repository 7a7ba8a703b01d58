"""Back and forth between a network and its cut: units renumbered for the cut, its weights put back where they were."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.surgery.plan import plan
from workers.pruning.types import FROZEN, AnyArray, BoolArray, Grouping, IntArray, Keep


def narrowed(grouping: Grouping, keep: Keep) -> Grouping:
    """Give the grouping of `cut(graph, grouping, keep)`: the units that stay, numbered anew in their order.

    Names are those of the original, which a cut leaves alone. It serves to find and score units of the cut network; to
    cut again, cut the original with fewer units.
    """
    number = np.where(keep.mask, np.cumsum(keep.mask) - 1, FROZEN).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(keep.mask)]).astype(np.int64)

    def left(units: IntArray, stays: BoolArray | None) -> IntArray:
        stay = units if stays is None else units[stays]
        return np.where(stay == FROZEN, FROZEN, number[stay]) if keep.mask.size else stay

    def of_values(by_name: Mapping[str, Mapping[int, IntArray]]) -> Mapping[str, Mapping[int, IntArray]]:
        return {
            name: {axis: left(units, grouping.kept(name, axis, keep)) for axis, units in axes.items()}
            for name, axes in by_name.items()
        }

    masks = plan(grouping, keep).weights
    return Grouping(
        num_units=int(keep.mask.sum()),
        groups=tuple(
            replace(group, start=int(before[group.start]), stop=int(before[group.stop])) for group in grouping.groups
        ),
        initializer_axes=tuple(
            replace(axis, units=left(axis.units, masks.get(axis.initializer, {}).get(axis.axis)))
            for axis in grouping.initializer_axes
        ),
        value_axes=of_values(grouping.value_axes),
        frozen=grouping.frozen,
        head_axes=of_values(grouping.head_axes),
    )


def graft(graph: ir.Model, smaller: ir.Model, grouping: Grouping, keep: Keep) -> ir.Model:
    """Return `graph` with the weights of its trained cut at the positions that stayed; the others keep their numbers.

    Requires: `smaller` is `cut(graph, grouping, keep)`, its weights changed and its names not.
    Ensures: cutting the result with `keep` gives the weights of `smaller`.
    """
    masks = plan(grouping, keep).weights
    given = weights(smaller)
    whole: dict[str, AnyArray] = {}
    for name, array in weights(graph).items():
        found = given.get(name)
        if found is None:
            continue
        if name in masks:
            stay = [
                np.flatnonzero(masks[name][axis]) if axis in masks[name] else np.arange(length)
                for axis, length in enumerate(array.shape)
            ]
            filled = np.array(array)
            filled[np.ix_(*stay)] = found
            whole[name] = filled
        elif found.shape == array.shape:
            whole[name] = found
    return replace_weights(graph, whole)
