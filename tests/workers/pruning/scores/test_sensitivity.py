"""The change of the outputs without a group's weaker half, on networks where it can be worked out."""

import numpy as np
import pytest

from tests.networks import graph
from workers.pruning.graph.feed import frozen_module
from workers.pruning.groups.find import find
from workers.pruning.scores.sensitivity import MAX_SAMPLES, affordable, sensitivity

HEADER = '<ir_version: 10, opset_import: ["" : 17]>'
# Two hidden units that read the input as it is; the second is twice as large and read with the same weight.
TWO_UNITS = """two (float[N,1] x) => (float[N,1] y)
  <float[2,1] a = {1, 2}, float[1,2] b = {1, 1}> {
    h = Gemm <transB = 1> (x, a)
    y = Gemm <transB = 1> (h, b) }"""


def test_the_weaker_half_is_what_goes():
    """Of y = x + 2x the smaller filter's x goes: one third of the output, whatever the input."""
    network = graph(TWO_UNITS, header=HEADER)
    grouping = find(network)

    found = sensitivity(
        frozen_module(network, "cpu"), network, grouping, [np.array([[1.0], [-4.0]], np.float32)], order=[0]
    )

    assert found.changes == (pytest.approx(1 / 3),)
    assert found.num_samples == 2


def test_only_the_groups_asked_for_are_measured():
    """The others have no figure, rather than a guess."""
    network = graph("residual")
    grouping = find(network)
    shape = [2, *(int(length) for length in list(network.graph.inputs[0].shape)[1:])]
    batch = [np.random.default_rng(0).standard_normal(shape).astype(np.float32)]

    found = sensitivity(frozen_module(network, "cpu"), network, grouping, batch, order=[1])

    assert [change is not None for change in found.changes] == [n == 1 for n in range(len(grouping.groups))]
    assert found.changes[1] > 0


@pytest.mark.parametrize(
    ("macs", "expected"),
    [(1_000, (10, MAX_SAMPLES)), (10**9, (10, 3)), (4 * 10**9, (9, 1)), (10**12, (0, 1))],
)
def test_the_work_is_bounded_whatever_the_network(macs, expected):
    """Samples are given up first, then groups; 4e10 multiply-adds are all there is."""
    assert affordable(10, macs, 0) == expected
