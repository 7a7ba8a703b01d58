"""A limit on time used up where blocks are large beside it: some blocks go, others come back, by trying."""

from collections.abc import Callable, Sequence
from itertools import chain, combinations_with_replacement
from math import comb
from typing import Final

from workers.pruning.allocation.descent import Queue
from workers.pruning.allocation.ledger import Ledger

_CANDIDATES: Final = 10  # groups that trade
_AT_A_TIME: Final = (2, 3, 4)  # blocks that go, and that come back; more of them where groups are few
_SETS: Final = 90  # of blocks on each side; every one is tried with every other

Accepted = Callable[[Sequence[int]], bool]
Odd = Callable[[Sequence[int]], int]


def traded(
    queues: Sequence[Queue], ledger: Ledger, gone: Sequence[int], *, enough: float, accepted: Accepted, odd: Odd
) -> tuple[float, list[int]] | None:
    """Find the trade after which most score stays among those that leave at least `enough` of the limit used.

    Of these, the ones that leave fewest groups between the devices' steps come first; where none uses enough, the trade
    that uses most. Two blocks go and two come back at most, of few groups up to four; the groups of which a block takes
    least time trade, since what is missing is small.

    Args:
        queues: blocks of every group.
        ledger: at the widths that `gone` leaves; it is left as it was.
        gone: blocks that every group has lost.
        enough: share of the limit to use.
        accepted: whether widths may be the result.
        odd: how many groups lie between the devices' steps at these widths.

    Returns:
        The share of the limit that is used and the blocks that every group has lost then; None without a trade.
    """
    sizes = {group: _price(queues[group], ledger, group, gone[group]) for group in range(len(queues))}
    groups = sorted((group for group in sizes if sizes[group]), key=lambda group: (sizes[group], group))[:_CANDIDATES]
    most = max((count for count in _AT_A_TIME if comb(len(groups) + count, count) <= _SETS), default=_AT_A_TIME[0])
    sets = list(chain.from_iterable(combinations_with_replacement(groups, count) for count in range(most + 1)))
    trial = _Trial(queues, ledger, list(gone))
    best: tuple[tuple[float, float, float], float, list[int]] | None = None
    for given in sets:
        if not trial.move(given, 1):
            continue
        for taken in sets:
            if (taken or given) and not set(taken) & set(given) and trial.move(taken, -1):
                used, kept_score = ledger.over_limit(), trial.score
                rank = (1.0, -float(odd(ledger.kept)), kept_score) if used >= enough else (0.0, used, kept_score)
                if ledger.holds() and (best is None or rank > best[0]) and accepted(ledger.kept):
                    best = rank, used, list(trial.gone)
                trial.move(taken, 1)
        trial.move(given, -1)
    return None if best is None else best[1:]


def _price(queue: Queue, ledger: Ledger, group: int, gone: int) -> float:
    """Time of one block, of whichever can move; 0 where none can."""
    if gone < len(queue.ends):
        return abs(ledger.price(group, queue.size(gone))) + 1e-12
    return abs(ledger.price(group, -queue.size(gone - 1))) + 1e-12 if gone else 0.0


class _Trial:
    """Blocks on the move."""

    def __init__(self, queues: Sequence[Queue], ledger: Ledger, gone: list[int]) -> None:
        self._queues, self._ledger = queues, ledger
        self.gone = gone
        self.score = 0.0  # won since the start

    def move(self, groups: Sequence[int], blocks: int) -> bool:
        """Let one block of each group go (1) or come back (-1); nothing moves unless all can."""
        for group in set(groups):
            after = self.gone[group] + blocks * groups.count(group)
            if not 0 <= after <= len(self._queues[group].ends):
                return False
        for group in groups:
            block = self.gone[group] - (blocks < 0)
            size = self._queues[group].size(block)
            self._ledger.remove(group, blocks * size)
            self.gone[group] += blocks
            self.score -= blocks * self._queues[group].worth[block] * size
        return True
