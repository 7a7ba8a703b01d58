"""Views that pick every element in order become a Reshape; any other view stays as it is."""

import numpy as np
import pytest

from tests.networks import onnx_bytes
from tests.workers.pruning.graph.single import normal, run_engine, run_reference
from workers.pruning.graph.load import load

# As `torch.as_strided` is exported: sample n, channel c is element n * stride + c * step + first.
_TEXT = """
strided (float[N,6] x) => (float[N,{count},1,1] y)
<int64[1] flat = {{-1}}, int64 zero = {{0}}, int64 one = {{1}}, int64 stride = {{{stride}}},
 int64[3] behind = {{1,2,3}}, int64[1,{count},1,1] channels = {{{channels}}}, int64 large = {{{large}}}>
{{
  r = Relu (x)
  [flat] f = Reshape (r, flat)
  s = Shape <start = 0, end = 1> (x)
  n = Squeeze (s)
  m = Mul (n, large)
  a = Range (zero, m, one)
  b = Mul (a, stride)
  c = Unsqueeze (b, behind)
  p = Add (c, channels)
  [view] y = Gather (f, p)
}}
"""


def _text(stride: int, channels: str, count: int = 6, large: int = 1) -> bytes:
    return onnx_bytes(_TEXT.format(stride=stride, channels=channels, count=count, large=large))


def test_a_view_of_the_whole_tensor_is_a_reshape() -> None:
    """Six numbers a sample, six apart: what is computed stays, whatever the number of samples."""
    content = _text(6, "0,1,2,3,4,5")
    feeds = {"x": normal((5, 6))}
    nodes = {node.name: node for node in load(content).graph}

    assert "Reshape" == nodes["view"].op_type
    assert [-1, 6, 1, 1] == nodes["view"].inputs[1].const_value.numpy().tolist()
    assert "flat" not in nodes
    np.testing.assert_allclose(run_engine(content, feeds)[0], run_reference(content, feeds)[0])


@pytest.mark.parametrize(
    ("stride", "channels", "count", "large"),
    [(6, "0,2,1,3,4,5", 6, 1), (5, "0,1,2,3,4,5", 6, 1), (6, "0,1,2", 3, 1), (6, "0,1,2,3,4,5", 6, 1 << 40)],
    ids=["another order", "overlapping", "a part", "far too many"],
)
def test_any_other_view_stays(stride: int, channels: str, count: int, large: int) -> None:
    """The Gather is left alone, and nothing large is computed to tell."""
    nodes = {node.name: node for node in load(_text(stride, channels, count, large)).graph}

    assert "Gather" == nodes["view"].op_type
