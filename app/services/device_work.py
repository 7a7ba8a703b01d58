"""What a device's agent does: take a lease, keep it, fetch what it is for, answer once.

A lease is for one request and one agent. Its id fences the answer: of a request that was leased anew only the newest
lease counts. A lease that ran out but was not given to anybody else still counts, so that a device which lost the
network while it measured has not measured in vain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.orm import Session

from app.db import devices as queries
from app.db.session import Clock, Database
from app.db.tables import DeviceRow, MeasurementRequestRow, MeasurementRow
from app.domain.device import MAX_THREADS, FailureReport, LatencyReport, Poll, RequestState
from app.domain.timing import quantile
from app.errors import DeviceAway, DeviceLeaseLost, FieldError, MeasurementFailed, MeasurementRefused
from app.ids import new_id
from app.settings import Settings

_SLACK: Final = timedelta(seconds=2)  # by which two clocks may run apart over one measurement
_SLACK_SHARE: Final = 1.05
_CPU_PROVIDER: Final = "CPUExecutionProvider"
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What an agent is to measure."""

    id: str
    sha256: str
    size_bytes: int
    threads: int
    batch: int
    provider: str
    warmup: int
    repeats: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The measurement of a lease, and whether this report made it."""

    row: MeasurementRow
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWork:
    """The verbs of agents. Every one is given the device that the token named."""

    database: Database
    settings: Settings
    clock: Clock

    def seen(self, device: DeviceRow, poll: Poll) -> None:
        """Note that the device's agent asks for work, and what it says of itself."""
        with self.database.unit_of_work() as session:
            queries.note_seen(session, device.id, self.clock(session), poll.attributes)

    def waiting(self, device: DeviceRow) -> bool:
        """Say cheaply whether a lease may be had; lease() decides."""
        with self.database.read_only() as session:
            return queries.has_open(session, device.id)

    def lease(self, device: DeviceRow, poll: Poll) -> Lease | None:
        """Give the agent the oldest measurement that it may take, or None.

        An agent that asks while it holds a lease has lost it, for it does one thing at a time: it is given the same
        lease again. Another agent's lease is left alone until it runs out.
        """
        with self.database.unit_of_work() as session:
            now = self.clock(session)
            for row in queries.open_locked(session, device.id):
                if _held_by_another(row, poll.agent, now) or self._given_up(row, now):
                    continue
                self._grant(row, poll.agent, now)
                row.threads = row.threads or _own_threads(poll.attributes or device.attributes or {})
                _log.info("measurement.leased", device_id=device.id, request=row.id, attempt=row.attempts)
                return _lease(row)
        return None

    def _grant(self, row: MeasurementRequestRow, agent: str, now: datetime) -> None:
        if row.state != RequestState.LEASED or row.lease_agent != agent:
            row.lease_id, row.lease_agent, row.leased_at = new_id("lse"), agent, now
        row.state, row.lease_until = RequestState.LEASED.value, now + self.settings.device_lease
        row.attempts += 1

    def _given_up(self, row: MeasurementRequestRow, now: datetime) -> bool:
        """End a request that waited too long, or whose device was lost with it too often; says whether it was ended."""
        detail = ""
        if row.expires_at <= now:
            detail = f"The device did not measure within {self.settings.device_request_ttl}."
        elif row.attempts >= self.settings.device_attempts:
            detail = f"The device's agent was lost with this network {row.attempts} times; it is not given out again."
        if detail:
            queries.end(row, RequestState.FAILED, now, DeviceAway(detail).problem())
        return bool(detail)

    def renew(self, device: DeviceRow, lease_id: str) -> datetime:
        """Extend a lease; gives until when.

        Raises:
            DeviceLeaseLost: it is not held any more.
        """
        with self.database.unit_of_work() as session:
            row = self._held(session, device, lease_id)
            now = self.clock(session)
            queries.note_seen(session, device.id, now, None)
            row.lease_until = until = now + self.settings.device_lease
        return until

    def content(self, device: DeviceRow, lease_id: str) -> MeasurementRequestRow:
        """Give the request whose bytes the agent may fetch.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
        """
        with self.database.unit_of_work() as session:
            return self._held(session, device, lease_id)

    def record(self, device: DeviceRow, report: LatencyReport) -> Recorded:
        """Keep what was measured under a lease, once: a repeated report is answered with the same measurement.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
            MeasurementRefused: it is of other bytes or settings than were leased, or cannot have happened.
        """
        with self.database.unit_of_work() as session:
            request = queries.by_lease(session, device.id, report.lease)
            if request is not None and request.measurement_id is not None:
                kept = queries.measurement(session, device.tenant, request.measurement_id)
                if kept is not None:
                    return Recorded(row=kept, created=False)
            if request is None or request.state != RequestState.LEASED:
                raise _lost(report.lease)
            now = self.clock(session)
            _check(report, request, now)
            row = _measurement(request, report, now)
            session.add(row)
            session.flush()
            request.measurement_id = row.id
            queries.end(request, RequestState.MEASURED, now, None)
            queries.note_seen(session, device.id, now, None)
        _log.info("measurement.recorded", device_id=device.id, request=request.id, measurement=row.id)
        return Recorded(row=row, created=True)

    def fail(self, device: DeviceRow, lease_id: str, report: FailureReport) -> MeasurementRequestRow:
        """End a request with the device's own words; a repeated report changes nothing.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
        """
        with self.database.unit_of_work() as session:
            row = queries.by_lease(session, device.id, lease_id)
            if row is not None and row.state == RequestState.FAILED:
                return row
            if row is None or row.state != RequestState.LEASED:
                raise _lost(lease_id)
            now = self.clock(session)
            error = MeasurementFailed(report.detail, extra={"reason": report.reason})
            queries.end(row, RequestState.FAILED, now, error.problem())
            queries.note_seen(session, device.id, now, None)
        _log.info("measurement.failed", device_id=device.id, request=row.id, reason=report.reason)
        return row

    def give_up_overdue(self) -> int:
        """Fail what no device measured in its time; gives how many."""
        with self.database.unit_of_work() as session:
            now = self.clock(session)
            return sum(self._given_up(row, now) for row in queries.overdue(session, now))

    @staticmethod
    def _held(session: Session, device: DeviceRow, lease_id: str) -> MeasurementRequestRow:
        row = queries.by_lease(session, device.id, lease_id)
        if row is None or row.state != RequestState.LEASED:
            raise _lost(lease_id)
        return row


def _held_by_another(row: MeasurementRequestRow, agent: str, now: datetime) -> bool:
    return row.lease_agent not in {None, agent} and row.lease_until is not None and row.lease_until > now


def _own_threads(attributes: Mapping[str, object]) -> int:
    """Give how many threads a device computes with, as its agent reports it."""
    own = attributes.get("threads")
    return own if isinstance(own, int) and 1 <= own <= MAX_THREADS else 1


def _lease(row: MeasurementRequestRow) -> Lease:
    if row.lease_id is None or row.lease_until is None:
        raise _lost(row.id)
    return Lease(
        id=row.lease_id,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        threads=row.threads or 1,
        batch=row.batch,
        provider=row.provider or _CPU_PROVIDER,
        warmup=row.warmup,
        repeats=row.repeats,
        until=row.lease_until,
    )


def _check(report: LatencyReport, request: MeasurementRequestRow, now: datetime) -> None:
    """Pass if this is what was leased and can have happened since."""
    wrong = []
    if report.sha256 != request.sha256:
        wrong.append(FieldError(pointer="/sha256", message=f"is {report.sha256}; leased was {request.sha256}"))
    if request.threads is not None and report.threads != request.threads:
        wrong.append(FieldError(pointer="/threads", message=f"is {report.threads}; leased was {request.threads}"))
    provider = request.provider or _CPU_PROVIDER
    if report.provider != provider:
        wrong.append(FieldError(pointer="/provider", message=f"is {report.provider}; leased was {provider}"))
    taken = timedelta(milliseconds=sum(report.samples_ms) + report.load_ms)
    since = now - (request.leased_at or now)
    if since >= timedelta(0) and taken > since * _SLACK_SHARE + _SLACK:
        message = f"add up to {taken.total_seconds():.1f} s; the lease began {since.total_seconds():.1f} s ago"
        wrong.append(FieldError(pointer="/samples_ms", message=message))
    if wrong:
        detail = "; ".join(f"{error.pointer} {error.message}" for error in wrong)
        raise MeasurementRefused(f"This is not what was leased: {detail}.", errors=wrong)


def _measurement(request: MeasurementRequestRow, report: LatencyReport, now: datetime) -> MeasurementRow:
    samples = report.samples_ms
    return MeasurementRow(
        **report.model_dump(mode="json", exclude={"lease"}),
        id=new_id("msr"),
        tenant=request.tenant,
        artifact_id=request.artifact_id,
        model_id=request.model_id,
        device=request.device_id,
        p50_ms=quantile(samples, 0.5),
        p90_ms=quantile(samples, 0.9),
        p99_ms=quantile(samples, 0.99),
        mean_ms=sum(samples) / len(samples),
        created_at=now,
    )


def _lost(lease_id: str) -> DeviceLeaseLost:
    return DeviceLeaseLost(
        f"The lease {lease_id[:40]} is not held by this device.",
        advice="It was given out anew, has been answered, or was cancelled: drop what belongs to it.",
    )
