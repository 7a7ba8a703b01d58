"""Widths and members of groups, worked out by hand: too coarse a grouping would pass every comparison of outputs."""

from itertools import pairwise

import numpy as np
import pytest

from tests.networks import NETWORKS, graph
from workers.pruning.errors import NothingToPrune
from workers.pruning.groups.find import find, require_prunable
from workers.pruning.types import FROZEN, Grouping, Role

# By hand, from the text of each network: (width, producers, consumers) in the order of production.
EXPECTED = {
    "chain": [(8, {"conv1"}, {"conv2"}), (12, {"conv2"}, {"fc"})],
    "chain_bn": [(8, {"conv1"}, {"conv2"}), (12, {"conv2"}, {"fc"})],
    "residual": [
        (8, {"stem", "a2", "b2"}, {"a1", "b1", "fc"}),
        (6, {"a1"}, {"a2"}),
        (10, {"b1"}, {"b2"}),
    ],
    # The stem's 4 channels are the middle of the 8 behind the Add; the 4 others are zeros there and stand alone.
    "padded_shortcut": [(4, {"stem", "a2"}, {"a1", "fc"}), (8, {"a1"}, {"a2"}), (4, {"a2"}, {"fc"})],
    "concat": [(6, {"left"}, {"join", "fc"}), (5, {"right"}, {"join", "fc"}), (7, {"join"}, {"fc"})],
    "depthwise": [(6, {"stem", "project"}, {"expand", "fc"}), (12, {"expand"}, {"project"})],
    # Two groups: the same positions go in both, so 8 channels are 4 units and 12 are 6.
    "grouped": [(4, {"stem"}, {"group"}), (6, {"group"}, {"mix"}), (6, {"mix"}, {"fc"})],
    "flatten": [(6, {"conv"}, {"fc1"}), (10, {"fc1"}, {"fc2"})],
    "unet": [
        (6, {"down1"}, {"down2", "join"}),
        (8, {"down2"}, {"bottom"}),
        (8, {"bottom"}, {"up"}),
        (5, {"up"}, {"join"}),
        (6, {"join"}, {"out"}),
    ],
    "squeeze_excite": [(8, {"conv", "excite"}, {"squeeze", "fc"}), (4, {"squeeze"}, {"excite"})],
    # A position of the head dimension in all 4 heads is one unit: of queries and keys together, and of values.
    # Whole heads come last.
    "attention": [
        (4, {"q_mul", "k_mul"}, {"scores"}),
        (4, {"v_mul"}, {"out_mul"}),
        (32, {"up_mul"}, {"down_mul"}),
        (4, {"q_mul", "k_mul", "v_mul"}, {"out_mul"}),
    ],
    # Interleaving ties channel i of the passing half to channel i of the branch.
    "shuffle": [(4, {"stem", "right1"}, {"fc"}), (4, {"stem"}, {"right1"})],
}


def summary(grouping: Grouping) -> list[tuple[int, set[str], set[str]]]:
    """Widths, producers and consumers of all groups."""
    return [(group.width, set(group.producers), set(group.consumers)) for group in grouping.groups]


def axes(grouping: Grouping) -> dict[tuple[str, int], list[int]]:
    """Units along every axis of every weight."""
    return {(entry.initializer, entry.axis): entry.units.tolist() for entry in grouping.initializer_axes}


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_are_those_found_by_hand(name: str) -> None:
    """Widths, producers and consumers of every small network."""
    assert EXPECTED[name] == summary(find(graph(name)))


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_partition_the_units(name: str) -> None:
    """Every unit is in exactly one group, and units of a group occur equally often on the same axes."""
    grouping = find(graph(name))
    bounds = [0, *(group.stop for group in grouping.groups)]

    assert [group.start for group in grouping.groups] == bounds[:-1]
    assert grouping.num_units == bounds[-1]
    assert all(a < b for a, b in pairwise(bounds))
    for entry in grouping.initializer_axes:
        counts = np.bincount(entry.units[entry.units != FROZEN], minlength=grouping.num_units)
        assert all(len(set(counts[a:b].tolist())) == 1 for a, b in pairwise(bounds))


def test_roles_tell_what_an_axis_does() -> None:
    """A filter produces on its first axis, reads on its second; bias and normalisation let through."""
    roles = {(entry.initializer, entry.axis): entry.role for entry in find(graph("chain_bn")).initializer_axes}

    assert Role.PRODUCE == roles["conv1_w", 0]
    assert Role.CONSUME == roles["conv2_w", 1]
    assert {Role.THROUGH} == {roles[f"bn1_{name}", 0] for name in ("scale", "b", "mean", "var")}


def test_a_padded_shortcut_ties_channels_at_an_offset() -> None:
    """Stem channel c is channel c + 2 behind the Add: units 0-3 are channels 2-5, units of the third group the rest."""
    found = axes(find(graph("padded_shortcut")))

    assert [0, 1, 2, 3] == found["stem_w", 0]
    assert [12, 13, 0, 1, 2, 3, 14, 15] == found["a2_w", 0]
    assert found["a2_w", 0] == found["fc_w", 1]


def test_a_flatten_gives_each_channel_its_run_of_columns() -> None:
    """6 channels of 4 x 4 are 6 runs of 16 columns."""
    assert np.repeat(np.arange(6), 16).tolist() == axes(find(graph("flatten")))["fc1_w", 1]


def test_a_concat_keeps_channels_at_their_offset() -> None:
    """The join reads left 0-5 and right 6-10; the classifier reads these and then the join's own."""
    found = axes(find(graph("concat")))

    assert list(range(11)) == found["join_w", 1]
    assert list(range(18)) == found["fc_w", 1]


def test_values_carry_their_units() -> None:
    """The channel axis of an activation says which unit each channel is; frozen tensors are left out."""
    grouping = find(graph("residual"))

    assert list(range(8)) == grouping.value_axes["ar"][1].tolist()
    assert "x" not in grouping.value_axes
    assert "y" not in grouping.value_axes


def test_the_output_is_named_as_the_reason() -> None:
    """The classifier's channels are the network's outputs."""
    frozen = find(graph("chain")).frozen

    assert [("fc", "Gemm", "it gives an output of the network")] == [(f.node, f.op_type, f.reason) for f in frozen]


def test_layers_without_removable_channels_are_named() -> None:
    """The residual stream of attention ends in the output."""
    reasons = {entry.node: entry.reason for entry in find(graph("attention")).frozen}

    assert "its channels are tied to channels that stay" == reasons["out_mul"]
    assert "q_mul" not in reasons


def test_excluded_layers_keep_their_channels() -> None:
    """A pattern over node names freezes what these nodes make, all along the stream that they share."""
    grouping = find(graph("residual"), exclude=["a*"])

    assert [(10, {"b1"}, {"b2"})] == summary(grouping)
    assert "it is excluded by the request" in {entry.reason for entry in grouping.frozen}


def test_only_included_layers_lose_channels() -> None:
    """With include, every producer of a unit has to match."""
    assert [(10, {"b1"}, {"b2"})] == summary(find(graph("residual"), include=["b*"]))
    assert [(8, {"stem", "a2", "b2"}, {"a1", "b1", "fc"})] == summary(find(graph("residual"), include=["stem", "?2"]))


def test_nothing_to_prune_is_refused_with_reasons() -> None:
    """When all is excluded, the error names nodes and what may be removed at all."""
    grouping = find(graph("chain"), exclude=["*"])

    assert 0 == grouping.num_units
    with pytest.raises(NothingToPrune, match=r"conv1 \(Conv\): it is excluded by the request.*found 0 removable"):
        require_prunable(grouping)
    require_prunable(find(graph("chain")))
