"""`python -m workers.housekeeping`: what must happen though nobody asks for it.

Bells that could not be rung are rung again, jobs of lost workers go back to their queue, expired keys and old jobs go,
and content that nothing names is collected. Each chore is safe to run twice and in several processes at once.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from app.errors import ServiceError
from app.logs import configure_logging
from app.services.assembly import Services, open_services
from app.settings import Settings
from app.storage.local import LocalStore
from workers.folders import remove_abandoned
from workers.stopping import stop_event

_FOLDER_AGE: Final = timedelta(seconds=60)
_UPLOAD_AGE: Final = timedelta(hours=24)
_WORKER_AGE: Final = 20  # times the silence after which a worker counts as gone
_LONGEST_WAIT: Final = 1.0  # seconds between two looks at what is due

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Chore:
    """Something to do every `interval`."""

    name: str
    interval: timedelta
    work: Callable[[], int]
    due: float = float("-inf")

    def tick(self, now: float) -> None:
        """Do it if it is due; what cannot be done now is tried again after the interval."""
        if now < self.due:
            return
        self.due = now + self.interval.total_seconds()
        try:
            count = self.work()
        except (ServiceError, OSError) as error:
            log.warning("chore.failed", chore=self.name, error=type(error).__name__, reason=str(error))
            return
        if count:
            log.info("chore.done", chore=self.name, count=count)


def chores(services: Services) -> tuple[Chore, ...]:
    """Give everything that is to be done, the urgent first."""
    settings = services.settings
    return (
        Chore(name="ring_again", interval=settings.outbox_seconds, work=services.outbox.resend),
        Chore(name="take_back_jobs", interval=settings.sweep_seconds, work=services.attempts.sweep_leases),
        Chore(name="give_up_measurements", interval=settings.sweep_seconds, work=services.device_work.give_up_overdue),
        Chore(name="remove_folders", interval=settings.sweep_seconds, work=lambda: _remove_folders(settings)),
        Chore(name="forget_keys", interval=settings.garbage_seconds, work=services.idempotency.purge),
        Chore(name="expire_jobs", interval=settings.garbage_seconds, work=services.garbage.expire_jobs),
        Chore(name="forget_statistics", interval=settings.garbage_seconds, work=services.garbage.forget_statistics),
        Chore(name="collect_content", interval=settings.garbage_seconds, work=services.garbage.collect),
        Chore(name="remove_uploads", interval=settings.garbage_seconds, work=lambda: _remove_uploads(services)),
        Chore(
            name="forget_workers",
            interval=settings.garbage_seconds,
            work=lambda: services.workers.forget(_WORKER_AGE * settings.worker_stale_seconds),
        ),
    )


def _remove_folders(settings: Settings) -> int:
    now = datetime.now(UTC).timestamp()
    return remove_abandoned(settings.resolved_work_dir, now=now, older_than=_FOLDER_AGE.total_seconds())


def _remove_uploads(services: Services) -> int:
    if not isinstance(services.store, LocalStore):
        return 0
    return services.store.sweep_temporary(now=datetime.now(UTC), older_than=_UPLOAD_AGE)


def keep_house(services: Services, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
    """Do every chore in its time until told to stop."""
    todo = chores(services)
    pause = min([_LONGEST_WAIT, *(chore.interval.total_seconds() for chore in todo)])
    while not stop.is_set():
        for chore in todo:
            chore.tick(clock())
        stop.wait(pause)


def main() -> int:
    """Keep house for the service that the environment describes."""
    settings = Settings()
    configure_logging(level=settings.log_level, json=settings.log_json)
    stop = stop_event()
    services = open_services(settings)
    try:
        keep_house(services, stop)
    finally:
        services.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
