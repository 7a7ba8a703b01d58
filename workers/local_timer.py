"""`dev_local`: networks are timed on this host, in its timing lane, by a fresh process in the sandbox of attempts."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

import structlog

from app.settings import Settings
from workers import host
from workers.child import Child, ProtocolBroken, start
from workers.folders import SCRATCH, JobFolder
from workers.lane import LaneClosed, turn
from workers.pruning.types import Json
from workers.sandbox import Limits, child_environment

TIMING: Final = (sys.executable, "-P", "-m", "workers.timing")
_LONGEST_SECONDS: Final = 900.0  # of one question, loading and runs together
_TICK: Final = 0.1

log = structlog.get_logger(__name__)
Answer = dict[str, Any]  # `measurements` and `failures`, by name
Opener = Callable[[str], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTimer:
    """Times networks on this host. Must be used from a thread that lives as long as the question."""

    settings: Settings
    environment: Mapping[str, str]
    command: Sequence[str] = TIMING
    clock: Callable[[], float] = time.monotonic

    def time(
        self,
        name: str,
        order: Mapping[str, Json],
        files: Sequence[str],
        opened: Opener,
        *,
        stopping: Callable[[], bool],
    ) -> Answer:
        """Time the networks of an order, which lie in `files` in its order, alone on this host if it can be had.

        Raises:
            LaneClosed: told to stop.
            OSError: there is no room for the copies, or no process can be started.
        """
        folder = JobFolder.make(self.settings.resolved_work_dir, f"timing.{name}")
        try:
            for number, file in enumerate(files):
                with opened(file) as source, (folder.path / f"{number}.onnx").open("wb") as target:
                    shutil.copyfileobj(source, target)
            with turn(self.settings.resolved_timing_lock, stopping=stopping, clock=self.clock) as alone:
                return self._answer(folder, {**order, "alone": alone}, stopping)
        finally:
            folder.remove()

    def _answer(self, folder: JobFolder, order: Mapping[str, Json], stopping: Callable[[], bool]) -> Answer:
        threads = int(str(order["threads"]))
        folder.write_order({**order, "limits": asdict(self._limits(threads))})
        environment = child_environment(self.environment, scratch=folder.path / SCRATCH, num_threads=threads)
        child = start(self.command, folder.path, environment)
        log.info("timing.started", pid=child.process.pid, alone=order["alone"])
        try:
            said = self._followed(child, stopping)
        finally:
            if child.ended() is None:
                child.kill(0.0)
            child.close()
        if said is None or said["event"] != "result":
            detail = str(said["detail"]) if said else f"The measuring process died: {child.death}. {child.log_tail}"
            log.warning("timing.failed", reason=detail[-2000:])
            return {"measurements": {}, "failures": {}, "failure": {"reason": "crash", "detail": detail[:4000]}}
        found: Answer = said["result"]
        return found

    def _followed(self, child: Child, stopping: Callable[[], bool]) -> Mapping[str, Any] | None:
        """Give the process's last word, or None where it died without one or took too long."""
        begun, events = self.clock(), list[Mapping[str, Any]]()
        try:
            while child.ended() is None and self.clock() - begun < _LONGEST_SECONDS:
                if stopping():
                    raise LaneClosed("told to stop while timing")
                events += child.receive(_TICK)
            events += child.rest() if child.ended() else []
        except ProtocolBroken as error:
            log.warning("timing.protocol_broken", reason=str(error))
            return None
        return events[-1] if events and child.ended() else None

    def _limits(self, threads: int) -> Limits:
        settings = self.settings
        return Limits(
            memory_bytes=host.memory_limit(settings.child_memory_bytes),
            cpu_seconds=int(_LONGEST_SECONDS * threads) + 60,
            file_bytes=settings.child_file_bytes,
            open_files=1024,
            nice=0,
            required=settings.required_layers,
        )
