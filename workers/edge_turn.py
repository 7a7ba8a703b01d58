"""The turn to measure among the agents of one user on one host: two that measure at once would measure each other."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def turn_file() -> Path:
    """Give the file whose lock is the turn; another user's is no business of ours."""
    return Path(tempfile.gettempdir()) / f"espalier-agents-{os.getuid()}.lock"


@contextmanager
def one_at_a_time(path: Path | None = None) -> Iterator[bool]:
    """Hold the turn, however long it takes to come; yields False where there is no place for its file.

    It is let go when the process ends, whichever way.
    """
    try:
        number = os.open(path or turn_file(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(number)
