"""A network for one batch size takes any where its samples are independent; a refusal says what stood in the way."""

import pytest

from tests.networks import graph
from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.load import input_specs
from workers.pruning.graph.open_batch import open_batch

_ROOT = """
rooted (float[2,6] x) => (float[2,4] y)
<float[6,4] w, float[1] shift>
{{
  a = MatMul (x, w)
  {root}
}}
"""


def test_numbers_that_are_not_finite_are_compared_as_they_are() -> None:
    """Roots of drawn numbers are NaN where these are negative, in a batch of four as in two of two: it is opened."""
    opened = open_batch(graph(_ROOT.format(root="y = Sqrt (a)")))

    assert ("batch", 6) == input_specs(opened)[0].shape


def test_a_network_that_gives_no_finite_numbers_is_told_so() -> None:
    """The logarithm of a negative number everywhere: the refusal names the output and NaN, not the batch size."""
    never = graph(_ROOT.format(root="b = Abs (a) c = Neg (b) y = Log (c)"))

    with pytest.raises(InvalidGraph, match=r"no finite numbers.*output 'y'.*NaN or infinity"):
        open_batch(never)


def test_samples_that_look_at_each_other_are_refused() -> None:
    """A softmax over the batch gives a sample another answer in a larger batch."""
    with pytest.raises(InvalidGraph, match="works for one batch size only"):
        open_batch(graph(_ROOT.format(root="y = Softmax <axis = 0> (a)")))
