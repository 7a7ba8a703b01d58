"""A worker's row in the roll: that it looks for jobs, or works on one. Written by the loop itself, as a proof."""

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog

from app.errors import ServiceError
from app.services.assembly import Services
from workers import host

_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Presence:
    """Says now and then that this worker consumes; a worker whose loop hangs falls silent by itself."""

    services: Services
    worker_id: str
    bell: str
    clock: Callable[[], float] = time.monotonic
    _said: float = float("-inf")
    _job_id: str | None = field(default=None)

    def seen(self, job_id: str | None) -> None:
        """Note that the loop came by, at most every few seconds unless the job changed."""
        now = self.clock()
        if now - self._said < _SECONDS and job_id == self._job_id:
            return
        self._said, self._job_id = now, job_id
        try:
            self.services.workers.seen(
                self.worker_id,
                queues=self.services.settings.queue_names,
                bell=self.bell,
                job_id=job_id,
                system=_system(),
            )
        except ServiceError as error:
            log.warning("worker.not_noted", reason=str(error))

    def gone(self) -> None:
        """Take the row away."""
        with contextlib.suppress(ServiceError):
            self.services.workers.gone(self.worker_id)


def _system() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": _version("torch"),
        "onnxruntime": _version("onnxruntime"),
        "device": host.device(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
