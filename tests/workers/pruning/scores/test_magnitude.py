"""Norms of filters, against sums worked out with numpy."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.workers.pruning.seeded import RESIDUAL, loaded
from workers.pruning.errors import NonFiniteScore
from workers.pruning.groups.find import find
from workers.pruning.scores.magnitude import magnitude


def test_a_unit_of_one_layer_has_the_norm_of_its_filter() -> None:
    """Between two layers the score is the sum of squares, or of absolute values, of one filter."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    group = next(group for group in grouping.groups if group.producers == ("c2",))
    weight = graph.graph.initializers["w2"].const_value.numpy().astype(np.float64)

    squares = magnitude(graph, grouping).values[group.start : group.stop]
    absolutes = magnitude(graph, grouping, "l1").values[group.start : group.stop]

    np.testing.assert_allclose(squares, (weight**2).sum((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(absolutes, np.abs(weight).sum((1, 2, 3)), rtol=1e-6)


def test_a_unit_of_several_layers_has_the_sum_of_their_norms() -> None:
    """A residual channel counts all layers that add to it."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    group = next(group for group in grouping.groups if len(group.producers) == 3)
    weights = [graph.graph.initializers[name].const_value.numpy().astype(np.float64) for name in ("w1", "w3", "w5")]

    squares = magnitude(graph, grouping).values[group.start : group.stop]

    np.testing.assert_allclose(squares, sum((weight**2).sum((1, 2, 3)) for weight in weights), rtol=1e-6)


def test_a_weight_that_is_not_a_number_is_refused() -> None:
    """The message names node and weight."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    value = graph.graph.initializers["w2"]
    weight = value.const_value.numpy().copy()
    weight[1, 2, 0, 0] = np.nan
    value.const_value = ir.tensor(weight, name="w2")

    with pytest.raises(NonFiniteScore, match="a weight is NaN or infinite; at c2; found w2"):
        magnitude(graph, grouping)
