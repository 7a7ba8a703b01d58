"""The rate that a network bears, asked of the network itself."""

import pytest
import torch

from workers.pruning.training.probing import bearable_rate


class Bowl(torch.nn.Module):
    """A quadratic of known curvature, and a statistic that every call moves."""

    def __init__(self, curvature):
        super().__init__()
        self.curvature = curvature
        self.weight = torch.nn.Parameter(torch.full((3,), 0.001))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self):
        """Half the curvature times the squared distance from zero."""
        self.seen += 1
        return 0.5 * self.curvature * self.weight.square().sum()


@pytest.mark.parametrize(("curvature", "rate"), [(45.0, 0.01), (90.0, 0.005), (900.0, 0.0003125)])
def test_the_rate_is_halved_until_four_times_of_it_descends(curvature, rate):
    """Gradient descent falls below 2 / curvature: four times the rate has to be under that (by hand)."""
    bowl = Bowl(curvature)

    assert 4 * rate < 2 / curvature <= 8 * rate
    assert bearable_rate(0.01, bowl, [bowl.loss]) == rate


def test_the_network_is_left_as_it_was():
    """Weights and statistics are back, and no gradient stays."""
    bowl = Bowl(1000.0)
    bearable_rate(0.01, bowl, [bowl.loss, bowl.loss])

    assert torch.equal(bowl.weight, torch.full((3,), 0.001))
    assert bowl.seen == 0
    assert bowl.weight.grad is None


def test_a_loss_of_nothing_lowers_no_rate():
    """A network that already answers as the original has no gradient, and keeps the usual rate."""
    bowl = Bowl(0.0)

    assert bearable_rate(0.01, bowl, [bowl.loss]) == 0.01
