"""Grouped convolutions with a channel shuffle between them: what may go, worked out by hand."""

from collections.abc import Iterable

import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.graph.cost import count
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import FROZEN

_SHUFFLED = """
shuffled (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[{width},3,1,1] stem_w, float[{hidden},{inside},1,1] first_w, float[{hidden},1,3,3] depth_w,
 float[{width},{each},1,1] last_w, float[5,{width},1,1] out_w,
 int64[5] open = {{0,{groups},{each},4,4}}, int64[4] close = {{0,{hidden},4,4}}>
{{
  [stem] s = Conv (x, stem_w)
  [first] a = Conv <group = {groups}> (s, first_w)
  {shuffle}
  [depth] e = Conv <group = {hidden}, pads = [1,1,1,1]> (d, depth_w)
  [last] f = Conv <group = {groups}> (e, last_w)
  [sum] g = Add (s, f)
  [out] y = Conv (g, out_w)
}}
"""
_RESHAPES = "b = Reshape (a, open) c = Transpose <perm = [0,2,1,3,4]> (b) d = Reshape (c, close)"


def _text(groups: int, each: int, inside: int, shuffle: str = _RESHAPES) -> str:
    """A block of ShuffleNet v1: `each` hidden channels and `inside` channels of the stream per group."""
    numbers = {"groups": groups, "each": each, "inside": inside, "hidden": groups * each, "width": groups * inside}
    return _SHUFFLED.format(**numbers, shuffle=shuffle)


@pytest.mark.parametrize(("groups", "each", "units"), [(2, 4, 2), (2, 6, 3), (3, 6, 2), (4, 4, 1)])
def test_hidden_channels_go_where_the_shuffle_deals_them_out_evenly(groups: int, each: int, units: int) -> None:
    """Channel p of every group is dealt to positions p G .. p G + G - 1: E / G of these runs fill a group behind.

    One run of each group, at the same place in it, goes as a unit, so that E / G units are left; a single one has to
    stay. The stream goes by its 5 positions in all groups.
    """
    network = graph(_text(groups, each, 5))
    grouping = find(network)
    run = {
        (entry.initializer, entry.axis): entry.units.tolist()
        for entry in grouping.initializer_axes
        if entry.initializer == "last_w" and entry.axis == 1
    }

    assert [5] + ([units] if units > 1 else []) == [group.width for group in grouping.groups]
    if units > 1:
        assert {("last_w", 1): [5 + unit for unit in range(units) for _ in range(groups)]} == run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_groups_are_cut_with_their_shuffle(seed: int) -> None:
    """Three groups of nine hidden channels: cut equals masked, the numbers of groups stay."""
    network = graph(_text(3, 9, 4))
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)

    assert [4, 3] == [group.width for group in grouping.groups]
    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    assert [3, 3] == [node.attributes.get_int("group", 1) for node in smaller.graph if node.name in {"first", "last"}]


@pytest.mark.parametrize(("groups", "each", "taken"), [(3, 4, 1), (2, 3, 1), (5, 2, 1), (4, 6, 2), (6, 4, 2)])
def test_hidden_channels_go_where_the_shuffle_deals_them_out_unevenly(groups: int, each: int, taken: int) -> None:
    """Position j of group h behind is channel number hE + j of the shuffle, which group (hE + j) mod G makes.

    For G and E without a common divisor, h from 0 to G - 1 meets every group in front once: one position of all groups
    behind takes one channel from each group in front. With 2 as common divisor, a position meets every other group
    twice, and the next position the others: two positions go together.
    """
    grouping = find(graph(_text(groups, each, 7)))
    axes = {(entry.initializer, entry.axis): _in_order(entry.units) for entry in grouping.initializer_axes}
    behind = [j // taken for j in range(each)]
    in_front = [behind[(e * groups + g) % each] for g in range(groups) for e in range(each)]

    assert [7, each // taken] == [group.width for group in grouping.groups]
    assert behind == axes["last_w", 1]
    assert _in_order(in_front) == axes["first_w", 0]
    assert behind * groups == axes["depth_w", 0]
    assert {tuple(sorted(in_front[:each]))} == {tuple(sorted(in_front[g * each :][:each])) for g in range(groups)}


def _in_order(units: Iterable[int]) -> list[int]:
    """Units renumbered as they come."""
    listed = list(units)
    seen = list(dict.fromkeys(listed))
    return [seen.index(unit) for unit in listed]


@pytest.mark.parametrize(("groups", "each"), [(3, 4), (4, 6), (2, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_unevenly_shuffled_groups_are_cut_with_their_shuffle(groups: int, each: int, seed: int) -> None:
    """Different positions go from each group in front, equally many; cut equals masked and costs what was predicted."""
    network = graph(_text(groups, each, 4))
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)
    predicted, counted = cost(cost_model(network, grouping), widths(grouping, keep)), count(smaller)

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert [groups] * 2 == [
        node.attributes.get_int("group", 1) for node in smaller.graph if node.name in {"first", "last"}
    ]


def test_a_shuffle_behind_a_plain_convolution_loses_single_positions() -> None:
    """All 9 positions of 3 groups behind go one by one, for a plain convolution makes any number of channels."""
    text = _text(3, 9, 4).replace("float[27,4,1,1] first_w", "float[27,12,1,1] first_w")
    network = graph(text.replace("[first] a = Conv <group = 3>", "[first] a = Conv"))
    grouping = find(network)
    keep = random_keep(grouping, 1)

    assert [4, 9] == sorted(group.width for group in grouping.groups)
    assert 1e-4 >= check(mask(network, grouping, keep), cut(network, grouping, keep), seed=1)


_FIXED_PART = """
fixed (float[N,3,4,4] x) => (float[N,4,4,4] y, float[N,1,4,4] z)
<float[4,3,1,1] stem_w, float[6,2,1,1] first_w, float[4,6,1,1] out_w, int64[2] sizes = {1, 5}>
{
  [stem] s = Conv (x, stem_w)
  [first] a = Conv <group = 2> (s, first_w)
  [part] z, rest = Split <axis = 1> (a, sizes)
  [out] y = Conv (a, out_w)
}
"""


def test_what_one_group_has_to_keep_its_partner_keeps() -> None:
    """The first of 3 channels of one group is an output, so the first of the other stays too; two pairs can go."""
    grouping = find(graph(_FIXED_PART))
    axes = {(entry.initializer, entry.axis): entry.units.tolist() for entry in grouping.initializer_axes}

    assert [2, 2] == [group.width for group in grouping.groups]
    assert [FROZEN, 2, 3] * 2 == axes["first_w", 0] == axes["out_w", 1]
