"""Blocks of units given and taken back, so that more score stays within the same limits."""

from collections.abc import Sequence
from itertools import combinations
from typing import Final

from workers.pruning.allocation.descent import Queue
from workers.pruning.allocation.ledger import Ledger

_EXCHANGES: Final = 200  # at most
_CANDIDATES: Final = 12  # groups on each side of an exchange
_PAIRED: Final = 6  # of them, that are tried two at a time
_GAIN: Final = 1e-9  # of the score at stake; less is rounding


class Exchange:
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
