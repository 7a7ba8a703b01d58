"""Groups of the structures that networks are made of: widths, producers and readers of small graphs by hand."""

from collections import Counter

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

SPLIT_ATTENTION = """
split_attention (float[N,T,6] x) => (float[N,T,3] y)
<float[6,24] in_w, float[24] in_b, float[8,3] out_w, int64[4] heads = {0,0,2,4}, int64[3] whole = {0,0,8}>
{
  [in] a = MatMul (x, in_w)
  b = Add (a, in_b)
  q0, k0, v0 = Split <axis = 2> (b)
  q1 = Reshape (q0, heads)
  k1 = Reshape (k0, heads)
  v1 = Reshape (v0, heads)
  q = Transpose <perm = [0,2,1,3]> (q1)
  k = Transpose <perm = [0,2,3,1]> (k1)
  v = Transpose <perm = [0,2,1,3]> (v1)
  [scores] s0 = MatMul (q, k)
  s = Softmax <axis = -1> (s0)
  [mix] m0 = MatMul (s, v)
  m1 = Transpose <perm = [0,2,1,3]> (m0)
  m = Reshape (m1, whole)
  [out] y = MatMul (m, out_w)
}
"""
GATED = """
gated (float[N,T,6] x) => (float[N,T,6] y)
<float[6,10] gate_w, float[6,10] up_w, float[10,6] down_w>
{
  [gate] a = MatMul (x, gate_w)
  s = Sigmoid (a)
  b = Mul (a, s)
  [up] c = MatMul (x, up_w)
  d = Mul (b, c)
  [down] y = MatMul (d, down_w)
}
"""
JOINTLY_GATED = """
jointly_gated (float[N,T,6] x) => (float[N,T,6] y)
<float[6,20] joint_w, float[10,6] down_w, int64[2] halves = {10, 10}>
{
  [joint] a = MatMul (x, joint_w)
  b, c = Split <axis = -1> (a, halves)
  s = Sigmoid (b)
  d = Mul (s, c)
  [down] y = MatMul (d, down_w)
}
"""
STREAM = """
stream (int64[N,5] x) => (float[N,5,4] y)
<float[11,8] table, float[5,8] places, float[8] one_scale, float[8] one_b, float[8,12] up_w, float[12] up_b,
 float[12,8] down_w, float[8] down_b, float[8] two_scale, float[8] two_b, float[8,4] head_w>
{
  [embed] a = Gather (table, x)
  b = Add (a, places)
  [one] c = LayerNormalization <axis = -1> (b, one_scale, one_b)
  [up] d = MatMul (c, up_w)
  e = Add (d, up_b)
  f = Relu (e)
  [down] g = MatMul (f, down_w)
  h = Add (g, down_b)
  i = Add (b, h)
  [two] j = LayerNormalization <axis = -1> (i, two_scale, two_b)
  [head] y = MatMul (j, head_w)
}
"""
C2F = """
c2f (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[8,3,3,3] a_w, float[12,8,1,1] in_w, float[5,6,3,3] b_w, float[6,5,3,3] c_w, float[7,18,1,1] join_w,
 float[4,7,1,1] out_w, int64[2] halves = {6, 6}>
{
  [a] a = Conv <pads = [1,1,1,1]> (x, a_w)
  [in] i = Conv (a, in_w)
  p, q = Split <axis = 1> (i, halves)
  [b] b = Conv <pads = [1,1,1,1]> (q, b_w)
  [c] c = Conv <pads = [1,1,1,1]> (b, c_w)
  r = Add (q, c)
  s = Concat <axis = 1> (p, q, r)
  [join] t = Conv (s, join_w)
  [out] y = Conv (t, out_w)
}
"""
SPPF = """
sppf (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[6,3,1,1] a_w, float[5,24,1,1] join_w, float[4,5,1,1] out_w>
{
  [a] a = Conv (x, a_w)
  b = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (a)
  c = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (b)
  d = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (c)
  e = Concat <axis = 1> (a, b, c, d)
  [join] f = Conv (e, join_w)
  [out] y = Conv (f, out_w)
}
"""
CSP = """
csp (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[8,3,1,1] a_w, float[4,8,1,1] left_w, float[6,8,1,1] right_w, float[6,6,3,3] inner_w, float[5,10,1,1] join_w,
 float[4,5,1,1] out_w>
{
  [a] a = Conv (x, a_w)
  [left] l = Conv (a, left_w)
  [right] r = Conv (a, right_w)
  [inner] i = Conv <pads = [1,1,1,1]> (r, inner_w)
  s = Add (r, i)
  c = Concat <axis = 1> (l, s)
  [join] j = Conv (c, join_w)
  [out] y = Conv (j, out_w)
}
"""
ELAN = """
elan (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[6,3,1,1] a_w, float[4,6,1,1] b_w, float[5,4,3,3] c_w, float[3,5,3,3] d_w, float[7,12,1,1] join_w,
 float[4,7,1,1] out_w>
{
  [a] a = Conv (x, a_w)
  [b] b = Conv (a, b_w)
  [c] c = Conv <pads = [1,1,1,1]> (b, c_w)
  [d] d = Conv <pads = [1,1,1,1]> (c, d_w)
  e = Concat <axis = 1> (b, c, d)
  [join] j = Conv (e, join_w)
  [out] y = Conv (j, out_w)
}
"""
PYRAMID = """
pyramid (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,4,4] z)
<float[6,3,3,3] c1_w, float[10,6,3,3] c2_w, float[8,6,1,1] l1_w, float[8,10,1,1] l2_w, float[7,8,3,3] head_w,
 float[7] head_b, float[4,7,1,1] out_w, float[4] scales = {1, 1, 2, 2}>
{
  [c1] a = Conv <pads = [1,1,1,1]> (x, c1_w)
  [c2] b = Conv <pads = [1,1,1,1], strides = [2,2]> (a, c2_w)
  [l1] c = Conv (a, l1_w)
  [l2] d = Conv (b, l2_w)
  e = Resize <mode = "nearest"> (d, , scales)
  f = Add (c, e)
  [h1] g = Conv <pads = [1,1,1,1]> (f, head_w, head_b)
  [h2] h = Conv <pads = [1,1,1,1]> (d, head_w, head_b)
  [o1] y = Conv (g, out_w)
  [o2] z = Conv (h, out_w)
}
"""
SIAMESE = """
siamese (float[N,3,8,8] one, float[N,3,8,8] two) => (float[N,2] y)
<float[8,3,3,3] conv_w, float[8] conv_b, float[6,8] dense_w, float[6] dense_b, float[2,6] fc_w>
{
  [c1] a1 = Conv (one, conv_w, conv_b)
  [c2] a2 = Conv (two, conv_w, conv_b)
  p1 = GlobalAveragePool (a1)
  p2 = GlobalAveragePool (a2)
  f1 = Flatten (p1)
  f2 = Flatten (p2)
  [d1] e1 = Gemm <transB = 1> (f1, dense_w, dense_b)
  [d2] e2 = Gemm <transB = 1> (f2, dense_w, dense_b)
  g = Sub (e1, e2)
  h = Abs (g)
  [fc] y = Gemm <transB = 1> (h, fc_w)
}
"""
TWO_IN_TWO_OUT = """
two_in_two_out (float[N,3,8,8] image, float[N,5] facts) => (float[N,3] kind, float[N,2] place)
<float[6,3,3,3] conv_w, float[4,5] side_w, float[8,10] join_w, float[3,8] kind_w, float[2,8] place_w>
{
  [conv] a = Conv (image, conv_w)
  p = GlobalMaxPool (a)
  f = Flatten (p)
  [side] s = Gemm <transB = 1> (facts, side_w)
  c = Concat <axis = 1> (f, s)
  [join] j = Gemm <transB = 1> (c, join_w)
  r = Relu (j)
  [kind] kind = Gemm <transB = 1> (r, kind_w)
  [place] place = Gemm <transB = 1> (r, place_w)
}
"""
Groups = list[tuple[int, set[str], set[str]]]
STRUCTURES: dict[str, tuple[str, Groups]] = {
    # Positions of queries and keys, positions of values, whole heads.
    "attention by a split": (
        SPLIT_ATTENTION, [(4, {"in"}, {"scores"}), (4, {"in"}, {"out"}), (2, {"in"}, {"out"})]
    ),
    "gated pair": (GATED, [(10, {"gate", "up"}, {"down"})]),
    "gated halves of one layer": (JOINTLY_GATED, [(10, {"joint"}, {"down"})]),
    "stream of a transformer": (STREAM, [(8, {"embed", "down"}, {"up", "head"}), (12, {"up"}, {"down"})]),
    # The half that passes; the half of the residual; inside of it; joined.
    "c2f": (
        C2F,
        [
            (8, {"a"}, {"in"}),
            (6, {"in"}, {"join"}),
            (6, {"in", "c"}, {"b", "join"}),
            (5, {"b"}, {"c"}),
            (7, {"join"}, {"out"}),
        ],
    ),
    "sppf": (SPPF, [(6, {"a"}, {"join"}), (5, {"join"}, {"out"})]),
    "csp": (
        CSP,
        [
            (8, {"a"}, {"left", "right"}),
            (4, {"left"}, {"join"}),
            (6, {"right", "inner"}, {"inner", "join"}),
            (5, {"join"}, {"out"}),
        ],
    ),
    "elan": (
        ELAN,
        [
            (6, {"a"}, {"b"}),
            (4, {"b"}, {"c", "join"}),
            (5, {"c"}, {"d", "join"}),
            (3, {"d"}, {"join"}),
            (7, {"join"}, {"out"}),
        ],
    ),
    # Lateral layers of both levels make one width, and both levels share a head.
    "pyramid with a shared head": (
        PYRAMID,
        [
            (6, {"c1"}, {"c2", "l1"}),
            (10, {"c2"}, {"l2"}),
            (8, {"l1", "l2"}, {"h1", "h2"}),
            (7, {"h1", "h2"}, {"o1", "o2"}),
        ],
    ),
    "siamese": (SIAMESE, [(8, {"c1", "c2"}, {"d1", "d2"}), (6, {"d1", "d2"}, {"fc"})]),
    "two inputs, two outputs": (
        TWO_IN_TWO_OUT, [(6, {"conv"}, {"join"}), (4, {"side"}, {"join"}), (8, {"join"}, {"kind", "place"})]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_groups_of_a_structure_are_those_found_by_hand(name: str) -> None:
    """As fine as they can be: width, all that make these channels, all that read them."""
    text, expected = STRUCTURES[name]
    found = [(group.width, group.producers, group.consumers) for group in find(graph(text)).groups]

    assert Counter((width, frozenset(made), frozenset(read)) for width, made, read in expected) == Counter(
        (width, frozenset(made), frozenset(read)) for width, made, read in found
    )


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_cut_as_it_is_masked(name: str) -> None:
    """Any cut equals the masked network and costs what was predicted."""
    network = graph(STRUCTURES[name][0])
    grouping = find(network)
    keep = random_keep(grouping, 1)
    smaller = cut(network, grouping, keep)
    counted = count(smaller)
    predicted = cost(cost_model(network, grouping), widths(grouping, keep))

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=1)
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)


def test_channels_lie_where_they_are_joined() -> None:
    """Four copies of 6 channels side by side; halves of a joint layer paired; shared weights cut once."""
    axes = {
        (entry.initializer, entry.axis): entry.units.tolist()
        for text in (SPPF, JOINTLY_GATED)
        for entry in find(graph(text)).initializer_axes
    }

    assert list(range(6)) * 4 == axes["join_w", 1]
    assert list(range(10)) * 2 == axes["joint_w", 1]
