"""Queries about doorbells that are still to be rung."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.db.tables import JobRow, OutboxRow


def add(session: Session, row: JobRow, now: datetime, *, due_at: datetime) -> OutboxRow:
    """Note that the job's queue must be told; given to the sweeper from `due_at` on."""
    message = OutboxRow(tenant=row.tenant, job_id=row.id, queue=row.queue, created_at=now, due_at=due_at)
    session.add(message)
    session.flush()
    return message


def due(session: Session, now: datetime, *, limit: int) -> Sequence[OutboxRow]:
    """Give messages that nobody has sent in time, oldest first."""
    query = select(OutboxRow).where(OutboxRow.due_at <= now).order_by(OutboxRow.due_at, OutboxRow.id).limit(limit)
    return session.scalars(query).all()


def remove(session: Session, ids: Collection[int]) -> None:
    """Forget messages that were sent."""
    if ids:
        session.execute(delete(OutboxRow).where(OutboxRow.id.in_(list(ids))))


def postpone(session: Session, ids: Collection[int], due_at: datetime) -> None:
    """Try these again later."""
    if ids:
        statement = update(OutboxRow).where(OutboxRow.id.in_(list(ids)))
        session.execute(statement.values(due_at=due_at, attempts=OutboxRow.attempts + 1))
