"""What networks compute from the lengths of tensors that a cut makes smaller."""

import numpy as np

from tests.networks import graph
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep

# Attention whose weights are scaled by the lengths of the queries and the number of elements of the keys.
_TOLD = """
told (float[N,5,6] x) => (float[N,5,3] y)
<float[6,8] q_w, float[6,8] k_w, float[6,8] v_w, float[8,3] out_w, int64[4] heads = {0,5,2,4}, int64[3] whole = {0,5,8},
 float small = {0.01}>
{
  [q] q0 = MatMul (x, q_w)
  [k] k0 = MatMul (x, k_w)
  [v] v0 = MatMul (x, v_w)
  q1 = Reshape (q0, heads)
  k1 = Reshape (k0, heads)
  v1 = Reshape (v0, heads)
  [scores] s0 = Einsum <equation = "bihd,bjhd->bhij"> (q1, k1)
  [told] n0 = Shape (q1)
  n1 = Cast <to = 1> (n0)
  n2 = ReduceSum <keepdims = 0> (n1)
  [size] z0 = Size (k1)
  z1 = Cast <to = 1> (z0)
  n3 = Add (n2, z1)
  n = Mul (n3, small)
  s1 = Mul (s0, n)
  s = Softmax <axis = -1> (s1)
  [mix] m0 = Einsum <equation = "bhij,bjhd->bihd"> (s, v1)
  m = Reshape (m0, whole)
  [out] y = MatMul (m, out_w)
}
"""


def test_lengths_that_are_cut_twice_are_restored_twice() -> None:
    """Positions and a whole head go from one tensor: its Shape and its Size get two corrections, each with a name."""
    network = graph(_TOLD)
    grouping = find(network)
    kept = np.ones(4 + 4 + 2, np.bool_)
    kept[[1, 5, 9]] = False
    keep = Keep(mask=kept)
    smaller = cut(network, grouping, keep)
    names = [node.name for node in smaller.graph]

    assert [(4, False), (4, False), (2, True)] == [(group.width, group.whole_heads) for group in grouping.groups]
    assert len(network.graph) + 2 + 2 * 2 == len(names) == len(set(names))
    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=0)
