"""`dev_local` as a device that users ask: a worker leases what is asked of it, as an agent would, and times it.

It runs in a thread beside the worker's jobs; the timing lane sees to it that they stand still meanwhile.
"""

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import structlog

from app.db.tables import DeviceRow
from app.domain.batch import BatchReport
from app.domain.device import FailureReport, LatencyReport, Poll, read
from app.domain.target import LOCAL
from app.errors import DatabaseUnavailable, DeviceLeaseLost, ServiceError, ValidationFailed
from app.ids import Digest
from app.services.assembly import Services
from app.services.device_work import Lease, LeasedItem
from workers.edge_link import answer_of
from workers.folders import JobFolder
from workers.lane import LaneClosed
from workers.local_timer import LocalTimer

_RENEWALS_PER_LEASE: Final = 4
_RUN_SECONDS: Final = 60.0  # runs go on for this long at most, once there are enough

log = structlog.get_logger(__name__)


class _NotWanted(Exception):
    """The lease was lost: cancelled, or given to another worker."""


@dataclass(slots=True, kw_only=True)
class LocalDevice:
    """Times what users ask of this host. Must be used from a thread that lives as long as it works."""

    services: Services
    timer: LocalTimer
    stopping: Callable[[], bool]
    agent: str = field(default_factory=lambda: secrets.token_hex(16))
    clock: Callable[[], float] = time.monotonic
    _row: DeviceRow = field(
        default_factory=lambda: DeviceRow(id=LOCAL, tenant="default", name="local", token_sha256="", attributes=None)
    )

    def serve(self, interval: float) -> None:
        """Time whatever is asked, until the worker is to stop."""
        while not self.stopping():
            try:
                if self.serve_one():
                    continue
            except DatabaseUnavailable as error:
                log.warning("local_device.database_away", reason=str(error))
            except Exception:
                # The boundary of a worker's thread: one request must not end the device for all others.
                log.exception("local_device.stumbled")
            until = self.clock() + interval
            while not self.stopping() and self.clock() < until:
                time.sleep(min(0.1, interval))

    def serve_one(self) -> bool:
        """Time the oldest request; says whether there was one.

        Raises:
            DatabaseUnavailable: it could not be asked for one.
        """
        work = self.services.device_work
        lease = work.lease(self._row, Poll(agent=self.agent)) if work.waiting(self._row) else None
        if lease is None:
            return False
        log.info("local_device.leased", lease=lease.id)
        try:
            self._send(lease, self._timed(lease))
        except (LaneClosed, _NotWanted, DeviceLeaseLost) as error:
            log.info("local_device.dropped", lease=lease.id, reason=str(error))
        except (ServiceError, OSError) as error:
            if isinstance(error, DatabaseUnavailable):
                raise
            log.warning("local_device.failed", lease=lease.id, reason=str(error))
            self._fail(lease, "storage", f"This host could not store or time the network ({type(error).__name__}).")
        return True

    def _timed(self, lease: Lease) -> dict[str, Any]:
        folder = JobFolder.make(self.services.settings.resolved_work_dir, f"asked.{lease.id}")
        try:
            digests = _contents(lease)
            for number, digest in enumerate(digests):
                self.services.store.fetch(Digest(digest), folder.path / str(number))

            def opened(file: str) -> contextlib.AbstractContextManager[BinaryIO]:
                return (folder.path / file).open("rb")

            names = [str(number) for number in range(len(digests))]
            return self.timer.time(lease.id, _order(lease), names, opened, stopping=self._keeper(lease))
        finally:
            folder.remove()

    def _keeper(self, lease: Lease) -> Callable[[], bool]:
        """Give what is asked between two looks: it extends the lease, and says whether the worker is to stop."""
        every = self.services.settings.device_lease.total_seconds() / _RENEWALS_PER_LEASE
        due = self.clock() + every

        def stopping() -> bool:
            nonlocal due
            if self.clock() >= due:
                due = self.clock() + every
                with contextlib.suppress(DatabaseUnavailable):
                    try:
                        self.services.device_work.renew(self._row, lease.id)
                    except DeviceLeaseLost as error:
                        raise _NotWanted(str(error)) from error
            return self.stopping()

        return stopping

    def _send(self, lease: Lease, found: dict[str, Any]) -> None:
        """Report as an agent does; what the service does not take is told as a failure."""
        if "failure" in found:
            self._fail(lease, **found["failure"])
            return
        items = [{"name": name, "sha256": digest} for name, digest, _ in _listed(lease)]
        answer = answer_of(found, items, alone=not lease.items)
        work = self.services.device_work
        try:
            if "report" in answer:
                work.record(self._row, read(LatencyReport, {"lease": lease.id, **answer["report"]}))
            elif "results" in answer:
                work.settle(self._row, lease.id, read(BatchReport, answer["results"]))
            else:
                self._fail(lease, **answer["failure"])
        except ValidationFailed as error:
            self._fail(lease, "run", f"The service did not take the measurement: {error}")

    def _fail(self, lease: Lease, reason: str, detail: str) -> None:
        report = read(FailureReport, {"reason": reason, "detail": detail[:4000]})
        self.services.device_work.fail(self._row, lease.id, report)


def _listed(lease: Lease) -> list[tuple[str, str, str | None]]:
    """Give name and digest of each network of a lease, and the digest of the file of its weights if there is one."""
    alone = [LeasedItem(name=LOCAL, sha256=lease.sha256, size_bytes=0, external_data=lease.external_data)]
    listed = lease.items or alone
    return [(one.name, one.sha256, one.external_data.sha256 if one.external_data else None) for one in listed]


def _contents(lease: Lease) -> list[str]:
    """Give the digests of all files of a lease: first the networks, in their order."""
    listed = _listed(lease)
    return [digest for _, digest, _ in listed] + [beside for _, _, beside in listed if beside is not None]


def _order(lease: Lease) -> dict[str, Any]:
    names = ("threads", "batch", "provider", "warmup", "repeats", "profile", "shapes")
    how = {name: getattr(lease, name) for name in names}
    listed = _listed(lease)
    behind = itertools.count(len(listed))
    items = [
        {
            "name": name,
            "kind": "network",
            "file": f"{number}.onnx",
            "companion": None if beside is None else f"{next(behind)}.onnx",
        }
        for number, (name, _, beside) in enumerate(listed)
    ]
    return {"items": items, "threads": lease.threads, "batch": lease.batch, "exact": {**how, "seconds": _RUN_SECONDS}}


@contextlib.contextmanager
def beside(device: LocalDevice, interval: float) -> Iterator[None]:
    """Serve in a thread while the block runs; the block ends because the worker is told to stop."""
    thread = threading.Thread(target=device.serve, args=(interval,), name="local-device", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(2.0)
