"""Exchanging the statistics of BatchNormalization: the function stays, and training mode begins at it."""

import numpy as np
import pytest
import torch

from tests.workers.pruning.seeded import RESIDUAL, answers, images, seeded
from workers.pruning.errors import NonFiniteScore
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.rebase import rebase, to_rebase
from workers.pruning.graph.weights import weights

X = images(64, seed=1)


@pytest.fixture
def graph():
    return seeded(RESIDUAL, seed=2)


@pytest.fixture
def statistics(graph):
    """Of what each BatchNormalization reads, over X."""
    read = to_rebase(graph)
    found = answers(graph, X, tuple(read.values()))[1:]
    return {name: (each.mean((0, 2, 3)), each.var((0, 2, 3))) for name, each in zip(read, found, strict=True)}


def test_every_normalisation_behind_a_node_is_found(graph):
    """The residual network has five, each behind a convolution."""
    assert to_rebase(graph) == {f"n{number}": f"c{number}" for number in range(1, 6)}


def test_the_function_stays_and_the_statistics_are_those_given(graph, statistics):
    """Outputs are equal to rounding, and the stored means are the new ones."""
    rebased = rebase(graph, statistics)

    np.testing.assert_allclose(answers(rebased, X)[0], answers(graph, X)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights(rebased)["mean3"], statistics["n3"][0], rtol=1e-6)
    assert not np.allclose(weights(graph)["mean3"], weights(rebased)["mean3"])


def test_training_mode_computes_the_network_afterwards(graph, statistics):
    """With the whole data as one batch, training mode gives what the network gives; before, it gave something else."""
    expected = answers(graph, X)[0]
    outputs = [
        GraphModule(each).train()(torch.from_numpy(X))[0].detach().numpy()
        for each in (graph, rebase(graph, statistics))
    ]

    assert np.abs(outputs[0] - expected).max() > 0.1
    np.testing.assert_allclose(outputs[1], expected, rtol=1e-3, atol=1e-3)


def test_statistics_that_are_no_numbers_are_refused(graph, statistics):
    """A NaN among the means names the node."""
    mean, variance = statistics["n2"]

    with pytest.raises(NonFiniteScore, match="n2"):
        rebase(graph, {"n2": (mean * np.nan, variance)})
