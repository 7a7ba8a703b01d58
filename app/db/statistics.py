"""Queries about statistics that jobs share."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.tables import StatisticsRow


def find(session: Session, tenant: str, key: str) -> Sequence[StatisticsRow]:
    """Give every file that is kept under a key."""
    query = select(StatisticsRow).where(StatisticsRow.tenant == tenant, StatisticsRow.key == key)
    return session.scalars(query.order_by(StatisticsRow.step, StatisticsRow.name)).all()


def drop(session: Session, tenant: str, key: str, step: str) -> None:
    """Forget one step; its content is collected later."""
    session.execute(
        delete(StatisticsRow).where(
            StatisticsRow.tenant == tenant, StatisticsRow.key == key, StatisticsRow.step == step
        )
    )


def forget(session: Session, unused_since: datetime) -> int:
    """Forget what no job has used since a moment; gives how many files."""
    statement = delete(StatisticsRow).where(StatisticsRow.used_at < unused_since).returning(StatisticsRow.name)
    return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())
