"""Waiting for what other processes and threads do, and looking at processes that may end at any moment."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

PATIENCE_S = 60.0  # for a machine under load; who waits for nothing else is not slowed by it


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Return when the condition holds; fail if it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not happen within {seconds:.0f} s"
        time.sleep(0.02)


def runs(process: psutil.Process) -> bool:
    """Whether a process lives; one that ends while it is looked at does not."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [each for each in processes if runs(each)]


def pid_runs(pid: int) -> bool:
    """Whether the process of this number lives."""
    with suppress(psutil.Error):
        return runs(psutil.Process(pid))
    return False


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below this one."""
    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def running(word: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Living processes with this word in their command line."""
    found = []
    for each in processes:
        with suppress(psutil.Error):
            if runs(each) and any(word in part for part in each.cmdline()):
                found.append(each)
    return found
