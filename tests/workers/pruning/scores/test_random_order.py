"""Scores drawn by chance."""

import numpy as np

from tests.workers.pruning.seeded import RESIDUAL, loaded
from workers.pruning.groups.find import find
from workers.pruning.scores.random_order import random_scores


def test_scores_are_positive_and_follow_the_seed() -> None:
    """The same seed draws the same scores, another seed others."""
    grouping = find(loaded(RESIDUAL))
    first, again, other = (random_scores(grouping, seed).values for seed in (1, 1, 2))

    assert first.shape == (grouping.num_units,)
    assert (first > 0).all()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
