"""What an attempt leaves behind, turned into rows inside the transaction that ends its job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db import inputs
from app.db.tables import ArtifactRow, DatasetRow, JobRow, MeasurementRow, NetworkRow
from app.domain.job import InputState, JobKind
from app.domain.report import MeasurementReport
from app.ids import Digest, new_id

NewMeasurement = MeasurementReport
COST_MODEL = "cost_model"  # the analysis' private key


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArtifact:
    """A file that an attempt made; its bytes are in the store."""

    kind: str  # onnx | external_data | report | checkpoint
    name: str
    sha256: Digest
    size_bytes: int
    summary: Mapping[str, object]
    target: Sequence[Mapping[str, object]] | None = None


def keep_results(
    session: Session,
    row: JobRow,
    result: Mapping[str, object],
    artifacts: Sequence[NewArtifact],
    *,
    measurements: Sequence[NewMeasurement],
    now: datetime,
) -> dict[str, object]:
    """Add the rows of an attempt's results, and give what the job row states as its result."""
    if row.kind == JobKind.ANALYSE_MODEL:
        return _keep_analysis(session, row, result)
    if row.kind == JobKind.ANALYSE_DATASET:
        inputs.settle(
            session,
            DatasetRow,
            row.tenant,
            row.dataset_id,
            state=InputState.READY,
            description=dict(result),
            problem=None,
        )
        return {}
    made = [_artifact(row, artifact, now) for artifact in artifacts]
    session.add_all(made)
    session.flush()  # measurements refer to them
    by_digest = {artifact.sha256: artifact.id for artifact in made}
    kept = _kept_before(session, row.id)
    session.add_all(
        _measurement(row, one, by_digest, now)
        for one in measurements
        if (one.device, one.sha256, one.p50_ms, one.load_ms) not in kept
    )
    _name_what_was_timed(session, row, by_digest)
    listed = [
        {"id": a.id, "kind": a.kind, "name": a.name, "sha256": a.sha256, "size_bytes": a.size_bytes} for a in made
    ]
    return {**result, "artifacts": listed}


def _kept_before(session: Session, job_id: str) -> set[tuple[object, ...]]:
    """Give what was recorded while the job ran: the result states some of it again."""
    row = MeasurementRow
    query = select(row.device, row.sha256, row.p50_ms, row.load_ms).where(row.job_id == job_id)
    return {tuple(found) for found in session.execute(query)}


def _name_what_was_timed(session: Session, job: JobRow, artifacts: Mapping[str, str]) -> None:
    """Say of what was timed while the job ran which artifact it became, or that it is the upload."""
    row = MeasurementRow
    uploaded = session.scalar(select(NetworkRow.sha256).where(NetworkRow.id == job.model_id))
    named: dict[str, dict[str, str | None]] = {uploaded: {"model_id": job.model_id}} if uploaded else {}
    named |= {sha256: {"artifact_id": artifact_id} for sha256, artifact_id in artifacts.items()}
    for sha256, values in named.items():
        of_these_bytes = (row.job_id == job.id, row.sha256 == sha256)
        statement = update(row).where(*of_these_bytes, row.artifact_id.is_(None), row.model_id.is_(None))
        session.execute(statement.values(**values), execution_options={"synchronize_session": False})


def _keep_analysis(session: Session, row: JobRow, result: Mapping[str, object]) -> dict[str, object]:
    shown = {key: value for key, value in result.items() if key != COST_MODEL}
    inputs.settle(
        session,
        NetworkRow,
        row.tenant,
        row.model_id,
        state=InputState.READY,
        analysis=shown,
        cost_model=result.get(COST_MODEL),
        problem=None,
    )
    return {}


def _artifact(row: JobRow, artifact: NewArtifact, now: datetime) -> ArtifactRow:
    return ArtifactRow(
        id=new_id("art"),
        tenant=row.tenant,
        job_id=row.id,
        kind=artifact.kind,
        name=artifact.name,
        target=None if artifact.target is None else [dict(target) for target in artifact.target],
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        summary=dict(artifact.summary),
        created_at=now,
    )


def _measurement(
    row: JobRow, measurement: NewMeasurement, artifacts: Mapping[str, str], now: datetime
) -> MeasurementRow:
    """The bytes that were timed are an artifact of this job, or else the network that it started from."""
    artifact_id = artifacts.get(measurement.sha256)
    return MeasurementRow(
        **measurement.model_dump(mode="json"),
        id=new_id("msr"),
        tenant=row.tenant,
        job_id=row.id,
        artifact_id=artifact_id,
        model_id=None if artifact_id else row.model_id,
        created_at=now,
    )
