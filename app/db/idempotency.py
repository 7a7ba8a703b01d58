"""Queries about idempotency keys."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.tables import IdempotencyRow

_COLUMNS = ("tenant", "key", "fingerprint", "owner", "locked_until", "expires_at", "created_at")


def insert_if_new(session: Session, row: IdempotencyRow) -> bool:
    """Insert a key unless the tenant has used it; waits for a request that is just inserting the same one."""
    values = {name: getattr(row, name) for name in _COLUMNS}
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(IdempotencyRow).values(values)
    conflict_free = statement.on_conflict_do_nothing(index_elements=["tenant", "key"]).returning(IdempotencyRow.id)
    return session.execute(conflict_free).scalar_one_or_none() is not None


def find_locked(session: Session, tenant: str, key: str) -> IdempotencyRow | None:
    """Give the tenant's key, held against other writers, or None."""
    query = select(IdempotencyRow).where(IdempotencyRow.tenant == tenant, IdempotencyRow.key == key)
    return session.scalar(query.with_for_update(), execution_options={"populate_existing": True})


def forget(session: Session, tenant: str, key: str, *, expired_at: datetime) -> None:
    """Delete the tenant's key if it has expired."""
    session.execute(
        delete(IdempotencyRow).where(
            IdempotencyRow.tenant == tenant, IdempotencyRow.key == key, IdempotencyRow.expires_at <= expired_at
        )
    )


def purge(session: Session, now: datetime) -> int:
    """Delete every expired key; gives how many."""
    statement = delete(IdempotencyRow).where(IdempotencyRow.expires_at <= now).returning(IdempotencyRow.id)
    return len(session.scalars(statement).all())
