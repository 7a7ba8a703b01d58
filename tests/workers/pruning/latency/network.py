"""A network of usual layers, wide enough that steps in widths matter."""

from tests.workers.pruning.seeded import loaded
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.groups.lengths import Lengths
from workers.pruning.latency import layers

WIDE = """
<ir_version: 8, opset_import: ["" : 17]>
wide (float[N, 3, 16, 16] x, float[48, 3, 3, 3] w1, float[48] b1,
      float[64, 48, 3, 3] w2, float[64] scale2, float[64] shift2, float[64] mean2, float[64] var2,
      float[48, 64, 3, 3] w3, float[48] b3, float[96, 48, 1, 1] w4, float[96] b4, float[96, 1, 3, 3] w5, float[96] b5,
      float[64, 96, 1, 1] w6, float[64] b6, float[5, 64] w7, float[5] b7) => (float[N, 5] y)
{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
  n2 = BatchNormalization (c2, scale2, shift2, mean2, var2)
  r2 = Relu (n2)
  c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3, b3)
  s3 = Add (c3, r1)
  r3 = Relu (s3)
  c4 = Conv (r3, w4, b4)
  r4 = Relu (c4)
  c5 = Conv <pads = [1, 1, 1, 1], strides = [2, 2], group = 96> (r4, w5, b5)
  r5 = Relu (c5)
  c6 = Conv (r5, w6, b6)
  g6 = GlobalAveragePool (c6)
  f6 = Flatten (g6)
  y = Gemm <transB = 1> (f6, w7, b7)
}
"""


def parts_of(text=WIDE):
    """The network, its groups, its cost model and its layers."""
    graph = loaded(text)
    grouping = find(graph)
    return graph, grouping, cost_model(graph, grouping), layers.find(graph, Lengths(graph, grouping).of)
