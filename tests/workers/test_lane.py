"""The timing lane: one turn at a time, attempts give way, the dead hold nothing."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workers.lane import Computing, LaneClosed, turn


def never() -> bool:
    return False


def test_an_attempt_gives_way_and_goes_on(tmp_path: Path) -> None:
    """While the turn is held nothing may compute; whoever gave way may again afterwards."""
    path = tmp_path / "timing.lock"
    computing = Computing(path)
    assert computing.allowed()
    seen = []

    def supervise() -> None:
        while computing.allowed():
            time.sleep(0.01)
        seen.append("stopped")
        computing.give_way()

    thread = threading.Thread(target=supervise)
    thread.start()
    with turn(path, stopping=never, clock=time.monotonic) as alone:
        seen.append("timed")
        assert alone
        assert not computing.allowed()
    thread.join()

    assert seen == ["stopped", "timed"]
    assert computing.allowed()
    computing.close()


def test_a_supervisor_that_does_not_give_way_is_told(tmp_path: Path) -> None:
    """The turn does not wait for ever; what is timed then is said not to have been alone."""
    path = tmp_path / "timing.lock"
    stubborn = Computing(path)
    assert stubborn.allowed()
    with turn(path, stopping=never, patience=0.1, clock=time.monotonic) as alone:
        assert not alone
    stubborn.close()


def test_turns_follow_each_other(tmp_path: Path) -> None:
    """Four that want to time at once do so one after the other."""
    path, inside, most = tmp_path / "timing.lock", [], []

    def time_something() -> None:
        with turn(path, stopping=never, clock=time.monotonic):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=time_something) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == [1, 1, 1, 1]


def test_waiting_for_a_turn_ends_when_told(tmp_path: Path) -> None:
    """A cancelled job does not wait for another's measurement."""
    path = tmp_path / "timing.lock"
    second = turn(path, stopping=lambda: True, clock=time.monotonic)
    with turn(path, stopping=never, clock=time.monotonic), pytest.raises(LaneClosed), second:
        pass


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """A process that was killed in its turn leaves it to the next."""
    path = tmp_path / "timing.lock"
    code = (
        "import sys, time; from pathlib import Path; from workers.lane import turn\n"
        "with turn(Path(sys.argv[1]), stopping=lambda: False, clock=time.monotonic):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        computing = Computing(path)
        assert not computing.allowed()
        other.kill()
        other.wait()
        assert computing.allowed()
        computing.close()
