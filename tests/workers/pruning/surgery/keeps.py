"""Random keeps for property tests: every group keeps at least one unit."""

import numpy as np

from workers.pruning.types import Grouping, Keep


def random_keep(grouping: Grouping, seed: int) -> Keep:
    """Keep between one and all units of every group, drawn from `seed`."""
    random = np.random.default_rng(seed)
    mask = np.zeros(grouping.num_units, np.bool_)
    for group in grouping.groups:
        count = int(random.integers(1, group.width + 1))
        mask[random.choice(np.arange(group.start, group.stop), count, replace=False)] = True
    return Keep(mask=mask)


def widths(grouping: Grouping, keep: Keep) -> list[int]:
    """Units that every group keeps."""
    return [int(keep.mask[group.start : group.stop].sum()) for group in grouping.groups]
