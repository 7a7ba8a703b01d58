"""Queries about jobs: the only SQL that touches JobRow and JobEventRow.

Users' queries ask for a tenant. Workers' queries go by job and lease epoch, which is all that a worker may act on.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.db import devices
from app.db.tables import JobEventRow, JobRow
from app.domain.job import HELD, TERMINAL, JobKind, JobState, check_transition
from app.errors import IllegalTransition

_FRESH: Final = {"populate_existing": True}


def find(session: Session, tenant: str, job_id: str) -> JobRow | None:
    """Give a prune job of the tenant, or None."""
    return session.scalar(select(JobRow).where(*_of_tenant(tenant), JobRow.id == job_id))


def find_locked(session: Session, tenant: str, job_id: str) -> JobRow | None:
    """Give the same, held against other writers until the unit of work ends."""
    query = select(JobRow).where(*_of_tenant(tenant), JobRow.id == job_id).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def version(session: Session, tenant: str, job_id: str) -> tuple[int, JobState] | None:
    """Give version and state without reading the rest: what a poll compares with its ETag."""
    query = select(JobRow.version, JobRow.state).where(*_of_tenant(tenant), JobRow.id == job_id)
    row = session.execute(query).one_or_none()
    return None if row is None else (row.version, JobState(row.state))


def page(
    session: Session, tenant: str, *, states: Collection[JobState], limit: int, after: str | None
) -> Sequence[JobRow]:
    """Give prune jobs, newest first, behind the job `after`; no states means all of them."""
    query = select(JobRow).where(*_of_tenant(tenant)).order_by(JobRow.id.desc()).limit(limit)
    if states:
        query = query.where(JobRow.state.in_([state.value for state in states]))
    if after is not None:
        query = query.where(JobRow.id < after)
    return session.scalars(query).all()


def events(session: Session, tenant: str, job_id: str, *, after: int, limit: int) -> Sequence[JobEventRow]:
    """Give the events of a job behind number `after`, oldest first."""
    query = (
        select(JobEventRow)
        .where(JobEventRow.tenant == tenant, JobEventRow.job_id == job_id, JobEventRow.seq > after)
        .order_by(JobEventRow.seq)
        .limit(limit)
    )
    return session.scalars(query).all()


def find_held(session: Session, job_id: str, epoch: int) -> JobRow | None:
    """Give the job if the attempt with this epoch still holds it, locked; None if it does not."""
    query = select(JobRow).where(*_held_by(job_id, epoch)).with_for_update()
    return session.scalar(query, execution_options=_FRESH)


def next_queued(session: Session, queues: Collection[str], now: datetime) -> JobRow | None:
    """Give the job to run next, locked: by priority, then the tenant with the fewest running jobs, then age.

    PostgreSQL passes over jobs that another claim has locked; SQLite lets one unit of work in at a time.
    """
    running = (
        select(JobRow.tenant, func.count().label("num"))
        .where(JobRow.state.in_([state.value for state in HELD]))
        .group_by(JobRow.tenant)
        .subquery()
    )
    query = (
        select(JobRow)
        .outerjoin(running, running.c.tenant == JobRow.tenant)
        .where(JobRow.queue.in_(list(queues)), *_due(now))
        .order_by(JobRow.priority.desc(), func.coalesce(running.c.num, 0), JobRow.created_at, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=JobRow)
    )
    return session.scalar(query, execution_options=_FRESH)


def expired(session: Session, now: datetime, *, limit: int) -> Sequence[tuple[str, int]]:
    """Give id and epoch of the jobs whose lease has run out, longest ago first."""
    query = (
        select(JobRow.id, JobRow.lease_epoch)
        .where(JobRow.state.in_([state.value for state in HELD]), JobRow.lease_until < now)
        .order_by(JobRow.lease_until)
        .limit(limit)
    )
    return [(row.id, row.lease_epoch) for row in session.execute(query)]


def waiting_queues(session: Session, *, due_before: datetime) -> Sequence[str]:
    """Give the queues in which a job has been waiting since before that moment."""
    query = select(JobRow.queue).where(*_due(due_before)).distinct().order_by(JobRow.queue)
    return session.scalars(query).all()


def advance(
    session: Session, row: JobRow, after: JobState, now: datetime, *, data: Mapping[str, object], **values: Any
) -> None:
    """Change a job's state, guarded by the state and epoch that `row` was read with, and log it as an event.

    A job that ends wants nothing of devices any more.

    Raises:
        IllegalTransition: the table has no such step, or the row changed since it was read.
    """
    before = JobState(row.state)
    check_transition(before, after)
    if after not in HELD:  # whoever held it holds it no longer
        values = {"lease_owner": None, "lease_until": None, **values}
    if after in TERMINAL:
        values = {"finished_at": now, "eta_seconds": None, **values}
        devices.cancel_of_job(session, row.id, now)
    _change(session, row, now, kind=after.value, data=data, state=after.value, **values)


def log(session: Session, row: JobRow, now: datetime, kind: str, data: Mapping[str, object], **values: Any) -> None:
    """Log an event that leaves the state as it is, and set further columns with it.

    Raises:
        IllegalTransition: the row changed since it was read.
    """
    _change(session, row, now, kind=kind, data=data, **values)


def _change(
    session: Session, row: JobRow, now: datetime, *, kind: str, data: Mapping[str, object], **values: Any
) -> None:
    # The event's number comes from the job row, which stays locked until the commit: so numbers have no gaps.
    statement = (
        update(JobRow)
        .where(JobRow.id == row.id, JobRow.state == row.state, JobRow.lease_epoch == row.lease_epoch)
        .values(version=JobRow.version + 1, event_seq=JobRow.event_seq + 1, **values)
        .returning(JobRow)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    before = row.state
    changed = session.scalars(statement).one_or_none()
    if changed is None:
        raise IllegalTransition(f"Job {row.id} is no longer {before}; nothing was written.")
    session.add(
        JobEventRow(
            job_id=changed.id, tenant=changed.tenant, seq=changed.event_seq, type=kind, data=dict(data), created_at=now
        )
    )


def extend_lease(session: Session, job_id: str, epoch: int, until: datetime) -> JobState | None:
    """Push the lease out; gives the state, or None where the attempt no longer holds the job."""
    statement = (
        update(JobRow)
        .where(*_held_by(job_id, epoch))
        .values(lease_until=until)
        .returning(JobRow.state)
        .execution_options(synchronize_session=False)
    )
    state = session.execute(statement).scalar_one_or_none()
    return None if state is None else JobState(state)


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Which jobs may be claimed: their time has come, or the devices that they were set aside for have answered."""
    answered = and_(JobRow.attempt > 0, ~devices.wants_answers(JobRow.id))
    return JobRow.state == JobState.QUEUED.value, or_(JobRow.dispatch_after <= now, answered)


def _of_tenant(tenant: str) -> tuple[ColumnElement[bool], ...]:
    return JobRow.tenant == tenant, JobRow.kind == JobKind.PRUNE.value


def _held_by(job_id: str, epoch: int) -> tuple[ColumnElement[bool], ...]:
    return JobRow.id == job_id, JobRow.lease_epoch == epoch, JobRow.state.in_([state.value for state in HELD])
