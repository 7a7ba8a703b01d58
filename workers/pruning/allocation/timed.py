"""Widths under a limit on predicted latency: score per millisecond, then exchanges that keep more score within it.

A device computes in blocks of channels, so widths between its steps take what the next step takes, or more, and are
predicted worst. Plans stay on the steps; between them they go only where a limit says so (`LatencyLimit.finer`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from workers.pruning.allocation.budget import cost, floor_of, holds
from workers.pruning.allocation.descent import Descent, Queue, multiples, refill
from workers.pruning.allocation.exchange import Exchange
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.allocation.trades import traded
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Scores

_Menus = Sequence[Sequence[int]]

_MOST_BLOCKS: Final = 200  # between two plans; where there are more, finer steps are not tried
_SLACK: Final = 0.01  # of a limit that may stay unused between two plans


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
    device's steps; only where those cannot reach the target they are divided until they do. Then blocks are exchanged:
    one or two groups give a block, others take back what then fits, whenever more score stays and every limit holds, or
    as much stays in less time. With alpha 0, which ranks by score alone, nothing is exchanged.

    Raises:
        TargetUnreachable: even the floor of all groups is predicted to be too slow, or exceeds a budget.
    """
    problem = _Problem(scores=scores, grouping=grouping, model=model, budgets=budgets, limits=limits, alpha=alpha)
    nearest: Keep | None = None
    floors = smallest(model, min_keep)
    for menus in _menus(model, limits, Between(inner=floors, outer=tuple(model.widths))):
        if not problem.hold([menu[-1] for menu in menus]):
            continue
        queues, ledger = problem.start(menus)
        keep = problem.kept(queues, problem.filled(queues, ledger))
        if ledger.holds():
            return keep
        nearest = nearest or keep
    if nearest is None:
        raise _unreachable(limits, floors, f"Ask for more, or lower min_keep (now {min_keep:g}).")
    return nearest


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
    whatever is predicted of them. Widths are those of the devices' steps, if need be after trades (see `trades`).
    Where every limit says `finer` and more than a hundredth of one stays unused, trades between the steps use it up, of
    as few groups as it takes; the largest parts of steps that do are taken, else those with which least is unused. A
    plan that does not hold in steps is made in parts of them from the start. Where predictions say that even the inner
    widths take too long, the result is what takes least.

    Raises:
        TargetUnreachable: all that holds the budgets is known.
    """
    problem = _Problem(scores=scores, grouping=grouping, model=model, budgets=budgets, limits=limits, alpha=alpha)
    return problem.nested(between)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Widths, and the share that they use of the limit of the device that is worst off."""

    used: float
    keep: Keep

    @property
    def full(self) -> bool:
        """Whether a limit is used up, and none exceeded."""
        return 1 - _SLACK <= self.used <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """What to choose widths for."""

    scores: Scores
    grouping: Grouping
    model: CostModel
    budgets: Sequence[Budget]
    limits: Sequence[LatencyLimit]
    alpha: float

    def nested(self, between: Between) -> Keep:
        """Choose widths between the bounds, others than those that are known."""
        liked, *finer = _menus(self.model, self.limits, between)
        plans = list(self._plans(liked, between))
        if all(limit.finer for limit in self.limits):
            steady = max(plans, key=_nearness, default=None)
            for menus in finer:
                if any(plan.full for plan in plans) or (plans and sum(map(len, menus)) > _MOST_BLOCKS):
                    break
                if steady is not None and steady.used <= 1:
                    plans += self._traded(menus, between, start=self.grouping.widths(steady.keep))
                else:
                    plans += self._plans(menus, between)
        if not plans:
            raise _unreachable(self.limits, between.inner, "Ask for more.")
        return max(plans, key=_nearness).keep

    def hold(self, kept: Sequence[int]) -> bool:
        """Whether these widths are within every budget and every limit, as predicted."""
        within = all(predicted(limit, kept) <= limit.limit_ms for limit in self.limits)
        return within and holds(cost(self.model, kept), self.budgets)

    def start(self, menus: _Menus) -> tuple[list[Queue], Ledger]:
        """Every block that may go, and the figures while none has."""
        ledger = Ledger(self.model, self.budgets, limits=self.limits)
        for group, (width, menu) in enumerate(zip(self.model.widths, menus, strict=True)):
            ledger.remove(group, width - menu[0])
        queues = [
            Queue.leaving(self.scores.values[group.start : group.stop], group.start, menu)
            for group, menu in zip(self.grouping.groups, menus, strict=True)
        ]
        return queues, ledger

    def filled(self, queues: Sequence[Queue], ledger: Ledger) -> list[int]:
        """Blocks that go, by group."""
        blocks = refill(queues, ledger, Descent(queues, ledger, self.alpha).run())
        if self.alpha:
            Exchange(queues, ledger, blocks).run()
        return blocks

    def kept(self, queues: Sequence[Queue], blocks: Sequence[int]) -> Keep:
        """Units that stay once so many blocks of each group are gone."""
        mask = np.ones(self.grouping.num_units, np.bool_)
        for queue, removed in zip(queues, blocks, strict=True):
            mask[queue.order[: queue.units(removed)]] = False
        return Keep(mask=mask)

    def _plans(self, menus: _Menus, between: Between) -> Iterator[_Plan]:
        """The plan in these widths, and if it leaves something unused, what trades make of it."""
        queues, ledger = self.start(menus)
        blocks = self.filled(queues, ledger)
        plan, new = _Plan(used=ledger.over_limit(), keep=self.kept(queues, blocks)), between.accepts(ledger.kept)
        if new and holds(cost(self.model, ledger.kept), self.budgets):
            yield plan
        if not (new and plan.full) and ledger.holds():
            yield from self._after_trades(queues, ledger, blocks, between)

    def _traded(self, menus: _Menus, between: Between, *, start: Sequence[int]) -> Iterator[_Plan]:
        """What trades in these widths make of others that hold."""
        queues, ledger = self.start(menus)
        gone = [width - kept for width, kept in zip(self.model.widths, start, strict=True)]
        blocks = [queue.blocks(units) for queue, units in zip(queues, gone, strict=True)]
        for group, (queue, block) in enumerate(zip(queues, blocks, strict=True)):
            ledger.remove(group, queue.units(block) - queue.gone)
        if ledger.holds():
            yield from self._after_trades(queues, ledger, blocks, between)

    def _after_trades(
        self, queues: Sequence[Queue], ledger: Ledger, blocks: Sequence[int], between: Between
    ) -> Iterator[_Plan]:
        steps = _liked(self.model, self.limits)

        def odd(kept: Sequence[int]) -> int:
            shapes = zip(kept, self.model.widths, steps, strict=True)
            return sum(left != width and left % step != 0 for left, width, step in shapes)

        trade = traded(queues, ledger, blocks, enough=1 - _SLACK, accepted=between.accepts, odd=odd)
        if trade is not None:
            yield _Plan(used=trade[0], keep=self.kept(queues, trade[1]))


def _nearness(plan: _Plan) -> tuple[bool, float]:
    """Within the limit the fullest; where none is, the one that is least above it."""
    return (plan.used <= 1, plan.used if plan.used <= 1 else -plan.used)


def smallest(model: CostModel, min_keep: float) -> tuple[int, ...]:
    """Fewest units that each group may keep."""
    return tuple(floor_of(width, min_keep, 1) for width in model.widths)


def predicted(limit: LatencyLimit, kept: Sequence[int]) -> float:
    """Milliseconds that the layers add up to at these widths."""
    return sum(layer.ms(kept) for layer in limit.layers)


def _menus(model: CostModel, limits: Sequence[LatencyLimit], between: Between) -> Iterator[_Menus]:
    """Widths that each group may have, the largest first: in the devices' steps, then in ever finer ones.

    The second menus add to the steps what lies below the first of them, by halves: for limits that no width in steps
    reaches. Those behind go in parts of steps everywhere, so that all that is in one menu is in the next.
    """
    steps = _liked(model, limits)
    yield _within([[multiples(step, most, 1)] for step, most in zip(steps, between.outer, strict=True)], between)
    below = [[multiples(step, most, 1), _parts(step)] for step, most in zip(steps, between.outer, strict=True)]
    if max(steps, default=1) > 1:
        yield _within(below, between)
    while max(steps, default=1) > 1:
        steps = [next(iter(_parts(step)), 1) for step in steps]
        yield _within([[multiples(step, most, 1)] for step, most in zip(steps, between.outer, strict=True)], between)


def _within(widths: Sequence[Sequence[Sequence[int]]], between: Between) -> list[list[int]]:
    """The largest width of each group, and of these those that are below it and no smaller than the smallest."""
    return [
        [most, *(width for part in parts for width in part if least <= width < most)]
        for parts, least, most in zip(widths, between.inner, between.outer, strict=True)
    ]


def _liked(model: CostModel, limits: Sequence[LatencyLimit]) -> list[int]:
    """The step that each group goes in: the largest that a device likes."""
    liked = zip(*(limit.steps for limit in limits), strict=True)
    return [1 if group in model.single else max(steps) for group, steps in enumerate(liked)]


def _parts(step: int) -> list[int]:
    """Numbers below a step, each the largest that divides the one before, down to 1."""
    found = []
    while step > 1:
        step = next(step // prime for prime in range(2, step + 1) if step % prime == 0)
        found.append(step)
    return found


def _unreachable(limits: Sequence[LatencyLimit], floors: Sequence[int], advice: str) -> TargetUnreachable:
    return TargetUnreachable(
        "The latency cannot be reached",
        where=", ".join(limit.device for limit in limits),
        actual="smallest predicted " + ", ".join(f"{predicted(limit, floors):.4g} ms" for limit in limits),
        allowed=", ".join(f"{limit.limit_ms:.4g} ms" for limit in limits),
        advice=advice,
    )
