"""Norms, means and sums over channels are taken over those that stay, in the masked network as in the cut one."""

import numpy as np
import pytest

from tests.networks import graph, inputs
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import FloatArray, Keep

NET = """
net (float[N,5,6] x) => (float[N,5,3] y)
<float[6,8] in_w, float[8] in_b, float[8] n_scale, float[8] n_b, float two = {{2}}, float small = {{0.01}},
 int64[1] last = {{2}}, float[8,3] out_w>
{{
  [in] a0 = MatMul (x, in_w)
  [bias] a = Add (a0, in_b)
{body}
  [out] y = MatMul (r, out_w)
}}
"""
LAYER_NORM = "[n] r = LayerNormalization <axis = -1, epsilon = 0.01> (a, n_scale, n_b)"
RMS_NORM = "[n] r = RMSNormalization <axis = -1, epsilon = 0.01> (a, n_scale)"
MEAN_VARIANCE = "[n] r = MeanVarianceNormalization <axes = [2]> (a)"
BODIES = {
    LAYER_NORM: 17,
    "[n] r = LayerNormalization <axis = -1> (a, n_scale)": 17,
    RMS_NORM: 23,
    """p = Pow (a, two)
       m = ReduceMean <axes = [-1]> (p)
       e = Add (m, small)
       s = Sqrt (e)
       d = Div (a, s)
       r = Mul (d, n_scale)""": 17,
    """m = ReduceMean (a, last)
       c = Sub (a, m)
       p = Mul (c, c)
       v = ReduceMean (p, last)
       e = Add (v, small)
       s = Sqrt (e)
       r = Div (c, s)""": 18,
    """s = ReduceL2 <axes = [2]> (a)
       r = Div (a, s)""": 17,
    """s = ReduceSum (a, last)
       r = Sub (a, s)""": 17,
    "r = LpNormalization <axis = 2> (a)": 17,
    MEAN_VARIANCE: 17,
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_cut_equals_the_masked_network(body: str, seed: int) -> None:
    """All eight channels are free, and any cut gives what the masked network gives."""
    header = f'<ir_version: 10, opset_import: ["" : {BODIES[body]}]>'
    network = graph(NET.format(body=body), header=header)
    grouping = find(network)
    keep = random_keep(grouping, seed)

    assert [8] == [group.width for group in grouping.groups]
    assert 1e-4 >= check(mask(network, grouping, keep), cut(network, grouping, keep), seed=seed)


@pytest.mark.parametrize(
    ("body", "centred", "epsilon"), [(LAYER_NORM, 1.0, 0.01), (RMS_NORM, 0.0, 0.01), (MEAN_VARIANCE, 1.0, 0.0)]
)
def test_statistics_are_those_of_the_channels_that_stay(body: str, centred: float, epsilon: float) -> None:
    """By hand: channels 1, 4 and 5 are gone, and mean and variance divide by five."""
    network = graph(NET.format(body=body), header='<ir_version: 10, opset_import: ["" : 23]>')
    grouping = find(network)
    stays = np.asarray([True, False, True, True, False, False, True, True])
    fed = inputs(network)
    held = {name: array.astype(np.float64) for name, array in weights(network).items()}
    a: FloatArray = (fed[0] @ held["in_w"] + held["in_b"])[..., stays]
    a = a - centred * a.mean(-1, keepdims=True)
    a = a / np.sqrt((a**2).mean(-1, keepdims=True) + epsilon)
    a = a * held["n_scale"][stays] if "n_scale" in held else a
    shift = held["n_b"][stays] if "n_b" in held else 0.0
    expected = (a + shift) @ held["out_w"][stays]

    for result in (cut(network, grouping, Keep(mask=stays)), mask(network, grouping, Keep(mask=stays))):
        np.testing.assert_allclose(Session(to_bytes(result)).run(fed)[0], expected, rtol=1e-4, atol=1e-5)


IMAGE = """
image (float[N,3,4,4] x) => (float[N,5,4,4] y)
<float[8,3,3,3] in_w, float[8] in_b, float[{stored}] n_scale, float[{stored}] n_b, float[8,1,1] k_scale,
 float[8,1,1] k_b, int64[3] one = {{0,1,-1}}, int64[4] back = {{0,8,4,4}}, int64[4] rows = {{0,1,8,16}},
 float[5,8,1,1] out_w>
{{
  [in] a = Conv <pads = [1,1,1,1]> (x, in_w, in_b)
{body}
  [scale] t = Mul (n, k_scale)
  [shift] r = Add (t, k_b)
  [out] y = Conv (r, out_w)
}}
"""
# One group of all channels: how it is written, numbers in its scale, opset.
SINGLE = {
    "group": ("[n] n = GroupNormalization <num_groups = 1, epsilon = 0.01> (a, n_scale, n_b)", 8, 21),
    "reshaped": (
        """i = Reshape (a, one)
           [n] j = InstanceNormalization <epsilon = 0.01> (i, n_scale, n_b)
           n = Reshape (j, back)""",
        1,
        17,
    ),
    "rows": (
        """i = Reshape (a, rows)
           [n] j = InstanceNormalization <epsilon = 0.01> (i, n_scale, n_b)
           n = Reshape (j, back)""",
        1,
        18,
    ),
}


@pytest.mark.parametrize("form", SINGLE)
@pytest.mark.parametrize("gone", [[1, 4, 5], [0, 1, 2, 3, 4, 5, 7], []])
def test_a_single_group_is_normalised_over_the_channels_that_stay(form: str, gone: list[int]) -> None:
    """Eight channels go one by one; by hand: mean and variance are those of the pixels of the channels that stay."""
    body, stored, opset = SINGLE[form]
    network = graph(IMAGE.format(body=body, stored=stored), header=f'<ir_version: 10, opset_import: ["" : {opset}]>')
    grouping = find(network)
    stays = np.isin(np.arange(8), gone, invert=True)
    keep = Keep(mask=stays)
    fed = inputs(network)
    held = {name: array.astype(np.float64) for name, array in weights(network).items()}
    padded = np.pad(fed[0].astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    a = (np.einsum("ncxyij,ocij->noxy", windows, held["in_w"]) + held["in_b"][:, None, None])[:, stays]
    a = (a - a.mean((1, 2, 3), keepdims=True)) / np.sqrt(a.var((1, 2, 3), keepdims=True) + 0.01)
    scale, shift = (np.broadcast_to(held[name], 8)[stays, None, None] for name in ("n_scale", "n_b"))
    a = (a * scale + shift) * held["k_scale"][stays] + held["k_b"][stays]
    expected = np.einsum("ncxy,oc->noxy", a, held["out_w"][:, stays, 0, 0])

    assert [(8, ("in",), ("out",))] == [(group.width, group.producers, group.consumers) for group in grouping.groups]
    for result in (cut(network, grouping, keep), mask(network, grouping, keep)):
        np.testing.assert_allclose(Session(to_bytes(result)).run(fed)[0], expected, rtol=1e-4, atol=1e-5)
    assert 1e-4 >= check(mask(network, grouping, keep), cut(network, grouping, keep), seed=0)


def test_positions_inside_of_normalised_heads_go_too() -> None:
    """Queries and keys that are normalised in each head: 4 positions of values, 4 of both others, 2 heads."""
    text = """
    net (float[N,5,6] x) => (float[N,5,3] y)
    <float[6,8] q_w, float[6,8] k_w, float[6,8] v_w, float[8,3] out_w, float[4] q_scale, float[4] k_scale,
     int64[4] heads = {0,5,2,4}, int64[3] whole = {0,5,8}>
    {
      [q] q0 = MatMul (x, q_w)
      [k] k0 = MatMul (x, k_w)
      [v] v0 = MatMul (x, v_w)
      q1 = Reshape (q0, heads)
      k1 = Reshape (k0, heads)
      v1 = Reshape (v0, heads)
      qn = LayerNormalization <axis = -1> (q1, q_scale)
      p = Mul (k1, k1)
      m = ReduceMean <axes = [3]> (p)
      s0 = Sqrt (m)
      d = Div (k1, s0)
      kn = Mul (d, k_scale)
      q2 = Transpose <perm = [0,2,1,3]> (qn)
      k2 = Transpose <perm = [0,2,3,1]> (kn)
      v2 = Transpose <perm = [0,2,1,3]> (v1)
      [scores] s1 = MatMul (q2, k2)
      s = Softmax <axis = -1> (s1)
      [mix] m0 = MatMul (s, v2)
      m1 = Transpose <perm = [0,2,1,3]> (m0)
      m2 = Reshape (m1, whole)
      [out] y = MatMul (m2, out_w)
    }
    """
    network = graph(text)
    grouping = find(network)
    keep = random_keep(grouping, 3)

    assert [4, 4, 2] == [group.width for group in grouping.groups]
    assert 1e-4 >= check(mask(network, grouping, keep), cut(network, grouping, keep), seed=0)
