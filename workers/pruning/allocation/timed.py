"""Widths under a limit on predicted latency: score per millisecond, then exchanges that keep more score within it."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from workers.pruning.allocation.budget import cost, floor_of, holds
from workers.pruning.allocation.descent import Descent, Queue, refill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Scores

_EXCHANGES: Final = 200  # at most
_CANDIDATES: Final = 12  # groups on each side of an exchange
_PAIRED: Final = 6  # of them, that are tried two at a time
_GRAINS: Final = 3  # sizes of steps that are planned with, each half of the one before
_FINEST: Final = 4  # channels
_GAIN: Final = 1e-9  # of the score at stake; less is rounding


def allocate_timed(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    limits: Sequence[LatencyLimit],
    *,
    alpha: float,
    min_keep: float,
) -> Keep:
    """Choose which units stay so that predicted latencies and budgets hold and as little score as possible is lost.

    Source: the greedy knapsack of `rank` with milliseconds for multiply-adds. Times fall in stairs, so blocks are the
    device's steps; where those cannot reach the target they are halved until they do. Then blocks are exchanged: one
    or two groups give a block, others take back what then fits, whenever more score stays and every limit holds, or as
    much stays in less time. With alpha 0, which ranks by score alone, nothing is exchanged. In narrow networks the
    device's steps leave little to choose from, so steps of a half and a quarter are planned with as well, down to four
    channels, and the plan with which most score stays is taken.

    Raises:
        TargetUnreachable: even the floor of all groups is predicted to be too slow, or exceeds a budget.
    """
    reaching = list(_reaching(model, budgets, limits, min_keep))
    if not reaching:
        raise _unreachable(model, limits, min_keep)
    finer = (
        [steps for steps in reaching[1:_GRAINS] if max(steps) >= _FINEST]
        if alpha and all(one.finer for one in limits)
        else []
    )
    plans = [
        _with_steps(scores, grouping, model, budgets, limits, steps=steps, alpha=alpha, min_keep=min_keep)
        for steps in (reaching[0], *finer)
    ]
    # Blocks within a stair save no time, so plans in finer steps may end above a limit.
    held = [keep for keep in plans if _hold(model, grouping.widths(keep), budgets, limits)]
    return max(held or plans[:1], key=lambda keep: float(scores.values[keep.mask].sum()))


def _hold(model: CostModel, kept: Sequence[int], budgets: Sequence[Budget], limits: Sequence[LatencyLimit]) -> bool:
    """Whether these widths are within every budget and every limit, as predicted."""
    return holds(cost(model, kept), budgets) and all(predicted(one, kept) <= one.limit_ms for one in limits)


def _with_steps(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    limits: Sequence[LatencyLimit],
    *,
    steps: Sequence[int],
    alpha: float,
    min_keep: float,
) -> Keep:
    """Choose widths in these steps."""
    floors = [floor_of(width, min_keep, step) for width, step in zip(model.widths, steps, strict=True)]
    queues = [
        Queue.of(scores.values[group.start : group.stop], group.start, step=step, floor=floor)
        for group, step, floor in zip(grouping.groups, steps, floors, strict=True)
    ]
    ledger = Ledger(model, budgets, limits=limits)
    gone = refill(queues, ledger, Descent(queues, ledger, alpha).run())
    if alpha:
        _Exchange(queues, ledger, gone).run()
    mask = np.ones(grouping.num_units, np.bool_)
    for queue, blocks in zip(queues, gone, strict=True):
        mask[queue.order[: queue.units(blocks)]] = False
    return Keep(mask=mask)


def smallest(model: CostModel, min_keep: float) -> tuple[int, ...]:
    """Fewest units that each group may keep."""
    return tuple(floor_of(width, min_keep, 1) for width in model.widths)


def predicted(limit: LatencyLimit, kept: Sequence[int]) -> float:
    """Milliseconds that the layers add up to at these widths."""
    return sum(layer.ms(kept) for layer in limit.layers)


def _reaching(
    model: CostModel, budgets: Sequence[Budget], limits: Sequence[LatencyLimit], min_keep: float
) -> Iterator[list[int]]:
    """Steps whose floors hold everything, from the device's own down to single units."""
    liked = zip(*(limit.steps for limit in limits), strict=True)
    now = [1 if group in model.single else max(steps) for group, steps in enumerate(liked)]
    while True:
        floors = [floor_of(width, min_keep, step) for width, step in zip(model.widths, now, strict=True)]
        if _hold(model, floors, budgets, limits):
            yield now
        if max(now, default=1) == 1:
            return
        now = [max(1, step // 2) for step in now]


def _unreachable(model: CostModel, limits: Sequence[LatencyLimit], min_keep: float) -> TargetUnreachable:
    floors = smallest(model, min_keep)
    return TargetUnreachable(
        "The latency cannot be reached",
        where=", ".join(limit.device for limit in limits),
        actual="smallest predicted " + ", ".join(f"{predicted(limit, floors):.4g} ms" for limit in limits),
        allowed=", ".join(f"{limit.limit_ms:.4g} ms" for limit in limits),
        advice=f"Ask for more, or lower min_keep (now {min_keep:g}).",
    )


class _Exchange:
    """Blocks given and taken back, one exchange at a time, each of which keeps more score within the limits."""

    def __init__(self, queues: Sequence[Queue], ledger: Ledger, gone: list[int]) -> None:
        self._queues, self._ledger, self._gone = queues, ledger, gone

    def run(self) -> None:
        """Exchange until nothing helps."""
        for _ in range(_EXCHANGES):
            best, chosen = (0.0, _GAIN), None
            for given in self._offers():
                figures, taken = self._tried(given)
                if figures > best:
                    best, chosen = figures, (given, taken)
            if chosen is None:
                return
            for group in chosen[0]:
                self._give(group)
            for group in chosen[1]:
                self._take(group)

    def _offers(self) -> list[tuple[int, ...]]:
        """What might be given: nothing, one block, or two blocks of different groups; cheap ones for their time."""
        open_ = [group for group, queue in enumerate(self._queues) if self._gone[group] < len(queue.ends)]
        givers = sorted(open_, key=lambda group: (self._rate(group, self._gone[group]), group))[:_CANDIDATES]
        return [(), *((group,) for group in givers), *combinations(givers[:_PAIRED], 2)]

    def _tried(self, given: tuple[int, ...]) -> tuple[tuple[float, float], tuple[int, ...]]:
        """Score and time that are won by giving these blocks and taking back what then fits, best first."""
        before = self._ledger.over_limit()
        gained = -sum(self._worth(group, self._gone[group]) for group in given)
        for group in given:
            self._give(group)
        taken: list[int] = []
        for group in self._takers(given):
            while self._gone[group] and self._ledger.fits(group, self._queues[group].size(self._gone[group] - 1)):
                gained += self._worth(group, self._gone[group] - 1)
                taken.append(group)
                self._take(group)
        scale = _GAIN * sum(self._worth(group, self._gone[group]) for group in taken)
        figures = (gained if abs(gained) > scale else 0.0, before - self._ledger.over_limit())
        for group in reversed(taken):
            self._give(group)
        for group in given:
            self._take(group)
        return figures, tuple(taken)

    def _takers(self, given: tuple[int, ...]) -> list[int]:
        """Groups that have most score to take back for the time that it costs."""
        open_ = [group for group in range(len(self._queues)) if self._gone[group] and group not in given]
        return sorted(open_, key=lambda group: (-self._rate(group, self._gone[group] - 1), group))[:_CANDIDATES]

    def _rate(self, group: int, block: int) -> float:
        size = self._queues[group].size(block)
        sign = -1 if block < self._gone[group] else 1
        return self._worth(group, block) / max(sign * self._ledger.price(group, sign * size), _GAIN)

    def _worth(self, group: int, block: int) -> float:
        return self._queues[group].worth[block] * self._queues[group].size(block)

    def _give(self, group: int) -> None:
        self._ledger.remove(group, self._queues[group].size(self._gone[group]))
        self._gone[group] += 1

    def _take(self, group: int) -> None:
        self._gone[group] -= 1
        self._ledger.remove(group, -self._queues[group].size(self._gone[group]))
