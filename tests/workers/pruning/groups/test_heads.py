"""Whole attention heads beside positions inside of them; units by hand."""

import numpy as np
import pytest
import torch

from tests.networks import graph, inputs
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.alignment import steps_for
from workers.pruning.allocation.budget import cost
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.cost_model import cost_model, from_json, to_json
from workers.pruning.groups.find import find
from workers.pruning.scores.collect import find_sites, gate_edits
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.graft import narrowed
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep

# 2 heads of 4 positions; queries, keys and values are the runs 0-7, 8-15 and 16-23 of one matrix.
JOINT = """
joint (float[N,5,6] x) => (float[N,5,3] y)
<float[6,24] in_w, float[24] in_b, float[8,3] out_w, int64[5] split = {0,5,3,2,4}, int64[3] whole = {0,5,8},
 int64 zero = {0}, int64 one = {1}, int64 two = {2}>
{
  [in] a = MatMul (x, in_w)
  [bias] b = Add (a, in_b)
  [open] c = Reshape (b, split)
  [move] d = Transpose <perm = [2,0,3,1,4]> (c)
  [q] q0 = Gather <axis = 0> (d, zero)
  [k] k0 = Gather <axis = 0> (d, one)
  [v] v0 = Gather <axis = 0> (d, two)
  [kt] k1 = Transpose <perm = [0,1,3,2]> (k0)
  [scores] s0 = MatMul (q0, k1)
  [soft] s = Softmax <axis = -1> (s0)
  [mix] m0 = MatMul (s, v0)
  [mt] m1 = Transpose <perm = [0,2,1,3]> (m0)
  [close] m = Reshape (m1, whole)
  [out] y = MatMul (m, out_w)
}
"""

# 4 heads of queries, 2 of keys and values that serve two of them each; bias per head; 6 positions.
SHARED = """
shared (float[N,5,6] x) => (float[N,5,3] y)
<float[6,24] q_w, float[6,12] k_w, float[6,12] v_w, float[24,3] out_w, float[4,1,1] slope, int64[4] four = {0,5,4,6},
 int64[4] two = {0,5,2,6}, int64[1] axis = {2}, int64[5] twice = {1,2,2,5,6}, int64[4] all = {0,4,5,6},
 int64[3] whole = {0,5,24}>
{
  [q] q0 = MatMul (x, q_w)
  [k] k0 = MatMul (x, k_w)
  [v] v0 = MatMul (x, v_w)
  q1 = Reshape (q0, four)
  k1 = Reshape (k0, two)
  v1 = Reshape (v0, two)
  q2 = Transpose <perm = [0,2,1,3]> (q1)
  k2 = Transpose <perm = [0,2,1,3]> (k1)
  v2 = Transpose <perm = [0,2,1,3]> (v1)
  k3 = Unsqueeze (k2, axis)
  v3 = Unsqueeze (v2, axis)
  k4 = Expand (k3, twice)
  v4 = Expand (v3, twice)
  k5 = Reshape (k4, all)
  v5 = Reshape (v4, all)
  k6 = Transpose <perm = [0,1,3,2]> (k5)
  [scores] s0 = MatMul (q2, k6)
  [slopes] s1 = Mul (s0, slope)
  s = Softmax <axis = -1> (s1)
  [mix] m0 = MatMul (s, v5)
  m1 = Transpose <perm = [0,2,1,3]> (m0)
  m = Reshape (m1, whole)
  [out] y = MatMul (m, out_w)
}
"""

# The same attention in index notation, heads in the middle: 2 heads of 4 positions.
EINSUM = """
einsum (float[N,5,6] x) => (float[N,5,3] y)
<float[6,8] q_w, float[6,8] k_w, float[6,8] v_w, float[8,3] out_w, int64[4] heads = {0,5,2,4}, int64[3] whole = {0,5,8}>
{
  [q] q0 = MatMul (x, q_w)
  [k] k0 = MatMul (x, k_w)
  [v] v0 = MatMul (x, v_w)
  q1 = Reshape (q0, heads)
  k1 = Reshape (k0, heads)
  v1 = Reshape (v0, heads)
  [scores] s0 = Einsum <equation = "bihd,bjhd->bhij"> (q1, k1)
  s = Softmax <axis = -1> (s0)
  [mix] m0 = Einsum <equation = "bhij,bjhd->bihd"> (s, v1)
  m = Reshape (m0, whole)
  [out] y = MatMul (m, out_w)
}
"""


def units(text: str) -> dict[tuple[str, int, bool], list[int]]:
    """Units along every axis of every weight; the last of the key says whether they are whole heads."""
    grouping = find(graph(text))
    return {
        (entry.initializer, entry.axis, bool((entry.units >= grouping.first_crossing).any())): entry.units.tolist()
        for entry in grouping.initializer_axes
    }


def test_a_joint_matrix_holds_every_head_three_times() -> None:
    """Channels are (part, head, position): units 0-3 are positions, in one tensor for all parts, and 4 and 5 heads."""
    found = units(JOINT)

    assert [0, 1, 2, 3] * 6 == found["in_w", 1, False] == found["in_b", 0, False]
    assert ([4] * 4 + [5] * 4) * 3 == found["in_w", 1, True] == found["in_b", 0, True]
    assert [0, 1, 2, 3] * 2 == found["out_w", 0, False]
    assert [4] * 4 + [5] * 4 == found["out_w", 0, True]


def test_heads_that_share_keys_go_together() -> None:
    """A head of keys and values goes with both heads of queries that it serves, and with their slopes."""
    found = units(SHARED)

    assert [0, 1, 2, 3, 4, 5] * 4 == found["q_w", 1, False]
    assert [6, 7, 8, 9, 10, 11] * 2 == found["v_w", 1, False]
    assert [12] * 12 + [13] * 12 == found["q_w", 1, True] == found["out_w", 0, True]
    assert [12] * 6 + [13] * 6 == found["k_w", 1, True] == found["v_w", 1, True]
    assert [12, 12, 13, 13] == found["slope", 0, True]


def test_attention_in_index_notation_is_attention() -> None:
    """Positions of queries and keys, positions of values, and heads, wherever the equation puts them."""
    found = [(group.width, group.producers, group.consumers) for group in find(graph(EINSUM)).groups]

    assert [(4, ("q", "k"), ("scores",)), (4, ("v",), ("out",)), (2, ("q", "k", "v"), ("out",))] == found


@pytest.mark.parametrize("text", [JOINT, SHARED, EINSUM])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_heads_and_positions_are_cut_at_once(text: str, seed: int) -> None:
    """The cut equals the masked network, costs what was predicted, and finds its own smaller groups again."""
    network = graph(text)
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)
    model = cost_model(network, grouping)
    predicted, counted = cost(model, widths(grouping, keep)), count(smaller)

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert predicted.peak_activation_bytes == counted.peak_activation_bytes
    assert from_json(to_json(model, grouping)) == model
    left = [width for width in widths(grouping, keep) if width > 1]
    assert left == [group.width for group in find(smaller).groups]


def test_what_is_left_of_a_grouping_fits_the_cut_network() -> None:
    """Units that stay lie where the smaller network has its channels, whole heads included."""
    network = graph(SHARED)
    grouping = find(network)
    mask_of = np.ones(14, np.bool_)
    mask_of[[1, 7, 8, 12]] = False
    left = narrowed(grouping, Keep(mask=mask_of))
    found = {(entry.initializer, len(entry.units)): entry.units.tolist() for entry in left.initializer_axes}

    inside = {entry.initializer: entry.units.tolist() for entry in left.initializer_axes if max(entry.units) < 9}
    assert [0, 1, 2, 3, 4] == inside["k_w"]
    assert [5, 6, 7, 8] * 2 == inside["out_w"]
    assert [9, 9] == found["slope", 2]
    assert [9] * 8 == left.head_axes["m"][2].tolist()


def test_a_mean_over_heads_keeps_the_heads() -> None:
    """Where heads are averaged the positions inside of them may still go."""
    text = """
    averaged (float[N,5,6] x) => (float[N,5,3] y)
    <float[6,8] q_w, float[6,8] k_w, float[6,8] v_w, float[4,3] out_w, int64[4] heads = {0,5,2,4}>
    {
      [q] q0 = MatMul (x, q_w)
      [k] k0 = MatMul (x, k_w)
      [v] v0 = MatMul (x, v_w)
      q1 = Reshape (q0, heads)
      k1 = Reshape (k0, heads)
      v1 = Reshape (v0, heads)
      q2 = Transpose <perm = [0,2,1,3]> (q1)
      k2 = Transpose <perm = [0,2,3,1]> (k1)
      v2 = Transpose <perm = [0,2,1,3]> (v1)
      [scores] s0 = MatMul (q2, k2)
      s = Softmax <axis = -1> (s0)
      [mix] m0 = MatMul (s, v2)
      [mean] m = ReduceMean <axes = [1], keepdims = 0> (m0)
      [out] y = MatMul (m, out_w)
    }
    """

    assert [(4, False), (4, False)] == [(group.width, group.whole_heads) for group in find(graph(text)).groups]


def test_a_head_counts_as_one_whatever_widths_are_rounded_to() -> None:
    """Rounding is about channels; a head is removed alone."""
    network = graph(SHARED)
    model = cost_model(network, find(network))

    assert (2,) == model.single
    assert 1 == steps_for(model, 8)[2] == steps_for(model, None)[2]


@pytest.mark.parametrize("text", [JOINT, SHARED, EINSUM])
def test_gates_of_heads_and_positions_are_removal(text: str) -> None:
    """Gates of the last position of the first group and of the last head at zero give what the cut network gives."""
    network = graph(text)
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[[grouping.groups[0].stop - 1, -1]] = False
    fed = inputs(network)
    rows = torch.from_numpy(np.tile(kept.astype(np.float32), (len(fed[0]), 1)))
    edits = gate_edits(find_sites(network, grouping), rows)
    with torch.no_grad():
        gated = GraphModule(network).eval().run([torch.from_numpy(array) for array in fed], edits=edits)[0].numpy()

    expected = Session(to_bytes(cut(network, grouping, Keep(mask=kept)))).run(fed)[0]
    np.testing.assert_allclose(gated, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [JOINT, SHARED])
def test_what_reads_the_heads_that_stay_is_repaired(text: str) -> None:
    """With a head and a position gone, the refitted output layer is closer to the original's answers."""
    network = graph(text)
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[[grouping.groups[-1].start - 1, -1]] = False
    keep = Keep(mask=kept)
    smaller = cut(network, grouping, keep)
    fed = [np.random.default_rng(0).standard_normal((256, 5, 6)).astype(np.float32)]
    repaired = compensate(network, smaller, grouping, keep, [fed], run=run_of())
    wanted, before, after = (Session(to_bytes(each)).run(fed)[0] for each in (network, smaller, repaired))

    assert np.square(after - wanted).mean() < 0.9 * np.square(before - wanted).mean()


# Channels last, four positions: a layer over positions inside a residual stream of six channels.
MIXER = """
mixer (float[N,4,5] x) => (float[N,4,3] y)
<float[5,6] in_w, float[4,7] wide_w, float[7] wide_b, float[7,4] narrow_w, float[6,3] out_w>
{
  [in] a = MatMul (x, in_w)
  t = Transpose <perm = [0,2,1]> (a)
  [wide] b = MatMul (t, wide_w)
  [bias] c = Add (b, wide_b)
  d = Relu (c)
  [narrow] e = MatMul (d, narrow_w)
  f = Transpose <perm = [0,2,1]> (e)
  [sum] g = Add (a, f)
  [out] y = MatMul (g, out_w)
}
"""


def test_a_layer_over_positions_lets_channels_through() -> None:
    """Six channels of the stream and seven hidden positions, each free; seven are no heads."""
    found = find(graph(MIXER)).groups

    assert [(6, ("in",), ("out",)), (7, ("wide",), ("narrow",))] == [
        (group.width, group.producers, group.consumers) for group in found
    ]
    assert [(False, False), (True, False)] == [(group.crosses, group.whole_heads) for group in found]


@pytest.mark.parametrize("seed", [0, 1])
def test_channels_and_hidden_positions_are_cut_at_once(seed: int) -> None:
    """Cut, masked and gated networks agree, the cost is what was predicted, and repair does no harm."""
    network = graph(MIXER)
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)
    fed = inputs(network)
    rows = torch.from_numpy(np.tile(keep.mask.astype(np.float32), (len(fed[0]), 1)))
    edits = gate_edits(find_sites(network, grouping), rows)
    with torch.no_grad():
        gated = GraphModule(network).eval().run([torch.from_numpy(array) for array in fed], edits=edits)[0].numpy()
    repaired = compensate(network, smaller, grouping, keep, [fed], run=run_of())

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    np.testing.assert_allclose(gated, Session(to_bytes(smaller)).run(fed)[0], rtol=1e-4, atol=1e-5)
    assert cost(cost_model(network, grouping), widths(grouping, keep)).macs == count(smaller).macs
    assert count(smaller) == count(repaired)
