"""Gate scores that come with training are those of gates that are multiplied in."""

import numpy as np
import pytest
import torch

from tests.workers.pruning.seeded import MIXED, RESIDUAL, images, loaded
from workers.pruning.graph.execute import GraphModule
from workers.pruning.groups.find import find
from workers.pruning.scores.collect import find_sites, gate_edits
from workers.pruning.scores.running import RunningScores


@pytest.mark.parametrize("text", [RESIDUAL, MIXED])
def test_they_equal_gates_that_are_multiplied_in(text):
    """The mean square of the gradients of real gates, sample by sample, is what the hooks find without any gate."""
    graph = loaded(text)
    grouping = find(graph)
    sites = find_sites(graph, grouping)
    x = torch.from_numpy(images(6))
    module = GraphModule(graph).eval()
    gates = torch.ones(6, grouping.num_units, requires_grad=True)
    module.run([x], edits=gate_edits(sites, gates))[0].square().sum(1).mean().backward()
    wanted = (6 * gates.grad).square().mean(0).numpy()

    scores = RunningScores(grouping.num_units, "cpu")
    module.run([x], edits=scores.edits(sites, 6))[0].square().sum(1).mean().backward()
    scores.take()
    np.testing.assert_allclose(scores.values, 0.1 * wanted, rtol=1e-4, atol=1e-9)


def test_gradients_of_the_weights_stay_as_they_are():
    """Looking costs nothing in the result: every weight gets the gradient that it gets without."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    x = torch.from_numpy(images(4))
    found = []
    for look in (False, True):
        module = GraphModule(graph).eval()
        edits = RunningScores(grouping.num_units, "cpu").edits(find_sites(graph, grouping), 4) if look else {}
        module.run([x], edits=edits)[0].square().mean().backward()
        found.append([parameter.grad for parameter in module.parameters()])

    assert all(torch.equal(plain, looked) for plain, looked in zip(*found, strict=True))


def test_it_is_an_exponential_average():
    """After two steps with gradient squares 1 and 4 the average is 0.9 x 0.1 x 1 + 0.1 x 4, and it can be continued."""
    scores = RunningScores(1, "cpu")
    for gradient in (1.0, 2.0):
        scores.edits([], 1)
        scores._gradients[:] = gradient
        scores.take()

    assert scores.values == pytest.approx([0.49])
    assert RunningScores(1, "cpu", scores.averages).values == pytest.approx([0.49])


def test_a_unit_that_stops_answering_is_soon_worth_nothing():
    """One step with gradient 100, ten without: 0.9^10 of the first would be left, the lesser average has 0.5^10."""
    scores = RunningScores(1, "cpu")
    for gradient in (100.0, *[0.0] * 10):
        scores.edits([], 1)
        scores._gradients[:] = gradient
        scores.take()

    assert scores.values == pytest.approx([0.5 * 100.0**2 * 0.5**10])
