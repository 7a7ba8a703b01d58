"""Queries about devices and the measurements asked of them: the only SQL that touches their rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.tables import DeviceRow, MeasurementItemRow, MeasurementRequestRow, MeasurementRow
from app.domain.device import OPEN, RequestState

_FRESH: Final = {"populate_existing": True}
_OPEN: Final = tuple(state.value for state in sorted(OPEN))


def find(session: Session, tenant: str, device_id: str) -> DeviceRow | None:
    """Give the tenant's device of that id, or None."""
    return session.scalar(select(DeviceRow).where(DeviceRow.tenant == tenant, DeviceRow.id == device_id))


def find_locked(session: Session, tenant: str, device_id: str) -> DeviceRow | None:
    """Give the same, held against other writers until the unit of work ends."""
    query = select(DeviceRow).where(DeviceRow.tenant == tenant, DeviceRow.id == device_id).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def by_token(session: Session, token_sha256: str) -> DeviceRow | None:
    """Give the device whose token has this digest, or None."""
    return session.scalar(select(DeviceRow).where(DeviceRow.token_sha256 == token_sha256))


def page(session: Session, tenant: str, *, limit: int, after: str | None) -> Sequence[DeviceRow]:
    """Give the tenant's devices, newest first, behind the one named `after`."""
    query = select(DeviceRow).where(DeviceRow.tenant == tenant).order_by(DeviceRow.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(DeviceRow.id < after)).all()


def note_seen(session: Session, device_id: str, now: datetime, attributes: dict[str, object] | None) -> None:
    """Note that a device's agent called just now, and what it said of itself."""
    values: dict[str, object] = {"seen_at": now}
    if attributes is not None:
        values["attributes"] = attributes
    session.execute(update(DeviceRow).where(DeviceRow.id == device_id).values(**values), execution_options=_UNSYNCED)


_UNSYNCED: Final = {"synchronize_session": False}


def request(session: Session, tenant: str, device_id: str, request_id: str) -> MeasurementRequestRow | None:
    """Give a measurement that was asked of this device, or None."""
    row = MeasurementRequestRow
    query = select(row).where(row.tenant == tenant, row.device_id == device_id, row.id == request_id)
    return session.scalar(query.with_for_update(), execution_options=_FRESH)


def requests(
    session: Session, tenant: str, device_id: str, *, limit: int, after: str | None
) -> Sequence[MeasurementRequestRow]:
    """Give what was asked of a device, newest first."""
    row = MeasurementRequestRow
    query = select(row).where(row.tenant == tenant, row.device_id == device_id).order_by(row.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(row.id < after)).all()


def read_request(session: Session, tenant: str, device_id: str, request_id: str) -> MeasurementRequestRow | None:
    """Give the same as request(), without holding it."""
    row = MeasurementRequestRow
    return session.scalar(select(row).where(row.tenant == tenant, row.device_id == device_id, row.id == request_id))


def has_open(session: Session, device_id: str) -> bool:
    """Say whether a device has anything to do."""
    row = MeasurementRequestRow
    query = select(row.id).where(row.device_id == device_id, row.state.in_(_OPEN)).limit(1)
    return session.scalar(query) is not None


def wants_answers(job_id: InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Give the condition that a job still waits for what it asked of devices."""
    row = MeasurementRequestRow
    return select(row.id).where(row.job_id == job_id, row.state.in_(_OPEN)).exists()


def open_locked(session: Session, device_id: str) -> Sequence[MeasurementRequestRow]:
    """Give what a device has to do, in the order in which it was asked, held until the unit of work ends."""
    row = MeasurementRequestRow
    query = select(row).where(row.device_id == device_id, row.state.in_(_OPEN)).order_by(row.id).with_for_update()
    return session.scalars(query, execution_options=_FRESH).all()


def items(session: Session, request_id: str) -> Sequence[MeasurementItemRow]:
    """Give the items of a request in their order; a request of one network has none."""
    row = MeasurementItemRow
    query = select(row).where(row.request_id == request_id).order_by(row.position)
    return session.scalars(query, execution_options=_FRESH).all()


def asked_once(session: Session, tenant: str, once: str) -> MeasurementRequestRow | None:
    """Give the request that the tenant made under this digest, or None."""
    row = MeasurementRequestRow
    return session.scalar(select(row).where(row.tenant == tenant, row.once == once), execution_options=_FRESH)


def by_lease(session: Session, device_id: str, lease_id: str) -> MeasurementRequestRow | None:
    """Give what this lease is for, held until the unit of work ends; None where the device has no such lease."""
    row = MeasurementRequestRow
    query = select(row).where(row.device_id == device_id, row.lease_id == lease_id).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def overdue(session: Session, now: datetime) -> Sequence[MeasurementRequestRow]:
    """Give what was not measured in its time, held until the unit of work ends."""
    row = MeasurementRequestRow
    query = select(row).where(row.state.in_(_OPEN), row.expires_at <= now).order_by(row.id).limit(100)
    return session.scalars(query.with_for_update(skip_locked=True), execution_options=_FRESH).all()


def measurement(session: Session, tenant: str, measurement_id: str) -> MeasurementRow | None:
    """Give the tenant's measurement of that id, or None."""
    query = select(MeasurementRow).where(MeasurementRow.tenant == tenant, MeasurementRow.id == measurement_id)
    return session.scalar(query)


def end(row: MeasurementRequestRow, state: RequestState, now: datetime, problem: dict[str, object] | None) -> None:
    """Set how a request ended; its lease's id stays, so that a repeated report finds the same answer."""
    row.state, row.finished_at, row.problem, row.lease_until = state.value, now, problem, None


def cancel_of_job(session: Session, job_id: str, now: datetime) -> None:
    """Cancel what a job still asks of devices: nobody waits for the answers any more."""
    row = MeasurementRequestRow
    statement = update(row).where(row.job_id == job_id, row.state.in_(_OPEN))
    values = {"state": RequestState.CANCELLED.value, "finished_at": now, "lease_until": None}
    session.execute(statement.values(**values), execution_options=_UNSYNCED)
