"""What a device's agent does: take a lease, keep it, fetch what it is for, answer once.

A lease is for one request and one agent. Its id fences the answer: of a request that was leased anew only the newest
lease counts. A lease that ran out but was not given to anybody else still counts, so that a device which lost the
network while it measured has not measured in vain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy.orm import Session

from app.db import devices as queries
from app.db.session import Clock, Database
from app.db.tables import DeviceRow, MeasurementItemRow, MeasurementRequestRow, MeasurementRow
from app.domain.batch import BatchReport
from app.domain.device import MAX_THREADS, FailureReport, LatencyReport, Poll, RequestState
from app.errors import DeviceAway, DeviceLeaseLost, MeasurementFailed, MeasurementRefused, NotFound
from app.ids import new_id
from app.services import batches
from app.settings import Settings

_PROVIDER_LENGTH: Final = 255
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """The file that holds the weights of a network whose bytes do not."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedItem:
    """One of several networks that an agent is to time in turn."""

    name: str
    sha256: str
    size_bytes: int
    external_data: Companion | None = None


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
    profile: bool
    until: datetime
    external_data: Companion | None = None
    shapes: Mapping[str, object] | None = None  # of inputs whose axes are free
    items: tuple[LeasedItem, ...] = ()  # in the order of their positions; none where one network is timed alone


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
                own = poll.attributes or device.attributes or {}
                row.threads = row.threads or own_threads(own)
                row.provider = row.provider or _own_provider(own)
                _log.info("measurement.leased", device_id=device.id, request=row.id, attempt=row.attempts)
                return _lease(row, queries.items(session, row.id))
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

    def content(
        self, device: DeviceRow, lease_id: str, position: int = 0
    ) -> MeasurementRequestRow | MeasurementItemRow:
        """Give what names the bytes that the agent may fetch: the request, or its item at this position.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
            NotFound: it has no such item.
        """
        with self.database.unit_of_work() as session:
            row = self._held(session, device, lease_id)
            found: Sequence[MeasurementRequestRow | MeasurementItemRow] = queries.items(session, row.id) or [row]
            if not 0 <= position < len(found):
                raise NotFound(f"The lease has {len(found)} items; there is no item {position}.")
            return found[position]

    def record(self, device: DeviceRow, report: LatencyReport) -> Recorded:
        """Keep what was measured under a lease, once: a repeated report is answered with the same measurement.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
            MeasurementRefused: it is of other bytes or settings than were leased, or cannot have happened.
        """
        with self.database.unit_of_work() as session:
            request = queries.by_lease(session, device.id, report.lease)
            if request is not None and request.measurement_id is not None:
                kept = queries.measurement(session, request.tenant, request.measurement_id)
                if kept is not None:
                    return Recorded(row=kept, created=False)
            if request is None or request.state != RequestState.LEASED:
                raise _lost(report.lease)
            if queries.items(session, request.id):
                raise MeasurementRefused("The lease is of several items.", advice="Post one result for each.")
            now = self.clock(session)
            batches.check(report, request, request.sha256, now)
            row = batches.measurement_row(request, report, now)
            session.add(row)
            session.flush()
            request.measurement_id = row.id
            queries.end(request, RequestState.MEASURED, now, None)
            queries.note_seen(session, device.id, now, None)
        _log.info("measurement.recorded", device_id=device.id, request=request.id, measurement=row.id)
        return Recorded(row=row, created=True)

    def settle(self, device: DeviceRow, lease_id: str, report: BatchReport) -> MeasurementRequestRow:
        """Keep what was measured of each item of a lease, once: a repeated report changes nothing.

        Raises:
            DeviceLeaseLost: the device holds no such lease.
            MeasurementRefused: it is of other bytes or settings than were leased, or cannot have happened.
        """
        with self.database.unit_of_work() as session:
            row = queries.by_lease(session, device.id, lease_id)
            items = queries.items(session, row.id) if row else ()
            if row is not None and row.state in {RequestState.MEASURED, RequestState.FAILED}:
                return row
            if row is None or row.state != RequestState.LEASED:
                raise _lost(lease_id)
            if not items:
                raise MeasurementRefused("The lease is of one network.", advice="Post it to /v1/measurements.")
            now = self.clock(session)
            batches.settle(session, row, items, report, now)
            queries.note_seen(session, device.id, now, None)
        _log.info("measurement.settled", device_id=device.id, request=row.id, items=len(items), state=row.state)
        return row

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


def own_threads(attributes: Mapping[str, object]) -> int:
    """Give how many threads a device computes with, as its agent reports it."""
    own = attributes.get("threads")
    return own if isinstance(own, int) and 1 <= own <= MAX_THREADS else 1


def _own_provider(attributes: Mapping[str, object]) -> str | None:
    """Give with which provider a device computes, as its agent reports it; None where it does not say."""
    own = attributes.get("provider")
    return own if isinstance(own, str) and 1 <= len(own) <= _PROVIDER_LENGTH else None


def _lease(row: MeasurementRequestRow, items: Sequence[MeasurementItemRow]) -> Lease:
    if row.lease_id is None or row.lease_until is None:
        raise _lost(row.id)
    return Lease(
        id=row.lease_id,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        threads=row.threads or 1,
        batch=row.batch,
        provider=row.provider or batches.CPU_PROVIDER,
        warmup=row.warmup,
        repeats=row.repeats,
        profile=row.profile,
        until=row.lease_until,
        external_data=companion(row),
        shapes=row.shapes,
        items=tuple(
            LeasedItem(name=item.name, sha256=item.sha256, size_bytes=item.size_bytes, external_data=companion(item))
            for item in items
        ),
    )


def companion(row: MeasurementRequestRow | MeasurementItemRow) -> Companion | None:
    """Give the file that holds a network's weights, where its bytes do not."""
    if not row.external_data_sha256:
        return None
    return Companion(sha256=row.external_data_sha256, size_bytes=row.external_data_bytes)


def _lost(lease_id: str) -> DeviceLeaseLost:
    return DeviceLeaseLost(
        f"The lease {lease_id[:40]} is not held by this device.",
        advice="It was given out anew, has been answered, or was cancelled: drop what belongs to it.",
    )
