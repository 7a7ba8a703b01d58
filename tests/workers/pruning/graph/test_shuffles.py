"""Shuffles in front of grouped convolutions become a list of channels; others stay as they are."""

import numpy as np
import pytest

from tests.networks import onnx_bytes
from tests.workers.pruning.graph.single import normal, run_engine, run_reference
from workers.pruning.graph.load import load

_TEXT = """
shuffled (float[N,6,4,4] x) => (float[N,6,4,4] y{also})
<float[6] n_scale, float[6] n_b, float[6] n_mean, float[6] n_var, float[6,{inputs},3,3] w,
 int64[5] open = {{0,{groups},-1,4,4}}, int64[4] close = {{0,6,4,4}}>
{{
  [open] a = Reshape (x, open)
  [turn] b = Transpose <perm = [{perm}]> (a)
  [close] c = Reshape (b, close)
  [norm] n = BatchNormalization (c, n_scale, n_b, n_mean, n_var)
  [conv] y = Conv <group = {of}, pads = [1,1,1,1]> (n, w)
}}
"""
_SWAP = "0,2,1,3,4"


@pytest.mark.parametrize("groups", [2, 3])
def test_a_shuffle_in_front_of_groups_is_a_list_of_channels(groups: int) -> None:
    """Channel e of group g comes to place e G + g; the network computes what it computed."""
    content = onnx_bytes(_TEXT.format(also="", inputs=2, groups=groups, of=3, perm=_SWAP))
    nodes = {node.name: node for node in load(content).graph}
    each = 6 // groups
    expected = [g * each + e for e in range(each) for g in range(groups)]
    feeds = {"x": normal((2, 6, 4, 4))}

    assert ["close", "norm", "conv"] == list(nodes)
    assert ("Gather", expected) == (nodes["close"].op_type, nodes["close"].inputs[1].const_value.numpy().tolist())
    np.testing.assert_allclose(run_engine(content, feeds)[0], run_reference(content, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("also", "inputs", "of", "perm"),
    [
        ("", 6, 1, _SWAP),
        ("", 1, 6, _SWAP),
        (", float[N,3,2,4,4] b", 2, 3, _SWAP),
        ("", 2, 3, "0,2,1,4,3"),
    ],
    ids=["plain", "depthwise", "part is read", "turned as well"],
)
def test_what_is_no_shuffle_in_front_of_groups_stays(also: str, inputs: int, of: int, perm: str) -> None:
    """Reshape, Transpose, Reshape are left alone."""
    content = onnx_bytes(_TEXT.format(also=also, inputs=inputs, groups=2, of=of, perm=perm))

    assert ["open", "turn", "close", "norm", "conv"] == [node.name for node in load(content).graph]
