"""Queries about what jobs made: artifacts, checkpoints, and which content is still named by a row."""

from collections.abc import Sequence

from sqlalchemy import delete, select, union_all
from sqlalchemy.orm import Session

from app.db.tables import (
    ArtifactRow,
    CheckpointRow,
    DatasetRow,
    MeasurementItemRow,
    MeasurementRequestRow,
    NetworkRow,
    StatisticsRow,
)
from app.domain.device import OPEN


def find(session: Session, tenant: str, artifact_id: str) -> ArtifactRow | None:
    """Give the tenant's artifact of that id, or None."""
    return session.scalar(select(ArtifactRow).where(ArtifactRow.tenant == tenant, ArtifactRow.id == artifact_id))


def of_job(session: Session, tenant: str, job_id: str) -> Sequence[ArtifactRow]:
    """Give the artifacts of a job, in the order in which they were made."""
    query = select(ArtifactRow).where(ArtifactRow.tenant == tenant, ArtifactRow.job_id == job_id)
    return session.scalars(query.order_by(ArtifactRow.id)).all()


def checkpoints(session: Session, job_id: str) -> Sequence[CheckpointRow]:
    """Give the files that earlier attempts left, oldest first."""
    query = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    return session.scalars(query.order_by(CheckpointRow.created_at, CheckpointRow.step, CheckpointRow.name)).all()


def drop_checkpoints(session: Session, job_id: str, step: str | None = None) -> None:
    """Forget the checkpoints of a job, or of one of its steps; their content is collected later."""
    statement = delete(CheckpointRow).where(CheckpointRow.job_id == job_id)
    session.execute(statement if step is None else statement.where(CheckpointRow.step == step))


def referenced(session: Session) -> set[str]:
    """Give every digest that a row of any tenant names."""
    columns = (
        NetworkRow.sha256,
        NetworkRow.external_data_sha256,
        DatasetRow.sha256,
        ArtifactRow.sha256,
        CheckpointRow.sha256,
        StatisticsRow.sha256,
    )
    request, item = MeasurementRequestRow, MeasurementItemRow
    leased = (request.sha256, request.external_data_sha256, item.sha256, item.external_data_sha256)
    waiting = (
        select(column)
        .select_from(request)
        .outerjoin(item, request.id == item.request_id)
        .where(request.state.in_(sorted(OPEN)), column.is_not(None))
        for column in leased
    )
    return set(session.scalars(union_all(*(select(column) for column in columns), *waiting)))
