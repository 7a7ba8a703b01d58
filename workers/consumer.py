"""A worker's loop: run jobs until none waits, when the bell rings and also every few seconds by itself.

A bell that was lost costs one interval, never a job. One job at a time: whoever rings while a job runs waits for it,
which is what keeps a broker from handing the bell of another job to a busy worker.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from app.errors import DatabaseUnavailable
from workers.supervisor import Supervisor

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Consumer:
    """Runs the jobs of a supervisor's queues."""

    supervisor: Supervisor
    stopping: Callable[[], bool]
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def drain(self) -> int:
        """Run jobs until none waits or the worker is to stop; gives how many."""
        with self._one_at_a_time:
            return self._drain()

    def look_forever(self, interval: timedelta) -> None:
        """Drain every `interval` until the worker is to stop; a database that is away is asked again."""
        while not self.stopping():
            if self._one_at_a_time.acquire(blocking=False):
                try:
                    self._drain()
                finally:
                    self._one_at_a_time.release()
            self._pause(interval.total_seconds())

    @property
    def busy(self) -> bool:
        """Whether a drain is under way."""
        return self._one_at_a_time.locked()

    def _drain(self) -> int:
        count = 0
        try:
            while not self.stopping() and self.supervisor.run_one():
                count += 1
        except DatabaseUnavailable as error:
            log.warning("worker.database_away", error=str(error))
        except Exception:
            # The boundary of the worker's loop: our own mistake in one job must not end the worker for all others.
            log.exception("worker.stumbled")
        return count

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stopping() and time.monotonic() < until:
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))
