"""Scores without meaning: what every claim has to beat."""

import numpy as np

from workers.pruning.types import Grouping, Scores

_STREAM = 101  # keeps these draws apart from others of the same seed


def random_scores(grouping: Grouping, seed: int) -> Scores:
    """Score each unit with a number drawn uniformly from (0, 1], the same for the same seed."""
    rng = np.random.default_rng([seed, _STREAM])
    return Scores(values=1.0 - rng.random(grouping.num_units), source="random")
