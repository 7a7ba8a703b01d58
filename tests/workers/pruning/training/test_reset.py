"""A network that has forgotten what it learned."""

import numpy as np
import pytest

from tests.workers.pruning.seeded import MIXED, loaded
from workers.pruning.graph.weights import weights
from workers.pruning.training.reset import reset

WIDE = """
<ir_version: 8, opset_import: ["" : 17]>
wide (float[N, 16, 8, 8] x, float[64, 16, 3, 3] w1, float[64] b1, float[64, 256] w2, float[256] b2,
      float[100, 256] w3, float[100] b3) => (float[N, 100] y)
{
  a = Conv (x, w1, b1)
  c = GlobalAveragePool (a)
  d = Flatten (c)
  e = Gemm (d, w2, b2)
  y = Gemm <transB = 1> (e, w3, b3)
}
"""


@pytest.mark.parametrize(("name", "inputs"), [("w1", 144), ("w2", 64), ("w3", 256)])
def test_deviations_are_those_of_he(name, inputs):
    """Filters and matrices have deviation sqrt(2 / n), n being what one output reads, however they are stored."""
    fresh = weights(reset(loaded(WIDE), 0))[name]

    assert fresh.std() == pytest.approx((2 / inputs) ** 0.5, rel=0.05)


def test_normalisations_are_the_identity_and_biases_zero():
    """Scales and variances are 1; shifts, means and biases 0."""
    fresh = weights(reset(loaded(MIXED), 0))

    assert {float(v) for name in ("scale1", "var1", "scale6", "var6") for v in fresh[name]} == {1.0}
    assert {float(v) for name in ("shift1", "mean1", "b2", "b8") for v in fresh[name]} == {0.0}


def test_the_seed_decides():
    """The same seed gives the same weights, whatever was uploaded, and another seed others."""
    one, same, other = (weights(reset(loaded(MIXED, n), seed))["w3"] for n, seed in ((0, 0), (1, 0), (0, 1)))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
