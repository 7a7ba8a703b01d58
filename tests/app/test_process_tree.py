"""Parts of the one-machine service: started again when they die, gone when their owner is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.process_tree import Part, stop_together
from tests.waiting import pid_runs, wait_for


def part(program: str, **changes: object) -> Part:
    """A part that runs a Python program."""
    return Part(name="part", command=(sys.executable, "-c", program), environment=dict(os.environ), **changes)


def test_a_dead_part_is_started_again_after_a_pause_that_grows(tmp_path) -> None:
    """A part that keeps dying is tried after 0.2, 0.4, 0.8 s: by hand from the doubling, on a clock of our own."""
    now = [0.0]
    marker = tmp_path / "starts"
    dying = part(f"open({str(marker)!r}, 'a').write('x')", clock=lambda: now[0])
    dying.start()
    starts = []
    for _ in range(3):
        wait_for(lambda: dying.process.poll() is not None)
        dying.look()
        died, dead = now[0], dying.process.pid
        while dying.process.pid == dead:
            now[0] += 0.01
            dying.look()
        starts.append(now[0] - died)
    dying.process.wait()

    assert [0.2, 0.4, 0.8] == pytest.approx(starts, abs=0.02)
    assert "xxxx" == marker.read_text()


def test_a_part_that_ignores_requests_is_ended_by_force(tmp_path) -> None:
    """After its patience it is killed: it would have gone on for minutes."""
    deaf = tmp_path / "deaf"
    program = "import pathlib, signal, sys, time; signal.signal(15, signal.SIG_IGN);"
    stubborn = part(f"{program} pathlib.Path({str(deaf)!r}).touch(); time.sleep(300)")
    stubborn.start()
    wait_for(deaf.exists)
    stubborn.stop(0.3)

    assert -signal.SIGKILL == stubborn.process.returncode


def test_parts_are_stopped_at_the_same_time(tmp_path) -> None:
    """Each of three parts ends when all were told to: stopped one after the other, the first would wait for ever."""
    waits_for_all = (
        "import pathlib, signal, sys, time\nfolder = pathlib.Path(sys.argv[0])\n"
        "def told(*_):\n    (folder / f'told-{NUMBER}').touch()\n"
        "    while len(list(folder.glob('told-*'))) < 3: time.sleep(0.01)\n    sys.exit()\n"
        "signal.signal(15, told)\n(folder / 'up-NUMBER').touch()\ntime.sleep(300)\n"
    ).replace("sys.argv[0]", repr(str(tmp_path)))
    parts = [part(waits_for_all.replace("NUMBER", str(number))) for number in range(3)]
    for each in parts:
        each.start()
    wait_for(lambda: len(list(tmp_path.glob("up-*"))) == 3)
    stop_together(parts, 60)

    assert [0, 0, 0] == [each.process.returncode for each in parts]


def test_a_part_dies_with_its_owner(tmp_path) -> None:
    """kill -9 of the owner ends the part, whatever program it is."""
    program = (
        "import os, time\nfrom app.process_tree import Part\n"
        "part = Part(name='sleep', command=('sleep', '60'), environment=dict(os.environ))\n"
        "part.start()\nprint(part.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as owner:
        line = b""
        while not line.strip().isdigit():
            line = owner.stdout.readline()
        pid = int(line)
        wait_for(lambda: psutil.Process(pid).name() == "sleep")
        owner.kill()

    wait_for(lambda: not pid_runs(pid))


def test_a_part_whose_owner_is_gone_already_does_not_start() -> None:
    """The race between start and death of the owner is closed: a wrong owner ends the part at once."""
    lifeline = Path("app/lifeline.py").resolve()
    done = subprocess.run(
        [sys.executable, "-I", "-S", lifeline, "1", "echo", "started"], capture_output=True, check=False
    )

    assert (1, b"") == (done.returncode, done.stdout)


def test_a_part_that_was_never_started_can_be_stopped() -> None:
    """A start that failed half-way is cleaned up like any other."""
    never = part("pass")
    never.stop(0)

    assert never.process is None
