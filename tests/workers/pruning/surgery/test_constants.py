"""Constants that count channels, operator by operator, at the opsets that keep them in inputs or attributes."""

import numpy as np
import onnx
import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask

HEAD = """
net (float[N,3,8,8] x) => (float[N,4] y)
<float[12,3,3,3] a_w, float[12] a_b, float[4,{width}] fc_w, float[4] fc_b{more}>
{{
  [a] a0 = Conv <pads = [1,1,1,1]> (x, a_w, a_b)
  [relu] a = Relu (a0)
{body}
  [pool] p = GlobalAveragePool (r)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}}
"""
# name: opset, channels of `r`, further constants, nodes from `a` to `r`, units that may go
CASES = {
    "split in an attribute": (
        11, 12, "", "[s] b, c = Split <axis = 1, split = [4,8]> (a)\n[j] r = Concat <axis = 1> (c, b)", 12,
    ),
    "equal split without sizes": (
        13, 12, "", "[s] b, c, d = Split <axis = 1> (a)\n[j] r = Concat <axis = -3> (d, b, c)", 12,
    ),
    "split by number of outputs": (
        18, 12, "", "[s] b, c = Split <axis = 1, num_outputs = 2> (a)\n[j] r = Concat <axis = 1> (c, b)", 12,
    ),
    "slice in attributes": (9, 7, "", "[s] r = Slice <axes = [1], starts = [2], ends = [9]> (a)", 7),
    "slice in inputs, from the end": (
        13, 5, ", int64[1] s = {-5}, int64[1] e = {9223372036854775807}, int64[1] x1 = {1}",
        "[s] r = Slice (a, s, e, x1)", 5,
    ),
    "gather in another order": (13, 3, ", int64[3] i = {7, -1, 2}", "[g] r = Gather <axis = 1> (a, i)", 3),
    "pad in an attribute": (10, 15, "", "[p0] r = Pad <pads = [0,1,0,0,0,2,0,0]> (a)", 12),
    "pad on listed axes": (
        18, 15, ", int64[2] p1 = {1, 2}, int64[1] x1 = {1}", "[p0] r = Pad (a, p1, , x1)", 12,
    ),
    "tile": (13, 24, ", int64[4] t = {1, 2, 1, 1}", "[t0] r = Tile (a, t)", 12),
    "resize to sizes": (
        13, 12, ", int64[4] z = {1, 12, 16, 16}", '[z0] r = Resize <mode = "nearest"> (a, , , z)', 12,
    ),
    "upsample": (9, 12, ", float[4] z = {1, 1, 2, 2}", '[z0] r = Upsample <mode = "nearest"> (a, z)', 12),
    "depth to space": (13, 3, "", "[d0] r = DepthToSpace <blocksize = 2> (a)", 3),
    "depth to space, CRD": (13, 3, "", '[d0] r = DepthToSpace <blocksize = 2, mode = "CRD"> (a)', 3),
    "space to depth": (13, 48, "", "[d0] r = SpaceToDepth <blocksize = 2> (a)", 12),
    "expand of a plane": (
        13, 12, ", int64[4] z = {1, 12, 4, 4}", "[g0] g = GlobalAveragePool (a)\n[e0] r = Expand (g, z)", 12,
    ),
    "reshape with a copied axis": (
        13, 12, ", int64[3] z = {0, 0, -1}, int64[4] z2 = {0, 12, 8, 8}",
        "[r0] g = Reshape (a, z)\n[r1] r = Reshape (g, z2)", 12,
    ),
    "channels last": (
        13, 12, ", float[12] k",
        "[t0] t = Transpose <perm = [0,2,3,1]> (a)\n[k0] u = Mul (t, k)\n[t1] r = Transpose <perm = [0,3,1,2]> (u)", 12,
    ),
    "instance normalization and slopes": (
        13, 12, ", float[12] n_scale, float[12] n_b, float[12,1,1] k",
        "[n0] n = InstanceNormalization (a, n_scale, n_b)\n[k0] r = PRelu (n, k)", 12,
    ),
    "groups of channels normalised together": (
        21, 12, ", float[12] n_scale, float[12] n_b",
        "[n0] r = GroupNormalization <num_groups = 3> (a, n_scale, n_b)", 3,
    ),
    "the same by way of two reshapes": (
        13, 12, ", int64[3] z = {0, 3, -1}, int64[4] z2 = {0, 12, 8, 8}, float[3] n_scale, float[3] n_b",
        "[r0] g = Reshape (a, z)\n[n0] n = InstanceNormalization (g, n_scale, n_b)\n[r1] r = Reshape (n, z2)", 3,
    ),
    "whole groups": (13, 12, ", float[12,3,3,3] g_w", "[g0] r = Conv <group = 4, pads = [1,1,1,1]> (a, g_w)", 4),
    "depthwise with two filters a channel": (
        13, 24, ", float[24,1,3,3] g_w", "[g0] r = Conv <group = 12, pads = [1,1,1,1]> (a, g_w)", 12,
    ),
    "grouped transposed": (
        13, 8, ", float[12,4,2,2] g_w, float[8] g_b",
        "[g0] r = ConvTranspose <group = 2, strides = [2,2]> (a, g_w, g_b)", 6 + 4,
    ),
    "depthwise transposed": (
        13, 12, ", float[12,1,2,2] g_w", "[g0] r = ConvTranspose <group = 12, strides = [2,2]> (a, g_w)", 12,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_constants_follow_the_cut(case: str) -> None:
    """As many units as counted by hand; the cut file passes the checker and equals the masked network, batch free."""
    opset, width, more, body, units = CASES[case]
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    network = graph(HEAD.format(width=width, more=more, body=body), header=header)
    grouping = find(network)

    assert units == grouping.num_units
    for seed in range(3):
        keep = random_keep(grouping, seed)
        smaller = cut(network, grouping, keep)
        onnx.checker.check_model(onnx.load_from_string(to_bytes(smaller)), full_check=True)
        assert check(mask(network, grouping, keep), smaller, seed=seed, num_inputs=2) < 1e-5


def test_a_computed_target_gets_its_entry_at_run_time() -> None:
    """A Reshape target that holds two symbolic lengths cannot be a constant; the channel count is set in it."""
    text = """
    net (float[N,3,H,8] x) => (float[N,4,H] y)
    <float[12,3,1,1] a_w, float[4,12,1] b_w, int64[1] rest = {12}, int64[1] first = {0}, int64[1] third = {2},
     int64[1] axes = {3}>
    {
      [a] a0 = Conv (x, a_w)
      [m] a = ReduceMean <axes = [3], keepdims = 1> (a0)
      [s] shape = Shape (x)
      [n] n = Gather (shape, first)
      [h] h = Gather (shape, third)
      [c] target = Concat <axis = 0> (n, rest, h)
      [r] r = Reshape (a, target)
      [b] y = Conv (r, b_w)
    }
    """
    network = graph(text)
    grouping = find(network)
    keep = random_keep(grouping, 5)

    assert 12 == grouping.num_units
    assert check(mask(network, grouping, keep), cut(network, grouping, keep), seed=0) < 1e-5


def test_each_node_has_its_own_constant() -> None:
    """A shape that two nodes share in the file is set for each on its own."""
    text = """
    net (float[N,3,8,8] x) => (float[N,4] y)
    <float[6,3,1,1] a_w, float[6,3,1,1] b_w, float[4,768] fc_w, float[4] fc_b, int64[2] z = {0, 384}>
    {
      [a] a = Conv (x, a_w)
      [b] b = Conv (x, b_w)
      [ra] ra = Reshape (a, z)
      [rb] rb = Reshape (b, z)
      [j] j = Concat <axis = 1> (ra, rb)
      [fc] y = Gemm <transB = 1> (j, fc_w, fc_b)
    }
    """
    network = graph(text)
    grouping = find(network)
    kept = np.ones(12, np.bool_)
    kept[[0, 1, 6]] = False
    smaller = cut(network, grouping, type(random_keep(grouping, 0))(mask=kept))
    shapes = {value.name: value.shape[1] for node in smaller.graph for value in node.outputs}

    assert (4 * 64, 5 * 64) == (shapes["ra"], shapes["rb"])
