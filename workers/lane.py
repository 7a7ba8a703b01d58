"""The timing lane of a host: while something is timed here, no attempt of ours computes beside it.

Two lock files, so that whoever dies gives way by dying. `turn` belongs to what times, one at a time. `computing` is
shared by every supervisor whose child may compute; a supervisor that sees the turn taken stops its child first and lets
go of `computing` then. What times holds the turn, then waits until it has `computing` for itself: from then on every
attempt stands still. A supervisor that does not give way in time is not waited for; the measurement says so.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 5.0
_PAUSE: Final = 0.02


class LaneClosed(Exception):
    """Whoever waited for its turn was told to stop."""


class Computing:
    """A supervisor's side of the lane: may its child compute now?"""

    def __init__(self, path: Path) -> None:
        self._turn, self._computing = _opened(path), _opened(_beside(path))
        self._held = False

    def allowed(self) -> bool:
        """Say whether nothing is timed; a change to no is only followed by `give_way`, once the child stands still."""
        if _taken(self._turn):
            return False
        if not self._held:
            self._held = _try(self._computing, fcntl.LOCK_SH)
        return self._held

    def give_way(self) -> None:
        """Let what times begin: the child does not compute any more."""
        fcntl.flock(self._computing, fcntl.LOCK_UN)
        self._held = False

    def close(self) -> None:
        """Let go for good."""
        os.close(self._turn)
        os.close(self._computing)


@contextmanager
def turn(
    path: Path, *, stopping: Callable[[], bool], patience: float = PATIENCE_SECONDS, clock: Callable[[], float]
) -> Iterator[bool]:
    """Hold the host's turn to time; yields whether every attempt on this host stands still meanwhile.

    Raises:
        LaneClosed: `stopping` came true before the turn did.
    """
    mine, computing = _opened(path), _opened(_beside(path))
    try:
        while not _try(mine, fcntl.LOCK_EX):
            _pause(stopping)
        until = clock() + patience
        alone = _try(computing, fcntl.LOCK_EX)
        while not alone and clock() < until:
            _pause(stopping)
            alone = _try(computing, fcntl.LOCK_EX)
        yield alone
    finally:
        os.close(computing)
        os.close(mine)


def _pause(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise LaneClosed("told to stop while waiting for the timing lane")
    time.sleep(_PAUSE)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.computing")


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try(number: int, kind: int) -> bool:
    try:
        fcntl.flock(number, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken(number: int) -> bool:
    """Whether somebody else holds the turn; looking takes it for an instant, which whoever wants it tries again."""
    if not _try(number, fcntl.LOCK_SH):
        return True
    fcntl.flock(number, fcntl.LOCK_UN)
    return False
