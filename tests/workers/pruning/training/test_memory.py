"""What autograd keeps, counted by hand on layers whose saved tensors are known."""

import torch

from workers.pruning.training.memory import Saved, measure


def test_a_relu_keeps_its_result_once():
    """Two ReLUs of ten float32 keep two results of 40 bytes; the sum behind them keeps nothing."""
    x = torch.randn(10, requires_grad=True)
    with Saved([x]) as saved:
        torch.relu(torch.relu(x)).sum()

    assert saved.num_bytes == 80


def test_parameters_are_counted_elsewhere():
    """A linear layer keeps its input, 3 x 4 floats, and its weight, which is not counted."""
    weight, x = torch.randn(5, 4, requires_grad=True), torch.randn(3, 4)
    with Saved([weight]) as saved:
        (x @ weight.T).sum()
    assert saved.num_bytes == 48


def test_the_line_goes_through_what_was_measured():
    """Per sample 7 floats are kept, and 100 bytes are given as fixed: at 50 samples 100 + 1400 bytes."""

    def loss_of(count):
        return torch.relu(torch.randn(count, 7, requires_grad=True)).sum()

    model = measure(loss_of, [], 0, 100)

    assert model.sample_bytes == 28
    assert model.at(50) == 100 + 50 * 28
