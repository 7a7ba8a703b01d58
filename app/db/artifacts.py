"""Queries about what jobs made: artifacts, checkpoints, measurements, and which content is still named by a row."""

from collections.abc import Sequence

from sqlalchemy import delete, select, union_all
from sqlalchemy.orm import Session

from app.db.tables import (
    ArtifactRow,
    CheckpointRow,
    DatasetRow,
    MeasurementItemRow,
    MeasurementRequestRow,
    MeasurementRow,
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


def measurements(
    session: Session,
    tenant: str,
    *,
    artifact_id: str | None,
    model_id: str | None,
    device: str | None,
    limit: int,
    after: str | None,
) -> Sequence[MeasurementRow]:
    """Give measurements, newest first, of an artifact, a model or a device where named."""
    query = select(MeasurementRow).where(MeasurementRow.tenant == tenant)
    for column, wanted in (
        (MeasurementRow.artifact_id, artifact_id),
        (MeasurementRow.model_id, model_id),
        (MeasurementRow.device, device),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(MeasurementRow.id < after)
    return session.scalars(query.order_by(MeasurementRow.id.desc()).limit(limit)).all()


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
    waiting = select(MeasurementRequestRow.sha256).where(MeasurementRequestRow.state.in_(sorted(OPEN)))
    items = (
        select(MeasurementItemRow.sha256)
        .join(MeasurementRequestRow, MeasurementRequestRow.id == MeasurementItemRow.request_id)
        .where(MeasurementRequestRow.state.in_(sorted(OPEN)))
    )
    return set(session.scalars(union_all(*(select(column) for column in columns), waiting, items)))
