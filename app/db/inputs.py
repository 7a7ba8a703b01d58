"""Queries about what users uploaded: models and datasets. They are alike, so one set of queries serves both."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, undefer

from app.db.tables import DatasetRow, NetworkRow
from app.domain.job import InputState

Row = TypeVar("Row", NetworkRow, DatasetRow)


def find(session: Session, kind: type[Row], tenant: str, row_id: str) -> Row | None:
    """Give the tenant's input of that id, or None."""
    return session.scalar(select(kind).where(kind.tenant == tenant, kind.id == row_id))


def find_by_content(session: Session, kind: type[Row], tenant: str, content: Mapping[str, object]) -> Row | None:
    """Give the tenant's input whose columns are those of `content` (its digests and sizes), locked, or None."""
    return session.scalar(select(kind).filter_by(tenant=tenant, **content).with_for_update())


def page(session: Session, kind: type[Row], tenant: str, *, limit: int, after: str | None) -> Sequence[Row]:
    """Give the tenant's inputs, newest first, behind the one named `after`."""
    query = select(kind).where(kind.tenant == tenant).order_by(kind.id.desc()).limit(limit)
    return session.scalars(query if after is None else query.where(kind.id < after)).all()


def remove(session: Session, kind: type[Row], tenant: str, row_id: str) -> bool:
    """Delete the tenant's input of that id; says whether there was one."""
    statement = delete(kind).where(kind.tenant == tenant, kind.id == row_id).returning(kind.id)
    return session.execute(statement).scalar_one_or_none() is not None


def with_cost_model(session: Session, tenant: str, row_id: str) -> NetworkRow | None:
    """Give a network together with the cost model that is otherwise left in the database."""
    query = select(NetworkRow).where(NetworkRow.tenant == tenant, NetworkRow.id == row_id)
    return session.scalar(query.options(undefer(NetworkRow.cost_model)), execution_options={"populate_existing": True})


def settle(
    session: Session, kind: type[Row], tenant: str, row_id: str | None, *, state: InputState, **values: object
) -> None:
    """Set the outcome of an analysis; an input that was deleted meanwhile stays deleted."""
    statement = (
        update(kind)
        .where(kind.tenant == tenant, kind.id == row_id)
        .values(state=state.value, version=kind.version + 1, **values)
        .execution_options(synchronize_session=False)
    )
    session.execute(statement)


def new_row(kind: type[Row], values: Mapping[str, object], now: datetime) -> Row:
    """Give a new input that waits for its analysis."""
    return kind(**values, state=InputState.ANALYSING.value, created_at=now)
