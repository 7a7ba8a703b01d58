"""Widths under a limit on predicted latency: score per millisecond, then exchanges that keep more score within it."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from workers.pruning.allocation.budget import cost, floor_of, holds
from workers.pruning.allocation.descent import Descent, Queue, refill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Scores

_EXCHANGES: Final = 200  # at most
_CANDIDATES: Final = 12  # groups on each side of an exchange
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
    group gives a block, another takes one back, whenever more score stays and every limit holds, or as much stays in
    less time. With alpha 0, which ranks by score alone, nothing is exchanged.

    Raises:
        TargetUnreachable: even the floor of all groups is predicted to be too slow, or exceeds a budget.
    """
    chosen = next(_reaching(model, budgets, limits, min_keep), None)
    if chosen is None:
        raise _unreachable(model, limits, min_keep)
    floors = [floor_of(width, min_keep, step) for width, step in zip(model.widths, chosen, strict=True)]
    queues = [
        Queue.of(scores.values[group.start : group.stop], group.start, step=step, floor=floor)
        for group, step, floor in zip(grouping.groups, chosen, floors, strict=True)
    ]
    ledger = Ledger(model, budgets, limits=limits)
    gone = refill(queues, ledger, Descent(queues, ledger, alpha).run())
    if alpha:
        _exchange(queues, ledger, gone)
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
        if holds(cost(model, floors), budgets) and all(predicted(one, floors) <= one.limit_ms for one in limits):
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


def _exchange(queues: Sequence[Queue], ledger: Ledger, gone: list[int]) -> None:
    """Move `gone` to choices that keep more score while everything holds, one exchange at a time."""
    for _ in range(_EXCHANGES):
        found = _best(queues, ledger, gone)
        if found is None:
            return
        giving, taking = found
        if giving is not None:
            ledger.remove(giving, queues[giving].size(gone[giving]))
            gone[giving] += 1
        ledger.remove(taking, -queues[taking].size(gone[taking] - 1))
        gone[taking] -= 1


def _best(queues: Sequence[Queue], ledger: Ledger, gone: Sequence[int]) -> tuple[int | None, int] | None:
    """The exchange that keeps most score; among equals the fastest; None where none helps."""
    takers = _takers(queues, ledger, gone)
    best: tuple[float, float] = (0.0, 0.0)
    chosen: tuple[int | None, int] | None = None
    before = ledger.over_limit()
    stake = sum(_worth(queues, taking, gone[taking] - 1) for taking in takers)
    for giving in (None, *_givers(queues, ledger, gone)):
        lost, size = 0.0, 0
        if giving is not None:
            lost, size = _worth(queues, giving, gone[giving]), queues[giving].size(gone[giving])
            ledger.remove(giving, size)
        for taking in takers:
            gained = _worth(queues, taking, gone[taking] - 1) - lost
            back = queues[taking].size(gone[taking] - 1)
            if taking == giving or gained < -_GAIN * stake or not ledger.fits(taking, back):
                continue
            ledger.remove(taking, -back)
            figures = (gained if gained > _GAIN * stake else 0.0, before - ledger.over_limit())
            ledger.remove(taking, back)
            if figures > max(best, (0.0, _GAIN)):
                best, chosen = figures, (giving, taking)
        if giving is not None:
            ledger.remove(giving, -size)
    return chosen


def _takers(queues: Sequence[Queue], ledger: Ledger, gone: Sequence[int]) -> list[int]:
    """Groups that have most score to take back for the time that it costs."""
    open_ = [group for group in range(len(queues)) if gone[group]]

    def rate(group: int) -> float:
        block = gone[group] - 1
        price = -ledger.price(group, -queues[group].size(block))
        return _worth(queues, group, block) / max(price, _GAIN)

    return sorted(open_, key=lambda group: (-rate(group), group))[:_CANDIDATES]


def _givers(queues: Sequence[Queue], ledger: Ledger, gone: Sequence[int]) -> list[int]:
    """Groups that give most time for the score that they lose."""
    open_ = [group for group in range(len(queues)) if gone[group] < len(queues[group].ends)]

    def rate(group: int) -> float:
        price = ledger.price(group, queues[group].size(gone[group]))
        return _worth(queues, group, gone[group]) / max(price, _GAIN)

    return sorted(open_, key=lambda group: (rate(group), group))[:_CANDIDATES]


def _worth(queues: Sequence[Queue], group: int, block: int) -> float:
    return queues[group].worth[block] * queues[group].size(block)
