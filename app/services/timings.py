"""What workers do for jobs that need a latency: ask a device once, see how far it is, know what was timed before.

A question of a job is asked once, however often its attempts die: it carries a digest of the job and of everything that
is asked, and the same digest is the same request.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import select

from app.db import jobs
from app.db.session import Clock, Database
from app.db.tables import JobRow, MeasurementRow
from app.domain.batch import BatchSpec
from app.domain.device import OPEN, RequestState
from app.domain.report import MeasuredKind, MeasurementReport
from app.errors import LeaseLost, NotFound
from app.ids import new_id
from app.services.batches import CPU_PROVIDER
from app.services.device_work import own_threads
from app.services.devices import Devices

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_NEWEST: Final = 20_000  # rows of one device's table that are looked at
_UNDISTURBED: Final = 0.9  # of wall time on the processor; the engine's own measure of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which a device times: what makes rows of its table comparable."""

    threads: int
    runtime_version: str | None  # None: its agent has never called
    provider: str = CPU_PROVIDER
    cpu: str | None = None  # asked for where a device may be several machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How far a question is, and how long it is waited for."""

    state: RequestState
    seen_at: datetime | None
    gives_up_at: datetime
    now: datetime
    problem: Mapping[str, object] | None
    measured: Mapping[str, MeasurementRow]  # by name
    failed: Mapping[str, Mapping[str, object]]  # problems, by name

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.state not in OPEN

    @property
    def overdue(self) -> bool:
        """Whether the device has been silent for longer than it is waited for."""
        return not self.ended and self.now >= self.gives_up_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The verbs of supervisors about latencies."""

    database: Database
    clock: Clock
    devices: Devices

    def conditions(self, tenant: str, device_id: str, *, threads: int | None) -> Conditions:
        """Give how a device times for a job that asks for these threads, or for the device's own."""
        try:
            attributes = self.devices.get(tenant, device_id).attributes or {}
        except NotFound:  # deleted with its tenant's data; the question will say so
            attributes = {}
        version, provider = attributes.get("runtime_version"), attributes.get("provider")
        return Conditions(
            threads=threads or own_threads(attributes),
            runtime_version=version if isinstance(version, str) else None,
            provider=provider if isinstance(provider, str) else CPU_PROVIDER,
        )

    def table(self, tenant: str, device_id: str, conditions: Conditions, *, job_id: str) -> dict[str, float]:
        """Give the layers that a device timed under these conditions before a job began: key to median, the newest.

        A key says everything about a layer, its batch among it. What came later is left out, so that every attempt of
        the job asks the same.
        """
        row = MeasurementRow
        query = (
            select(row.key, row.p50_ms, row.host)
            .where(row.tenant == tenant, row.device == device_id, row.kind == MeasuredKind.LAYER.value)
            .where(row.created_at < select(JobRow.started_at).where(JobRow.id == job_id).scalar_subquery())
            .where(row.threads == conditions.threads, row.provider == conditions.provider)
            .where(row.runtime_version == conditions.runtime_version)
            .order_by(row.id.desc())
            .limit(_NEWEST)
        )
        found: dict[str, float] = {}
        with self.database.read_only() as session:
            for key, p50_ms, machine in session.execute(query):
                if key is not None and conditions.cpu in {None, machine.get("cpu")}:
                    found.setdefault(key, _undisturbed(p50_ms, machine))
        return found

    def ask(self, tenant: str, device_id: str, spec: BatchSpec, *, job_id: str, question: str) -> str:
        """Ask a device for a job, unless this very question was asked before; gives the request's id.

        Raises:
            NotFound: there is no such device any more.
            ValidationFailed: it was revoked.
        """
        once = hashlib.sha256(f"{job_id} {device_id} {question}".encode()).hexdigest()
        return self.devices.ask_batch(tenant, device_id, spec, job_id=job_id, once=once).id

    def look(self, tenant: str, device_id: str, request_id: str, *, wait: timedelta) -> Asked:
        """Say how far a question is. A silent device is waited for until `wait` after it was heard of, or asked.

        Raises:
            NotFound: it was never asked.
        """
        request, device = self.devices.request(tenant, device_id, request_id), self.devices.get(tenant, device_id)
        state = RequestState(request.state)
        # Answers may be long, and are looked at when they are there.
        items = () if state in OPEN else self.devices.batch(tenant, device_id, request_id).items
        with self.database.read_only() as session:
            now = self.clock(session)
        return Asked(
            state=state,
            seen_at=device.seen_at,
            gives_up_at=max(request.created_at, device.seen_at or request.created_at) + wait,
            now=now,
            problem=request.problem,
            measured={item.name: row for item, row in items if row is not None},
            failed={item.name: item.problem for item, _ in items if item.problem is not None},
        )

    def give_up(self, tenant: str, device_id: str, request_id: str) -> None:
        """Wait no longer: the device is not to measure in vain when it comes back."""
        self.devices.cancel(tenant, device_id, request_id)

    def keep(self, job_id: str, epoch: int, measured: Sequence[MeasurementReport]) -> None:
        """Record what a worker timed on its own host for a job that it holds.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            job = jobs.find_held(session, job_id, epoch)
            if job is None:
                raise LeaseLost(f"Job {job_id} is no longer held by epoch {epoch}; nothing was recorded.")
            now = self.clock(session)
            session.add_all(
                MeasurementRow(
                    **one.model_dump(mode="json"), id=new_id("msr"), tenant=job.tenant, job_id=job_id, created_at=now
                )
                for one in measured
            )


def _undisturbed(p50_ms: float, machine: Mapping[str, object]) -> float:
    """Give the median of processor time instead, where other programs took a part of the wall time."""
    share, alone = machine.get("on_cpu_share"), machine.get("on_cpu_p50_ms")
    if isinstance(share, float) and isinstance(alone, float) and share < _UNDISTURBED:
        return alone
    return p50_ms
