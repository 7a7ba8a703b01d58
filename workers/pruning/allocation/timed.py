"""Widths under a limit on predicted latency: score per millisecond, then exchanges that keep more score within it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from workers.pruning.allocation.budget import cost, floor_of, holds
from workers.pruning.allocation.descent import Descent, Queue, refill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.allocation.trades import traded
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Scores

_EXCHANGES: Final = 200  # at most
_CANDIDATES: Final = 12  # groups on each side of an exchange
_PAIRED: Final = 6  # of them, that are tried two at a time
_GRAINS: Final = 3  # sizes of steps that are planned with, each half of the one before
_FINEST: Final = 4  # channels
_MOST_BLOCKS: Final = 200  # between two plans; where there are more, finer steps are not tried
_SLACK: Final = 0.01  # of a limit that may stay unused between two plans
_GAIN: Final = 1e-9  # of the score at stake; less is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """Widths that bound a plan: it keeps what the inner one keeps, and nothing that the outer one does not."""

    inner: tuple[int, ...]
    outer: tuple[int, ...]
    known: frozenset[tuple[int, ...]] = frozenset()  # widths that are no result, since they were measured

    def accepts(self, kept: Sequence[int]) -> bool:
        """Whether widths may be the result."""
        return tuple(kept) not in self.known


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
    problem = _Problem(
        scores=scores,
        grouping=grouping,
        model=model,
        budgets=budgets,
        limits=limits,
        alpha=alpha,
        outer=tuple(model.widths),
    )
    reaching = list(_reaching(model, budgets, limits, min_keep))
    if not reaching:
        advice = f"Ask for more, or lower min_keep (now {min_keep:g})."
        raise _unreachable(limits, smallest(model, min_keep), advice)
    finer = (
        [steps for steps in reaching[1:_GRAINS] if max(steps) >= _FINEST]
        if alpha and all(one.finer for one in limits)
        else []
    )
    plans = [problem.in_steps(steps, floors_in(model, min_keep, steps)) for steps in (reaching[0], *finer)]
    # Blocks within a stair save no time, so plans in finer steps may end above a limit.
    held = [keep for keep in plans if problem.holds(keep)]
    return max(held or plans[:1], key=lambda keep: float(scores.values[keep.mask].sum()))


def allocate_between(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    limits: Sequence[LatencyLimit],
    *,
    alpha: float,
    between: Between,
) -> Keep:
    """Choose which units stay between two choices, so that a limit is used up.

    Source: as `allocate_timed`, but units go from the outer widths on and no further than the inner ones, which stay
    whatever is predicted of them. The largest steps are taken with which no more than a hundredth of a limit stays
    unused, if need be after trades (see `trades`); else those with which least does. Where predictions say that even
    the inner widths take too long, the result is what takes least.

    Raises:
        TargetUnreachable: all that holds the budgets is known.
    """
    problem = _Problem(
        scores=scores,
        grouping=grouping,
        model=model,
        budgets=budgets,
        limits=limits,
        alpha=alpha,
        outer=between.outer,
    )
    return problem.nested(between)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """What to choose widths for."""

    scores: Scores
    grouping: Grouping
    model: CostModel
    budgets: Sequence[Budget]
    limits: Sequence[LatencyLimit]
    alpha: float
    outer: tuple[int, ...]

    def in_steps(self, steps: Sequence[int], floors: Sequence[int]) -> Keep:
        """Choose widths in these steps."""
        queues, ledger = self._start(steps, floors)
        return self._kept(queues, self._filled(queues, ledger))

    def _start(self, steps: Sequence[int], floors: Sequence[int]) -> tuple[list[Queue], Ledger]:
        """Every block that may go, and the figures while none has."""
        gone = [width - most for width, most in zip(self.model.widths, self.outer, strict=True)]
        queues = [
            Queue.of(self.scores.values[group.start : group.stop], group.start, step=step, floor=floor, gone=left)
            for group, step, floor, left in zip(self.grouping.groups, steps, floors, gone, strict=True)
        ]
        ledger = Ledger(self.model, self.budgets, limits=self.limits)
        for group, units in enumerate(gone):
            ledger.remove(group, units)
        return queues, ledger

    def _filled(self, queues: Sequence[Queue], ledger: Ledger) -> list[int]:
        """Blocks that go, by group."""
        blocks = refill(queues, ledger, Descent(queues, ledger, self.alpha).run())
        if self.alpha:
            _Exchange(queues, ledger, blocks).run()
        return blocks

    def _kept(self, queues: Sequence[Queue], blocks: Sequence[int]) -> Keep:
        mask = np.ones(self.grouping.num_units, np.bool_)
        for queue, removed in zip(queues, blocks, strict=True):
            mask[queue.order[: queue.units(removed)]] = False
        return Keep(mask=mask)

    def nested(self, between: Between) -> Keep:
        """Choose widths between the bounds, others than those that are known."""
        plans: list[tuple[float, Keep]] = []
        for steps in _grains(self.model, self.limits):
            queues, ledger = self._start(steps, between.inner)
            if plans and sum(len(queue.ends) for queue in queues) > _MOST_BLOCKS:
                break
            blocks = self._filled(queues, ledger)
            used, new = ledger.over_limit(), between.accepts(ledger.kept)
            if new and holds(cost(self.model, ledger.kept), self.budgets):
                plans.append((used, self._kept(queues, blocks)))
            if not (new and 1 - _SLACK <= used <= 1) and ledger.holds():
                trade = traded(queues, ledger, blocks, enough=1 - _SLACK, accepted=between.accepts)
                plans += [] if trade is None else [(trade[0], self._kept(queues, trade[1]))]
            if plans and any(1 - _SLACK <= used <= 1 for used, _ in plans):
                break
        if not plans:
            raise _unreachable(self.limits, between.inner, "Ask for more.")
        # Within the limit the fullest; where none is, the one that is least above it.
        return max(plans, key=lambda plan: (plan[0] <= 1, plan[0] if plan[0] <= 1 else -plan[0]))[1]

    def holds(self, keep: Keep) -> bool:
        """Whether every budget and every limit holds, as predicted."""
        return _hold(self.model, self.grouping.widths(keep), self.budgets, self.limits)


def _hold(model: CostModel, kept: Sequence[int], budgets: Sequence[Budget], limits: Sequence[LatencyLimit]) -> bool:
    """Whether these widths are within every budget and every limit, as predicted."""
    return holds(cost(model, kept), budgets) and all(predicted(one, kept) <= one.limit_ms for one in limits)


def floors_in(model: CostModel, min_keep: float, steps: Sequence[int]) -> list[int]:
    """Fewest units that each group may keep in these steps."""
    return [floor_of(width, min_keep, step) for width, step in zip(model.widths, steps, strict=True)]


def smallest(model: CostModel, min_keep: float) -> tuple[int, ...]:
    """Fewest units that each group may keep."""
    return tuple(floor_of(width, min_keep, 1) for width in model.widths)


def predicted(limit: LatencyLimit, kept: Sequence[int]) -> float:
    """Milliseconds that the layers add up to at these widths."""
    return sum(layer.ms(kept) for layer in limit.layers)


def _reaching(
    model: CostModel, budgets: Sequence[Budget], limits: Sequence[LatencyLimit], min_keep: float
) -> Iterator[list[int]]:
    """Steps whose floors hold everything."""
    for steps in _grains(model, limits):
        if _hold(model, floors_in(model, min_keep, steps), budgets, limits):
            yield steps


def _grains(model: CostModel, limits: Sequence[LatencyLimit]) -> Iterator[list[int]]:
    """The devices' own steps, and halves of them down to single units."""
    liked = zip(*(limit.steps for limit in limits), strict=True)
    now = [1 if group in model.single else max(steps) for group, steps in enumerate(liked)]
    yield now
    while max(now, default=1) > 1:
        now = [max(1, step // 2) for step in now]
        yield now


def _unreachable(limits: Sequence[LatencyLimit], floors: Sequence[int], advice: str) -> TargetUnreachable:
    return TargetUnreachable(
        "The latency cannot be reached",
        where=", ".join(limit.device for limit in limits),
        actual="smallest predicted " + ", ".join(f"{predicted(limit, floors):.4g} ms" for limit in limits),
        allowed=", ".join(f"{limit.limit_ms:.4g} ms" for limit in limits),
        advice=advice,
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
