"""The parts of the one-machine service as processes: started, watched, started again, stopped.

Each part runs in a session of its own, so that Ctrl-C in a terminal reaches only the process that stops the others in
order; and each is tied to that process by the kernel, so that none outlives it, however it ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

_LIFELINE: Final = str(Path(__file__).with_name("lifeline.py"))
_FIRST_PAUSE: Final = 0.2  # seconds before a dead part is started again; doubled each time
_LONGEST_PAUSE: Final = 10.0
_STEADY: Final = 30.0  # a part that ran this long starts over with the first pause

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Part:
    """One process of the service, kept running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    files: tuple[int, ...] = ()  # descriptors that the process inherits
    clock: Callable[[], float] = time.monotonic
    process: subprocess.Popen[bytes] | None = None
    _pause: float = _FIRST_PAUSE
    _started: float = 0.0
    _due: float | None = field(default=None)

    def start(self) -> None:
        """Start the process; it ends when the calling thread's process ends."""
        self._started, self._due = self.clock(), None
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LIFELINE, str(os.getpid()), *self.command],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            pass_fds=self.files,
            start_new_session=True,
        )
        log.info("part.started", part=self.name, pid=self.process.pid)

    def look(self) -> None:
        """Start the process again if it ended, after a pause that grows while it keeps ending."""
        now = self.clock()
        if self._due is not None:
            if now >= self._due:
                self.start()
            return
        if self.process is None or self.process.poll() is None:
            return
        if now - self._started > _STEADY:
            self._pause = _FIRST_PAUSE
        log.warning("part.died", part=self.name, exit_status=self.process.returncode, pause_seconds=self._pause)
        self._due = now + self._pause
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def stop(self, patience: float) -> None:
        """Ask the process to end, wait `patience` seconds, then end it and whatever is left of its session."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        log.info("part.stopped", part=self.name, exit_status=self.process.returncode)


def stop_together(parts: Sequence[Part], patience: float) -> None:
    """Ask several parts to end at the same time, then wait for each."""
    for part in parts:
        if part.process is not None and part.process.poll() is None:
            part.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + patience
    for part in parts:
        if part.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.process.wait(max(0.0, until - time.monotonic()))
        part.stop(0.0)
