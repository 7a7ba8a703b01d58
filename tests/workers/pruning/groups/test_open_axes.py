"""Channels beside samples on an axis without a fixed length: followed where nothing has to be written, else frozen."""

import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask

# Two by two pixels of 6 channels become rows of their own, four for each sample, as in a MobileViT.
_TEXT = """
unfolded (float[N,3,4,4] x) => (float[N,5,4,4] y{also})
<float[6,3,1,1] in_w, float[6,9] wide_w, float[9,6] narrow_w, float[5,6,1,1] out_w,
 int64[4] open = {{-1,2,2,2}}, int64[4] fold = {{{fold}}}, int64[3] rows = {{-1,4,6}}, int64[4] unrows = {{-1,4,4,6}},
 int64[4] unfold = {{-1,2,2,2}}, int64[4] close = {{-1,6,4,4}}>
{{
  [in] a = Conv (x, in_w)
  b = Reshape (a, open)
  [turn] c = Transpose <perm = [0,2,1,3]> (b)
  {between}
  e = Reshape ({folded}, fold)
  f = Transpose <perm = [0,3,2,1]> (e)
  g = Reshape (f, rows)
  [wide] h = MatMul (g, wide_w)
  i = Relu (h)
  [narrow] j = MatMul (i, narrow_w)
  k = Add (g, j)
  l = Reshape (k, unrows)
  m = Transpose <perm = [0,3,2,1]> (l)
  n = Reshape (m, unfold)
  o = Transpose <perm = [0,2,1,3]> (n)
  p = Reshape (o, close)
  [out] y = Conv (p, out_w)
}}
"""


def _text(also: str = "", between: str = "", folded: str = "c", fold: str = "-1,6,4,4") -> str:
    return _TEXT.format(also=also, between=between, folded=folded, fold=fold)


def test_channels_of_unfolded_patches_go() -> None:
    """Six channels are made by the first convolution and the narrow layer; nine lie between the two layers."""
    grouping = find(graph(_text()))

    assert [(6, ("in", "narrow"), ("wide", "out")), (9, ("wide",), ("narrow",))] == [
        (group.width, group.producers, group.consumers) for group in grouping.groups
    ]
    # Channel c has rows 2c and 2c + 1 of two pixels each on the axis that also counts the samples.
    assert [unit for unit in range(6) for _ in range(2)] == grouping.value_axes["c"][0].tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_they_are_cut_with_their_patches(seed: int) -> None:
    """Cut equals masked, in batches too; no file promises a length that it does not have."""
    network = graph(_text())
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)
    turned = next(node for node in smaller.graph if node.name == "turn").outputs[0]

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    assert turned.shape is not None
    assert not isinstance(turned.shape[0], int)


@pytest.mark.parametrize(
    "text",
    [
        _text(also=", float[M,2,2,2] c"),
        _text(between="d = Relu (c)", folded="d"),
        _text(between="d = Gather <axis = 0> (c, picked)", folded="d").replace(
            "int64[4] open", "int64[12] picked = {0,1,2,3,4,5,6,7,8,9,10,11}, int64[4] open"
        ),
    ],
    ids=["an output", "read by a layer", "picked"],
)
def test_they_stay_where_anything_else_reads_that_axis(text: str) -> None:
    """The stream is frozen; what lies between the two layers is not."""
    grouping = find(graph(text))

    assert [9] == [group.width for group in grouping.groups]
    assert {"in", "narrow"} <= {entry.node for entry in grouping.frozen}
