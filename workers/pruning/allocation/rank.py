"""One allocator for all methods: remove the units that are worth least per cost, until every budget holds."""

from collections.abc import Sequence

import numpy as np

from workers.pruning.allocation.alignment import MACS_PER_PARAM, steps_for
from workers.pruning.allocation.budget import aligned_floors, cost, figure, floor_widths, holds, require_reachable
from workers.pruning.allocation.descent import Descent, Queue, refill
from workers.pruning.allocation.fill import TOLERANCE, fill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.allocation.timed import allocate_timed
from workers.pruning.errors import NonFiniteScore
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Scores


def allocate(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    *,
    alpha: float = 1.0,
    round_to: int | None = None,
    min_keep: float = 0.1,
    limits: Sequence[LatencyLimit] = (),
) -> Keep:
    """Choose which units stay so that no budget is exceeded and as little score as possible is lost.

    Source: greedy knapsack. The next block to go is the one with the smallest mean score over
    (cost that its removal saves per unit) ** alpha; the saving is that of the current widths. Savings only shrink while
    neighbours shrink, so a stale priority is a lower bound and the queue is corrected when an entry comes up. Alpha 0
    is a global threshold on the scores, found without bisection. The last block is the one that loses the least score
    among those that finish the work, and blocks are given back in reverse order afterwards while the budgets still
    hold, so that large blocks do not overshoot without need. Ties go to the earlier group.

    With several budgets a saving is the sum of relative savings over those that do not hold yet. Limits on predicted
    latency are budgets beside the others, see `timed`.

    Args:
        scores: damage expected from removing each unit alone.
        grouping: the units.
        model: cost of any widths.
        budgets: absolute limits; all hold for the result.
        alpha: 0 ranks by score alone, 1 by score per cost.
        round_to: channels removed at a time. None chooses what the runtime likes (see alignment): steps by the width of
            the tensor, blocks kept filled, and savings of MACs that include the time to read parameters; where that
            cannot reach the target, single channels; where it undershoots by more than a hundredth, single channels of
            the group where they are worth most, or of a few, come back; where a hundredth of the whole network stays
            unused even so, single channels from the start if they use more.
        min_keep: share of every group that stays at least.
        limits: predicted latencies that hold as well; with them, the devices' steps stand in for `round_to`.

    Raises:
        TargetUnreachable: even the floor of all groups exceeds a budget; states the smallest reachable values.
        NonFiniteScore: a score is NaN, infinite or negative.
    """
    _check(scores, grouping)
    require_reachable(model, budgets, min_keep=min_keep, round_to=round_to)
    if limits:
        return allocate_timed(scores, grouping, model, budgets, limits, alpha=alpha, min_keep=min_keep)
    return _allocated(scores, grouping, model, budgets, alpha=alpha, round_to=round_to, min_keep=min_keep)


def _allocated(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    *,
    alpha: float,
    round_to: int | None,
    min_keep: float,
) -> Keep:
    """Remove blocks until the budgets hold, and give back what fits."""
    aligned = round_to is None and holds(cost(model, aligned_floors(model, min_keep)), budgets)
    queues = _queues(scores, grouping, model, round_to=round_to, min_keep=min_keep, aligned=aligned)
    ledger = Ledger(model, budgets, macs_per_param=MACS_PER_PARAM if aligned else 0.0)
    gone = refill(queues, ledger, Descent(queues, ledger, alpha).run())
    removed = [queue.units(blocks) for queue, blocks in zip(queues, gone, strict=True)]
    worth = [scores.values[queue.order] for queue in queues]
    back = fill(ledger, removed, worth) if aligned else [0] * len(removed)
    keep = _kept(grouping, queues, removed, back)
    if aligned and _unused(keep, grouping, model, budgets) > TOLERANCE:
        single = _allocated(scores, grouping, model, budgets, alpha=alpha, round_to=1, min_keep=min_keep)
        return min(keep, single, key=lambda each: _unused(each, grouping, model, budgets))
    return keep


def _queues(
    scores: Scores, grouping: Grouping, model: CostModel, *, round_to: int | None, min_keep: float, aligned: bool
) -> list[Queue]:
    """The blocks of every group in the order in which they go, down to its floor."""
    floors = aligned_floors(model, min_keep) if aligned else floor_widths(model, min_keep, round_to)
    steps = steps_for(model, None if aligned else round_to or 1)
    return [
        Queue.of(scores.values[group.start : group.stop], group.start, step=step, floor=floor)
        for group, step, floor in zip(grouping.groups, steps, floors, strict=True)
    ]


def _kept(grouping: Grouping, queues: Sequence[Queue], removed: Sequence[int], back: Sequence[int]) -> Keep:
    mask = np.ones(grouping.num_units, np.bool_)
    for queue, units, returned in zip(queues, removed, back, strict=True):
        mask[queue.order[: units - returned]] = False
    return Keep(mask=mask)


def _unused(keep: Keep, grouping: Grouping, model: CostModel, budgets: Sequence[Budget]) -> float:
    """What a choice leaves of the budget that it uses most, as a share of the whole network's figure."""
    now = cost(model, grouping.widths(keep))
    full = cost(model, model.widths)
    return min(
        (
            (budget.limit - figure(now, budget.metric)) / max(1, figure(full, budget.metric))
            for budget in budgets
            if budget.limit < figure(full, budget.metric)
        ),
        default=0.0,
    )


def _check(scores: Scores, grouping: Grouping) -> None:
    values = scores.values
    if values.shape != (grouping.num_units,) or not np.isfinite(values).all() or (values < 0).any():
        raise NonFiniteScore(
            f"Scores of {scores.source} cannot be ranked",
            actual=f"{values.size}, of which {int((~np.isfinite(values)).sum())} are not finite and "
            f"{int((values < 0).sum())} are negative",
            allowed=f"{grouping.num_units} finite numbers from 0 up",
        )
