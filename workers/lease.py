"""The hold on a job, kept in a thread: extends the lease, learns of a cancel, notices that the job was taken away.

A database that is away changes nothing until the lease itself has run out by this process's own clock: until then no
other worker can have the job. A process that was paused finds out the same way, before it asks anybody.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from app.domain.job import JobKind, JobState
from app.errors import DatabaseUnavailable, LeaseLost, NotFound
from app.services.assembly import Services
from app.services.claims import Claimed

_MARGIN: Final = 0.1  # share of the lease that is kept for killing the child

log = structlog.get_logger(__name__)


class Lease:
    """A context manager around the work on a claimed job; its flags are read by the loop that watches the child."""

    def __init__(
        self, services: Services, claimed: Claimed, *, held_since: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lost = False
        self.cancelled = False
        self._services, self._claimed, self._clock = services, claimed, clock
        self._span = services.settings.lease_seconds.total_seconds()
        self._until = held_since + self._span
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claimed.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def run_out(self) -> bool:
        """Whether the job must be let go: taken away, or not extended in time."""
        return self.lost or self._clock() > self._until - _MARGIN * self._span

    def _keep(self) -> None:
        settings = self._services.settings
        rest = settings.heartbeat_seconds.total_seconds()
        pause = min(rest, settings.cancel_poll_seconds.total_seconds())
        due = self._clock() + rest
        while not self._ended.wait(pause):
            now = self._clock()
            try:
                if now >= due:
                    self._beat(now)
                    due = now + rest
                elif self._claimed.kind is JobKind.PRUNE:
                    self._look()
            except (LeaseLost, NotFound) as error:
                log.warning("lease.lost", reason=str(error))
                self.lost = True
                return
            except DatabaseUnavailable as error:
                log.warning("lease.database_away", reason=str(error), seconds_left=round(self._until - now, 1))

    def _beat(self, now: float) -> None:
        cancelled = self._services.attempts.heartbeat(self._claimed.job_id, self._claimed.epoch)
        self._until = now + self._span
        self.cancelled = self.cancelled or cancelled

    def _look(self) -> None:
        """Read the state between two heartbeats: a cancel is seen sooner than the lease needs extending."""
        _, state = self._services.jobs.version(self._claimed.tenant, self._claimed.job_id)
        self.cancelled = self.cancelled or state is JobState.CANCELLING
