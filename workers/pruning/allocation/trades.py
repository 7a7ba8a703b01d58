"""A limit on time used up where blocks are large beside it: some blocks go, others come back, by trying."""

from collections.abc import Callable, Sequence
from itertools import chain, combinations_with_replacement
from typing import Final

from workers.pruning.allocation.descent import Queue
from workers.pruning.allocation.ledger import Ledger

_CANDIDATES: Final = 10  # groups that trade
_AT_A_TIME: Final = 2  # blocks that go, and that come back

Accepted = Callable[[Sequence[int]], bool]


def traded(
    queues: Sequence[Queue], ledger: Ledger, gone: Sequence[int], *, enough: float, accepted: Accepted
) -> tuple[float, list[int]] | None:
    """Find the trade after which most score stays among those that leave at least `enough` of the limit used.

    Where none does, the trade that uses most. At most two blocks go and two come back; the groups of which a block
    takes least time trade, since what is missing is small.

    Args:
        queues: blocks of every group.
        ledger: at the widths that `gone` leaves; it is left as it was.
        gone: blocks that every group has lost.
        enough: share of the limit to use.
        accepted: whether widths may be the result.

    Returns:
        The share of the limit that is used and the blocks that every group has lost then; None without a trade.
    """
    sizes = {group: _price(queues[group], ledger, group, gone[group]) for group in range(len(queues))}
    groups = sorted((group for group in sizes if sizes[group]), key=lambda group: (sizes[group], group))[:_CANDIDATES]
    sets = list(chain.from_iterable(combinations_with_replacement(groups, count) for count in range(_AT_A_TIME + 1)))
    trial = _Trial(queues, ledger, list(gone))
    best: tuple[tuple[float, float], float, list[int]] | None = None
    for given in sets:
        if not trial.move(given, 1):
            continue
        for taken in sets:
            if (taken or given) and not set(taken) & set(given) and trial.move(taken, -1):
                used, kept_score = ledger.over_limit(), trial.score
                rank = (1.0, kept_score) if used >= enough else (0.0, used)
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
