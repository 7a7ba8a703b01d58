"""Directions in which outputs move: their outer products are the Fisher information."""

import numpy as np
import pytest
import torch

from workers.pruning.scores.output import Kind, Reading, exact_directions, probe

Z = torch.tensor([[0.3, -1.2, 2.0]])


def information(kind: Kind) -> np.ndarray:
    """The Fisher information of the textbooks."""
    if kind is Kind.CATEGORICAL:
        p = torch.softmax(Z[0], 0).numpy()
        return np.diag(p) - np.outer(p, p)
    p = torch.sigmoid(Z[0]).numpy()
    return np.diag(p * (1 - p)) if kind is Kind.BERNOULLI else np.eye(3) / 4.0


@pytest.mark.parametrize("kind", list(Kind))
def test_exact_directions_make_up_the_information(kind: Kind) -> None:
    """The outer products of all directions sum to it."""
    deviation = torch.full((3,), 2.0)
    total = sum(np.outer(v[0], v[0]) for v in exact_directions(Reading(index=0, kind=kind), Z, deviation))

    np.testing.assert_allclose(total, information(kind), atol=1e-6)


@pytest.mark.parametrize("kind", list(Kind))
def test_probes_have_the_information_as_their_mean(kind: Kind) -> None:
    """The outer products of 20,000 drawn directions average to it within 0.02."""
    many = Z.expand(20_000, 3)
    v = probe(Reading(index=0, kind=kind), many, torch.full((3,), 2.0), np.random.default_rng(0)).numpy()

    np.testing.assert_allclose(v.T @ v / len(v), information(kind), atol=0.02)
