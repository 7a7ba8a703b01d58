"""One attempt from its folder to its end: the child is fed, watched, and stopped if it must be.

What the loop learns is written through the fenced verbs of the service. A database that is away costs progress rows
and checkpoints, not the attempt; a job that was taken away costs the attempt, at once.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import structlog

from app.domain.job import Phase
from app.errors import DatabaseUnavailable, LeaseLost, StorageFull
from app.services.assembly import Services
from app.services.claims import Claimed, Progress
from workers.asking import Asking
from workers.child import Child, Death, ProtocolBroken
from workers.folders import CHECKPOINTS, JobFolder, NotAPlainFile
from workers.lane import Computing
from workers.lease import Lease
from workers.outcome import store_file
from workers.question import Away

_TICK: Final = 0.1  # seconds that the loop waits for the child's lines
_MEMORY_SECONDS: Final = 1.0  # between two looks at the child's memory
_SHORTEST_SILENCE: Final = 2.0  # seconds between two rows that say what is waited for
_LONGEST_SILENCE: Final = 60.0
_SILENCE_SHARE: Final = 0.1  # of the time waited so far

log = structlog.get_logger(__name__)


class End(StrEnum):
    """Why the watch over a child ended."""

    EXITED = "exited"
    CANCELLED = "cancelled"
    STOPPING = "stopping"
    LOST = "lost"
    DEADLINE = "deadline"
    MEMORY = "memory"
    PROTOCOL = "protocol"
    AWAY = "away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended: why, how the process died, and what it said last."""

    end: End
    death: Death
    said: Mapping[str, Any] | None  # the event `result` or `problem`
    phase: str | None
    away: Away | None = None  # whom the job waits for, where it waits without this worker


@dataclass(slots=True, kw_only=True)
class Tending:
    """The watch over one child."""

    services: Services
    claimed: Claimed
    folder: JobFolder
    lease: Lease
    child: Child
    stopping: Callable[[], bool]
    seen: Callable[[], None]
    memory_bytes: int | None
    asking: Asking
    clock: Callable[[], float] = time.monotonic
    _said: Mapping[str, Any] | None = None
    _phase: str | None = None
    _pending: Mapping[str, Any] | None = None
    _written: float = float("-inf")
    _measured: float = float("-inf")
    _begun: float = field(default=0.0)
    _looked: float = field(default=0.0)
    _fraction: float = 0.0
    _waits_for: str | None = None
    _told_waiting: float = float("-inf")
    _waiting_since: float = 0.0
    _paused: bool = False
    _away: Away | None = None

    def watch(self) -> Ending:
        """Follow the child to its end; whatever happens, no process of it is left afterwards."""
        self._begun = self._looked = self.clock()
        computing = Computing(self.services.settings.resolved_timing_lock)
        grace = self.services.settings.cancel_grace_seconds.total_seconds()
        try:
            end = self._follow(computing)
        except LeaseLost as error:
            log.warning("attempt.lease_lost", reason=str(error))
            end = End.LOST
        except ProtocolBroken as error:
            log.warning("attempt.protocol_broken", reason=str(error))
            end = End.PROTOCOL
        finally:
            death = self.child.ended() or self.child.kill(0.0 if self.lease.run_out else grace)
            self.child.close()
            self.asking.close()
            computing.close()
        phase = str(self._pending["phase"]) if self._pending else self._phase
        return Ending(end=end, death=death, said=self._said, phase=phase, away=self._away)

    def _follow(self, computing: Computing) -> End:
        while True:
            self._give_way(computing)
            for event in self.child.receive(_TICK):
                self._take(event)
            self._show()
            self._wait_for_devices()
            self._leave_out_idle_time()
            self.seen()
            end = self._reason_to_stop()
            if end is not None:
                return end
            if self.child.ended():
                for event in self.child.rest():
                    self._take(event)
                self._show()
                return End.EXITED

    def _give_way(self, computing: Computing) -> None:
        """Let the child stand still while something is timed on this host, by whichever process of ours."""
        allowed = computing.allowed()
        if allowed == self._paused:  # which is to change
            self.child.go_on() if allowed else self.child.stand_still()
            self._paused = not allowed
        if not allowed:
            computing.give_way()

    def _wait_for_devices(self) -> None:
        """Answer the child's questions, and show what it waits for: at once, then less and less often."""
        waits_for, now = self.asking.look(), self.clock()
        if waits_for is None:
            self._waits_for = None
            return
        if self._waits_for is None:
            self._waiting_since, self._told_waiting = now, float("-inf")
        self._waits_for = waits_for
        pause = min(_LONGEST_SILENCE, max(_SHORTEST_SILENCE, _SILENCE_SHARE * (now - self._waiting_since)))
        if now - self._told_waiting >= pause:
            self._told_waiting = now
            self._tell(Progress(phase=Phase.MEASURE, fraction=self._fraction, message=waits_for))

    def _leave_out_idle_time(self) -> None:
        """Count neither waiting for a device nor standing still for another's measurement as time of the attempt."""
        now = self.clock()
        if self._paused or self._waits_for is not None:
            self._begun += now - self._looked
        self._looked = now

    def _reason_to_stop(self) -> End | None:
        if self.lease.run_out:
            return End.LOST
        if self.lease.cancelled:
            return End.CANCELLED
        if self.stopping():
            return End.STOPPING
        if self.clock() - self._begun > self.services.settings.job_timeout.total_seconds():
            return End.DEADLINE
        if (away := self.asking.away()) is not None:
            self._away = away
            return End.AWAY
        return End.MEMORY if self._too_much_memory() else None

    def _too_much_memory(self) -> bool:
        """Whether the attempt with all its processes holds more than it may; limits of the kernel count each alone."""
        now = self.clock()
        if now - self._measured < _MEMORY_SECONDS:
            return False
        self._measured = now
        resident = self.child.sample_memory()
        return self.memory_bytes is not None and resident > self.memory_bytes

    def _take(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._pending = event
        elif kind in {"result", "problem"}:
            self._said = event
        elif kind == "measure":
            self.asking.take(event)
        else:
            self._record(kind, event)

    def _record(self, kind: str, event: Mapping[str, Any]) -> None:
        """Write what is worth a row of its own; where that cannot be done now, the attempt goes on without."""
        job, attempts = self.claimed, self.services.attempts
        try:
            if kind == "sandbox":
                attempts.describe_sandbox(job.job_id, job.epoch, event["layers"])
            elif kind == "checkpoint":
                self._keep_checkpoint(event)
            elif kind == "warning":
                attempts.warn(job.job_id, job.epoch, {key: event[key] for key in event if key != "event"})
        except (DatabaseUnavailable, StorageFull, NotAPlainFile) as error:
            log.warning("attempt.not_recorded", kind=kind, reason=str(error))

    def _keep_checkpoint(self, event: Mapping[str, Any]) -> None:
        files = {}
        for name in event["files"]:
            blob = store_file(self.services.store, self.folder, CHECKPOINTS, str(name))
            files[str(name)] = (blob.digest, blob.size_bytes)
        self.services.attempts.record_checkpoint(self.claimed.job_id, self.claimed.epoch, str(event["step"]), files)

    def _show(self) -> None:
        """Write the newest progress: at once where the phase is new, else at most once per interval."""
        event, now = self._pending, self.clock()
        if event is None:
            return
        interval = self.services.settings.progress_seconds.total_seconds()
        if event["phase"] == self._phase and now - self._written < interval:
            return
        self._phase, self._written, self._pending = str(event["phase"]), now, None
        self._fraction = float(event["fraction"])
        progress = Progress(
            phase=Phase(event["phase"]),
            fraction=self._fraction,
            message=str(event.get("message") or ""),
            eta_seconds=event.get("eta_seconds"),
            metrics={name: value for name, value in (event.get("metrics") or {}).items() if value is not None},
        )
        self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        try:
            self.services.attempts.progress(self.claimed.job_id, self.claimed.epoch, progress)
        except DatabaseUnavailable as error:
            log.warning("attempt.not_recorded", kind="progress", reason=str(error))
