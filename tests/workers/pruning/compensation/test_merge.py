"""Repair without data: what is like another channel is lost without loss."""

import numpy as np
import pytest

from tests.workers.pruning.seeded import MIXED, RESIDUAL, answers, images, loaded
from workers.pruning.compensation.merge import merge
from workers.pruning.graph.filters import filters_of
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Keep

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 3, 8, 8] x, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2,
       float[10, 8, 1, 1] w3, float[10] b3, float[4, 10] w4, float[4] b4) => (float[N, 4] y)
{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r1 = %s (c1)
  c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r1, w2, b2)
  r2 = Relu (c2)
  c3 = Conv (r2, w3, b3)
  r3 = Relu (c3)
  pooled = GlobalAveragePool (r3)
  flat = Flatten (pooled)
  y = Gemm <transB = 1> (flat, w4, b4)
}
"""


def group_of(graph, node):
    return next(group for group in find(graph).groups if node in group.producers)


def without(graph, unit):
    mask = np.ones(find(graph).num_units, np.bool_)
    mask[unit] = False
    return Keep(mask=mask)


def repaired(graph, unit):
    grouping, keep = find(graph), without(graph, unit)
    return cut(merge(graph, grouping, keep), grouping, keep), cut(graph, grouping, keep)


def with_row(graph, names, row, like, factors):
    """The graph with one row of some weights a multiple of another row."""
    arrays = {name: weights(graph)[name].copy() for name in names}
    for name, factor in zip(names, factors, strict=True):
        arrays[name][row] = factor * arrays[name][like]
    return replace_weights(graph, arrays)


def test_a_multiple_of_another_channel_is_lost_without_loss() -> None:
    """Behind rectifiers and a depthwise layer the factors multiply, biases included."""
    graph = with_row(loaded(CHAIN % "Relu"), ("w1", "b1", "w2", "b2"), 5, 2, (3.0, 3.0, 0.5, 1.5))
    merged, smaller = repaired(graph, group_of(graph, "c1").start + 5)
    x = images(20)

    assert np.abs(answers(smaller, x)[0] - answers(graph, x)[0]).max() > 1e-2
    np.testing.assert_allclose(answers(merged, x)[0], answers(graph, x)[0], atol=1e-4)


def test_normalisation_belongs_to_the_filter() -> None:
    """Filters that differ by a factor which their BatchNormalization takes back are equal."""
    graph = loaded(RESIDUAL)
    graph = with_row(graph, ("w2", "mean2", "var2", "scale2", "shift2"), 5, 2, (2.0, 2.0, 4.0, 1.0, 1.0))
    merged, smaller = repaired(graph, group_of(graph, "c2").start + 5)
    x = images(20)

    assert np.abs(answers(smaller, x)[0] - answers(graph, x)[0]).max() > 1e-2
    np.testing.assert_allclose(answers(merged, x)[0], answers(graph, x)[0], atol=1e-3)


def test_where_factors_do_not_pass_lengths_count() -> None:
    """In front of a sigmoid only an equal filter is the same; one three times as long is not."""
    graph = with_row(loaded(CHAIN % "Sigmoid"), ("w1", "b1", "w2", "b2"), 5, 2, (3.0, 3.0, 1.0, 1.0))
    filters = filters_of(graph, find(graph), group_of(graph, "c1"))
    cosine, factor = filters.likeness()

    assert not filters.homogeneous
    assert cosine[5, 2] == pytest.approx(1 / 3, rel=1e-6)
    assert (factor == 1).all()


@pytest.mark.parametrize("text", [RESIDUAL, MIXED, CHAIN % "Relu"])
def test_any_network_is_merged_or_left(text: str) -> None:
    """With half of the units gone the merged network has the sizes of the cut one and finite answers."""
    graph = loaded(text)
    grouping = find(graph)
    mask = np.arange(grouping.num_units) % 2 == 0
    for group in grouping.groups:
        mask[group.start] = True
    keep = Keep(mask=mask)
    merged, smaller = cut(merge(graph, grouping, keep), grouping, keep), cut(graph, grouping, keep)

    assert {name: array.shape for name, array in weights(merged).items()} == {
        name: array.shape for name, array in weights(smaller).items()
    }
    assert np.isfinite(answers(merged, images(4))[0]).all()


def test_with_nothing_removed_nothing_changes() -> None:
    """A network that keeps all its units keeps all its numbers."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    merged = merge(graph, grouping, Keep(mask=np.ones(grouping.num_units, np.bool_)))

    for name, array in weights(graph).items():
        np.testing.assert_array_equal(weights(merged)[name], array)
