"""The optimiser moves weights as torch's does, without what that loads."""

import subprocess
import sys

import torch

from workers.pruning.training.optimizer import Descent


def trained(optimizer_of):
    """Parameters after four steps on a quadratic of random curvature."""
    torch.manual_seed(0)
    matrix, vector = torch.nn.Parameter(torch.randn(5, 4)), torch.nn.Parameter(torch.randn(5))
    optimizer = optimizer_of(matrix, vector)
    for step in range(4):
        optimizer.zero_grad()
        ((matrix * (step + 1)).sum(1) + vector).square().sum().backward()
        optimizer.step()
    return matrix, vector, optimizer.state[matrix]["momentum_buffer"]


def test_it_gives_the_bits_of_torchs_own():
    """Weights and momentum after four steps equal those of torch.optim.SGD with Nesterov momentum."""

    def groups(matrix, vector):
        return [
            {"params": [matrix], "lr": 0.01, "weight_decay": 5e-4},
            {"params": [vector], "lr": 0.01, "weight_decay": 0.0},
        ]

    ours = trained(lambda *each: Descent(groups(*each), momentum=0.9))
    theirs = trained(lambda *each: torch.optim.SGD(groups(*each), lr=0.01, momentum=0.9, nesterov=True))

    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_training_loads_no_compiler():
    """A step leaves torch's compiler unloaded, in a process of its own."""
    code = """
import sys, torch
from workers.pruning.training.optimizer import Descent
weight = torch.nn.Parameter(torch.ones(2))
optimizer = Descent([{"params": [weight], "lr": 0.1, "weight_decay": 0.0}], momentum=0.9)
weight.sum().backward()
optimizer.step()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
