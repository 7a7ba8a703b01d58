"""Grouped convolutions with a channel shuffle between them: what may go, worked out by hand."""

from itertools import combinations

import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask

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


@pytest.mark.parametrize(("groups", "each"), [(3, 4), (2, 3), (4, 6)])
def test_hidden_channels_stay_where_the_shuffle_deals_them_out_unevenly(groups: int, each: int) -> None:
    """Nothing but all of them takes equally many, from the same places, from each group in front and behind.

    All sets of runs are tried: none takes the same positions from each group behind. Filters have one list of positions
    for all groups, so sets that take equally many from different places are no way out.
    """
    hidden = range(groups * each)
    even = [
        runs
        for count in range(1, each)
        for runs in combinations(range(each), count)
        if len(
            {tuple(i % each for i in hidden if i // groups in runs and i // each == group) for group in range(groups)}
        )
        == 1
    ]
    grouping = find(graph(_text(groups, each, 5)))

    assert ([], [5]) == (even, [group.width for group in grouping.groups])
    assert "first" in {frozen.node for frozen in grouping.frozen}
