"""Whole attention heads beside the positions inside of them: two ways to cut the same channels, crossed.

Labels say one thing about each element, so attention is followed twice: once with a label for each position inside a
head, the same in all heads, and once with a label for each head. Channel (head, position) stays when both stay; heads
and positions form a grid, so that a cut of the one leaves the other as it was.

A layer over positions, as in an MLP-Mixer, is followed twice for the same reason: once as something that lets channels
through, and once for what it makes, which lies across these channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from workers.pruning.groups.propagation import Propagation
from workers.pruning.types import FROZEN, BoolArray, Grouping, IntArray

_Axes = Mapping[str, Mapping[int, IntArray]]


def none_of(state: Propagation, roots: IntArray) -> BoolArray:
    """Tell which classes stand for no whole head, and for nothing else that lies across, anywhere."""
    others = np.ones(len(roots), np.bool_)
    for labels in state.heads:
        others[roots[labels]] = False
    return others


def crossed(inside: Grouping, whole: Grouping) -> Grouping:
    """Put the units that are whole heads behind those inside of heads.

    Source: derivation. Groups of heads that form no grid with the units inside are left out: every head of a group has
    to hold every unit of a group inside equally often, along each axis that both lie on. The number of channels is then
    a sum of products of kept heads and kept positions, and one cut after the other gives what both give together.
    """
    kinds = _group_of_unit(inside), _group_of_unit(whole)
    pairs = {(one.tobytes(), other.tobytes()): (one, other) for one, other in _shared_axes(inside, whole)}
    uneven = {index for pair in pairs.values() for index in _uneven(*pair, *kinds)}
    number = np.full(whole.num_units + 1, FROZEN, np.int64)
    groups, start, entries = list(inside.groups), inside.num_units, whole.initializer_axes
    for index, group in enumerate(whole.groups):
        if index not in uneven:
            number[group.start : group.stop] = np.arange(start, start + group.width)
            stop = start + group.width
            groups.append(replace(group, id=f"g{len(groups)}", start=start, stop=stop, crosses=True))
            groups[-1] = replace(groups[-1], whole_heads=any(_is_head(entry.units, group.start) for entry in entries))
            start = stop
    axes = (replace(entry, units=number[entry.units]) for entry in whole.initializer_axes)
    return replace(
        inside,
        num_units=start,
        groups=tuple(groups),
        initializer_axes=(*inside.initializer_axes, *(entry for entry in axes if (entry.units != FROZEN).any())),
        head_axes=_renumbered(whole.value_axes, number),
    )


def _is_head(units: IntArray, unit: int) -> bool:
    """Whether a unit holds several positions of an axis."""
    return int((units == unit).sum()) > 1


def _renumbered(axes: _Axes, number: IntArray) -> _Axes:
    found = {name: {axis: number[units] for axis, units in by_axis.items()} for name, by_axis in axes.items()}
    return {name: by_axis for name, by_axis in found.items() if any((u != FROZEN).any() for u in by_axis.values())}


def _shared_axes(inside: Grouping, whole: Grouping) -> Iterator[tuple[IntArray, IntArray]]:
    """Units of both kinds on every axis that has whole heads; FROZEN where nothing inside may go."""
    entries = {(entry.initializer, entry.axis): entry.units for entry in inside.initializer_axes}
    for entry in whole.initializer_axes:
        yield entries.get((entry.initializer, entry.axis), np.full(len(entry.units), FROZEN)), entry.units
    for name, by_axis in whole.value_axes.items():
        for axis, units in by_axis.items():
            yield inside.value_axes.get(name, {}).get(axis, np.full(len(units), FROZEN)), units


def _uneven(units: IntArray, head_units: IntArray, kinds: IntArray, head_kinds: IntArray) -> Iterator[int]:
    """Groups of heads on an axis whose heads do not all hold the same; `kinds` are groups by unit, FROZEN the last."""
    present, column = np.unique(units, return_inverse=True)
    heads, row = np.unique(head_units, return_inverse=True)
    counts = np.zeros((len(heads), len(present)), np.int64)
    np.add.at(counts, (row, column), 1)
    rows, columns = head_kinds[heads], kinds[present]
    apart = FROZEN in rows and not _even(counts[rows == FROZEN], columns)
    for index in np.unique(rows[rows != FROZEN]).tolist():
        block = counts[rows == index]
        if apart or len(block) != (head_kinds == index).sum() or not _even(block, columns):
            yield index


def _even(counts: IntArray, kinds: IntArray) -> bool:
    """Whether all counts of a kind of columns are equal."""
    return all(np.ptp(counts[:, kinds == kind]) == 0 for kind in np.unique(kinds).tolist())


def _group_of_unit(grouping: Grouping) -> IntArray:
    return np.append(np.repeat(np.arange(len(grouping.groups)), [group.width for group in grouping.groups]), FROZEN)
