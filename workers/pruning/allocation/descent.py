"""Removal of blocks of units, cheapest damage per saving first, and their return."""

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import numpy as np

from workers.pruning.allocation.ledger import Ledger
from workers.pruning.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Blocks of one group in the order in which they go."""

    order: IntArray  # units, worst first
    ends: tuple[int, ...]  # ends[b]: units removed once block b is gone
    worth: tuple[float, ...]  # mean score of each block
    gone: int = 0  # units that are removed before the first block

    @classmethod
    def of(cls, values: FloatArray, start: int, *, step: int, floor: int, gone: int = 0) -> "Queue":
        """Sort a group and cut it into blocks that leave multiples of `step`; the first block takes the remainder."""
        most = len(values) - gone
        return cls.leaving(values, start, [most, *multiples(step, most - 1, floor)])

    @classmethod
    def leaving(cls, values: FloatArray, start: int, widths: Sequence[int]) -> "Queue":
        """Sort a group and cut it into blocks that leave these widths, one after the other; the first is there."""
        order = np.argsort(values, kind="stable")
        gone, *ends = (len(values) - width for width in widths)
        worth = tuple(float(values[order[a:b]].mean()) for a, b in pairwise((gone, *ends)))
        return cls(order=order + start, ends=tuple(ends), worth=worth, gone=gone)

    def units(self, blocks: int) -> int:
        """Units that are removed once the first so many blocks are."""
        return self.ends[blocks - 1] if blocks else self.gone

    def mean(self, first: int, last: int) -> float:
        """Mean score of the units of some blocks."""
        if last == first + 1:
            return self.worth[first]
        whole = sum(self.worth[block] * self.size(block) for block in range(first, last))
        return whole / (self.units(last) - self.units(first))

    def blocks(self, units: int) -> int:
        """Blocks that are gone once so many units are; the nearest number of blocks that removes no more."""
        return bisect_right(self.ends, units)

    def size(self, block: int) -> int:
        """Units of a block."""
        return self.units(block + 1) - self.units(block)


def multiples(step: int, most: int, least: int) -> range:
    """Multiples of a step within these bounds, the largest first."""
    return range(most // step * step, least - 1, -step)


class Descent:
    """Removal of blocks, cheapest damage per saving first."""

    def __init__(self, queues: Sequence[Queue], ledger: Ledger, alpha: float) -> None:
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
            for _ in range(self._stride(group)):
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
        first, queue = self._next[group], self._queues[group]
        if self._alpha == 0:
            return queue.worth[first]
        last = first + self._stride(group)
        units = queue.units(last) - queue.units(first)
        saving = self._ledger.saving(group, units) / units
        return queue.mean(first, last) / saving**self._alpha if saving > 0 else inf

    def _stride(self, group: int) -> int:
        """Blocks that go at once: as many as it takes until time is saved, where predictions are stairs; else one."""
        first, queue = self._next[group], self._queues[group]
        if self._alpha and self._ledger.is_timed:
            for last in range(first + 1, len(queue.ends) + 1):
                if self._ledger.saving(group, queue.units(last) - queue.units(first)) > 0:
                    return last - first
        return 1


def refill(queues: Sequence[Queue], ledger: Ledger, removed: Sequence[int]) -> list[int]:
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
