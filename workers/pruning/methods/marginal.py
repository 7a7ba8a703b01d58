"""Which units go at an event of dynamic pruning: those that matter least for what they hold or cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from workers.pruning.allocation.alignment import steps_for
from workers.pruning.allocation.budget import aligned_floors, cost, floor_widths, holds
from workers.pruning.allocation.fill import fill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.types import (
    Budget,
    CostModel,
    FloatArray,
    Grouping,
    IntArray,
    Keep,
    Metric,
    Term,
)

RankBy = Literal["target", "memory"]
LARGEST_SHARE: Final = 0.2  # of a group at one event
EVEN_PART: Final = 0.5  # of the width that a group would have if all were cut alike, below which it does not fall
_HALVINGS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for all events of a run."""

    grouping: Grouping
    model: CostModel
    final: tuple[Budget, ...]
    floors: tuple[int, ...]
    steps: tuple[int, ...]  # units that go at a time
    aligned: bool  # whether the steps are those that the runtime likes, and not asked for
    marginal: float  # share of the median worth below which a unit goes in any case
    rank_by: RankBy = "target"


def rules(
    grouping: Grouping,
    model: CostModel,
    final: tuple[Budget, ...],
    *,
    round_to: int | None,
    min_keep: float,
    marginal: float,
    rank_by: RankBy = "target",
) -> Rules:
    """Fix floors and steps: those that the runtime likes where they reach the target, single channels elsewhere.

    Source: derivation. What is cut never comes back and scores of early training are noisy, so no group falls far below
    the others: every floor is at least half of the share that meets the target where all groups keep the same.
    """
    aligned = round_to is None and holds(cost(model, aligned_floors(model, min_keep)), final)

    def floors_at(share: float) -> tuple[int, ...]:
        return aligned_floors(model, share) if aligned else floor_widths(model, share, round_to)

    low, high = min_keep, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(cost(model, floors_at(middle)), final) else (low, middle)
    return Rules(
        grouping=grouping,
        model=model,
        final=final,
        floors=floors_at(max(min_keep, EVEN_PART * low)),
        steps=steps_for(model, None if aligned else round_to or 1),
        aligned=aligned,
        marginal=marginal,
        rank_by=rank_by,
    )


def shrunk(
    rules: Rules, keep: Keep, scores: FloatArray, memory: Sequence[Term], budgets: tuple[Budget, ...], *, last: bool
) -> Keep:
    """Remove units until `budgets` hold, and beyond that those that are marginal; what was cut never comes back.

    Source: derivation. Worth is the running gate score over what a unit saves of the target, or over the bytes that
    it holds during training, since memory is the budget there (`rank_by`). A block goes while the schedule's
    budgets do not hold, or while its worth is below a tenth of the median and the final budgets do not hold yet; at
    most a fifth of a group at one event, but at the last one the budgets hold whatever that takes. The block that
    makes the final budgets hold goes at the last event only: the one that saves least of all that would do, and
    blocks that it makes unnecessary come back. Where steps were not asked for, single units come back as well, so that
    at most a hundredth of the target stays unused.

    Shapes: scores (num_units,).
    """
    return _Event(rules, keep, scores, memory, budgets, last=last).run()


class _Event:
    """One event: blocks of every group in ascending order of score, and what has gone."""

    def __init__(
        self,
        rules: Rules,
        keep: Keep,
        scores: FloatArray,
        memory: Sequence[Term],
        budgets: tuple[Budget, ...],
        *,
        last: bool,
    ) -> None:
        self._rules, self._keep, self._scores, self._last = rules, keep, scores, last
        groups = rules.grouping.groups
        self._kept = list(rules.grouping.widths(keep))
        self._orders = [_order(keep, scores, group.start, group.stop) for group in groups]
        self._least = [self._floor(number) for number in range(len(groups))]
        self._now = self._ledger(rules.model, budgets)
        self._final = self._ledger(rules.model, rules.final)
        held = CostModel(widths=rules.model.widths, macs=tuple(memory), params=(), size_bytes=(), peak=())
        self._memory = self._ledger(held, (Budget(metric=Metric.MACS, limit=0.0),))
        self._gone = [0] * len(groups)

    def run(self) -> Keep:
        threshold = self._rules.marginal * self._median()
        removed: list[tuple[int, int]] = []
        while not self._final.holds():
            worth, group = min(((self._worth(number), number) for number in self._open()), default=(float("inf"), -1))
            if group < 0 or (self._now.holds() and worth >= threshold):
                break
            if self._finishes(group):
                group = min((each for each in self._open() if self._finishes(each)), key=self._excess)
            size = self._size(group)
            removed.append((group, size))
            self._remove(group, size)
        self._give_back(removed)
        if self._last and self._rules.aligned and self._final.holds():
            back = fill(self._final, self._gone)
            self._gone = [gone - units for gone, units in zip(self._gone, back, strict=True)]
        mask = self._keep.mask.copy()
        for order, gone in zip(self._orders, self._gone, strict=True):
            mask[order[:gone]] = False
        return Keep(mask=mask)

    def _open(self) -> list[int]:
        """Groups that may lose a block. Which one finishes the work is decided at the last event, among all of them."""
        found = [number for number in range(len(self._kept)) if self._size(number)]
        return found if self._last else [number for number in found if not self._finishes(number)]

    def _finishes(self, group: int) -> bool:
        return self._final.fits(group, -self._size(group))

    def _excess(self, group: int) -> tuple[float, int]:
        """What the next block of a group saves; of blocks that finish the work the smallest wastes least."""
        return self._final.saving(group, self._size(group)), group

    def _floor(self, group: int) -> int:
        """The fewest units that the group has after this event."""
        kept, step, floor = self._kept[group], self._rules.steps[group], self._rules.floors[group]
        if self._last:
            return min(kept, floor)
        most = max(kept % step or step, int(LARGEST_SHARE * kept))
        return min(kept, max(floor, kept - most))

    def _ledger(self, model: CostModel, budgets: tuple[Budget, ...]) -> Ledger:
        ledger = Ledger(model, budgets)
        for group, kept in enumerate(self._kept):
            if kept < model.widths[group]:
                ledger.remove(group, model.widths[group] - kept)
        return ledger

    def _size(self, group: int) -> int:
        """Units of the next block of a group; 0 where no more may go."""
        left = self._kept[group] - self._gone[group]
        size = left % self._rules.steps[group] or self._rules.steps[group]
        return size if left - size >= self._least[group] else 0

    def _worth(self, group: int) -> float:
        """Mean score of the next block over what it frees."""
        size, gone = self._size(group), self._gone[group]
        freed = self._freed(group, size)
        mean = float(self._scores[self._orders[group][gone : gone + size]].mean())
        return mean / freed if freed > 0 else float("inf")

    def _freed(self, group: int, size: int) -> float:
        """What one unit frees: of the target, summed over the budgets that do not hold, or bytes of training."""
        ledger = self._final if self._rules.rank_by == "target" else self._memory
        return ledger.saving(group, size) / size

    def _median(self) -> float:
        """Median worth over all units that are there."""
        found = []
        for group, order in enumerate(self._orders):
            freed = self._freed(group, 1)
            if freed > 0:
                found.append(self._scores[order] / freed)
        return float(np.median(np.concatenate(found))) if found else 0.0

    def _remove(self, group: int, size: int) -> None:
        for ledger in (self._now, self._final, self._memory):
            ledger.remove(group, size)
        self._gone[group] += size

    def _give_back(self, removed: Sequence[tuple[int, int]]) -> None:
        """Undo blocks, last first, while the event's budgets still hold without them."""
        closed: set[int] = set()
        for group, size in reversed(removed):
            if not self._last or group in closed:
                continue
            if self._final.fits(group, size):
                self._remove(group, -size)
            else:
                closed.add(group)


def _order(keep: Keep, scores: FloatArray, start: int, stop: int) -> IntArray:
    units = np.flatnonzero(keep.mask[start:stop]) + start
    return units[np.argsort(scores[units], kind="stable")]
