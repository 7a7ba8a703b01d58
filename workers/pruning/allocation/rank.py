"""One allocator for all methods: remove the units that are worth least per cost, until every budget holds."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from workers.pruning.allocation.alignment import MACS_PER_PARAM, steps_for
from workers.pruning.allocation.budget import aligned_floors, cost, floor_widths, holds, require_reachable
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.errors import NonFiniteScore
from workers.pruning.types import Budget, CostModel, FloatArray, Grouping, IntArray, Keep, Scores


def allocate(
    scores: Scores,
    grouping: Grouping,
    model: CostModel,
    budgets: Sequence[Budget],
    *,
    alpha: float = 1.0,
    round_to: int | None = None,
    min_keep: float = 0.1,
) -> Keep:
    """Choose which units stay so that no budget is exceeded and as little score as possible is lost.

    Source: greedy knapsack. The next block to go is the one with the smallest mean score over
    (cost that its removal saves per unit) ** alpha; the saving is that of the current widths. Savings only shrink while
    neighbours shrink, so a stale priority is a lower bound and the queue is corrected when an entry comes up. Alpha 0
    is a global threshold on the scores, found without bisection. The last block is the one that loses the least score
    among those that finish the work, and blocks are given back in reverse order afterwards while the budgets still
    hold, so that large blocks do not overshoot without need. Ties go to the earlier group.

    With several budgets a saving is the sum of relative savings over those that do not hold yet.

    Args:
        scores: damage expected from removing each unit alone.
        grouping: the units.
        model: cost of any widths.
        budgets: absolute limits; all hold for the result.
        alpha: 0 ranks by score alone, 1 by score per cost.
        round_to: channels removed at a time. None chooses what the runtime likes (see alignment): steps by the width of
            the tensor, blocks kept filled, and savings of MACs that include the time to read parameters; where that
            cannot reach the target, single channels.
        min_keep: share of every group that stays at least.

    Raises:
        TargetUnreachable: even the floor of all groups exceeds a budget; states the smallest reachable values.
        NonFiniteScore: a score is NaN, infinite or negative.
    """
    _check(scores, grouping)
    require_reachable(model, budgets, min_keep=min_keep, round_to=round_to)
    aligned = round_to is None and holds(cost(model, aligned_floors(model, min_keep)), budgets)
    floors = aligned_floors(model, min_keep) if aligned else floor_widths(model, min_keep, round_to)
    steps = steps_for(model, None if aligned else round_to or 1)
    queues = [
        _Queue.of(scores.values[group.start : group.stop], group.start, step=step, floor=floor)
        for group, step, floor in zip(grouping.groups, steps, floors, strict=True)
    ]
    ledger = Ledger(model, budgets, macs_per_param=MACS_PER_PARAM if aligned else 0.0)
    gone = _refill(queues, ledger, _Descent(queues, ledger, alpha).run())
    mask = np.ones(grouping.num_units, np.bool_)
    for queue, blocks in zip(queues, gone, strict=True):
        mask[queue.order[: queue.units(blocks)]] = False
    return Keep(mask=mask)


def _check(scores: Scores, grouping: Grouping) -> None:
    values = scores.values
    if values.shape != (grouping.num_units,) or not np.isfinite(values).all() or (values < 0).any():
        raise NonFiniteScore(
            f"Scores of {scores.source} cannot be ranked",
            actual=f"{values.size}, of which {int((~np.isfinite(values)).sum())} are not finite and "
            f"{int((values < 0).sum())} are negative",
            allowed=f"{grouping.num_units} finite numbers from 0 up",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """Blocks of one group in the order in which they go."""

    order: IntArray  # units, worst first
    ends: tuple[int, ...]  # ends[b]: units removed once block b is gone
    worth: tuple[float, ...]  # mean score of each block

    @classmethod
    def of(cls, values: FloatArray, start: int, *, step: int, floor: int) -> "_Queue":
        """Sort a group and cut it into blocks that leave multiples of `step`; the first block takes the remainder."""
        width = len(values)
        order = np.argsort(values, kind="stable")
        removable = width - floor
        first = width % step or step
        ends = tuple(range(first, removable + 1, step))
        bounds = (0, *ends)
        worth = tuple(float(values[order[a:b]].mean()) for a, b in pairwise(bounds))
        return cls(order=order + start, ends=ends, worth=worth)

    def units(self, blocks: int) -> int:
        """Units in the first so many blocks."""
        return self.ends[blocks - 1] if blocks else 0

    def size(self, block: int) -> int:
        """Units of a block."""
        return self.units(block + 1) - self.units(block)


class _Descent:
    """Removal of blocks, cheapest damage per saving first."""

    def __init__(self, queues: Sequence[_Queue], ledger: Ledger, alpha: float) -> None:
        self._queues = queues
        self._ledger = ledger
        self._alpha = alpha
        self._next = [0] * len(queues)

    def run(self) -> list[int]:
        """Remove blocks until the budgets hold; returns the groups of removed blocks in order."""
        removed: list[int] = []
        heap = self._fresh()
        version = self._ledger.version
        while heap and not self._ledger.holds():
            _, group = heapq.heappop(heap)
            priority = self._priority(group)
            if heap and (priority, group) > heap[0]:
                heapq.heappush(heap, (priority, group))
                if priority < inf or heap[0][0] < inf:
                    continue
                break
            if priority == inf:
                break
            group = self._last(group)
            self._ledger.remove(group, self._queues[group].size(self._next[group]))
            self._next[group] += 1
            removed.append(group)
            if self._ledger.version != version:
                heap, version = self._fresh(), self._ledger.version
            elif self._next[group] < len(self._queues[group].ends):
                heapq.heappush(heap, (self._priority(group), group))
        return removed

    def _last(self, group: int) -> int:
        """The group to take the block from: where one block is enough to finish, the one that costs least score."""
        if not self._finishes(group):
            return group
        enough = [other for other in range(len(self._queues)) if self._open(other) and self._finishes(other)]
        return min(enough, key=lambda other: (self._damage(other), other != group, other))

    def _finishes(self, group: int) -> bool:
        return self._ledger.fits(group, -self._queues[group].size(self._next[group]))

    def _damage(self, group: int) -> float:
        block = self._next[group]
        return self._queues[group].worth[block] * self._queues[group].size(block)

    def _fresh(self) -> list[tuple[float, int]]:
        heap = [(self._priority(group), group) for group in range(len(self._queues)) if self._open(group)]
        heapq.heapify(heap)
        return heap

    def _open(self, group: int) -> bool:
        return self._next[group] < len(self._queues[group].ends)

    def _priority(self, group: int) -> float:
        block = self._next[group]
        queue = self._queues[group]
        if self._alpha == 0:
            return queue.worth[block]
        saving = self._ledger.saving(group, queue.size(block)) / queue.size(block)
        return queue.worth[block] / saving**self._alpha if saving > 0 else inf


def _refill(queues: Sequence[_Queue], ledger: Ledger, removed: Sequence[int]) -> list[int]:
    """Give blocks back, last removed first, while the budgets still hold; returns how many each group has lost."""
    gone = [0] * len(queues)
    for group in removed:
        gone[group] += 1
    closed = [False] * len(queues)
    for group in reversed(removed):
        if closed[group]:
            continue
        size = queues[group].size(gone[group] - 1)
        if ledger.fits(group, size):
            ledger.remove(group, -size)
            gone[group] -= 1
        else:
            closed[group] = True
    return gone
