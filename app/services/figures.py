"""What an operator would watch, counted in the database: queues, states, durations, workers, the outbox."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.session import Database
from app.db.tables import ArtifactRow, DatasetRow, JobRow, NetworkRow, OutboxRow, WorkerRow
from app.domain.job import JobState
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The service at one moment; keys are label values."""

    jobs: dict[tuple[str, str], int]  # kind, state
    running: dict[str, int]  # phase
    queue_depth: dict[str, int]  # queue
    oldest_queued_seconds: dict[str, float]  # queue
    losses: int
    outbox: int
    outbox_lag_seconds: float
    workers: int
    models: dict[str, int]  # state
    datasets: dict[str, int]  # state
    stored_bytes: dict[str, int]  # what: models, datasets, artifacts


def count(database: Database, settings: Settings) -> Figures:
    """Count everything in one transaction."""
    with database.read_only() as session:
        now = database.now(session)
        queued = JobRow.state == JobState.QUEUED
        oldest = session.execute(
            select(JobRow.queue, func.count(), func.min(JobRow.created_at)).where(queued).group_by(JobRow.queue)
        ).all()
        waiting, since = session.execute(select(func.count(), func.min(OutboxRow.created_at))).one()
        recent = WorkerRow.seen_at > now - settings.worker_stale_seconds
        return Figures(
            jobs={
                (kind, state): number
                for kind, state, number in session.execute(
                    select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
                )
            },
            running={
                phase or "claimed": number
                for phase, number in session.execute(
                    select(JobRow.phase, func.count()).where(JobRow.state == JobState.RUNNING).group_by(JobRow.phase)
                )
            },
            queue_depth={queue: number for queue, number, _ in oldest},
            oldest_queued_seconds={queue: _age(now, first) for queue, _, first in oldest},
            losses=session.scalar(select(func.coalesce(func.sum(JobRow.losses), 0))) or 0,
            outbox=waiting,
            outbox_lag_seconds=_age(now, since),
            workers=session.scalar(select(func.count()).select_from(WorkerRow).where(recent)) or 0,
            models=_states(session, NetworkRow),
            datasets=_states(session, DatasetRow),
            stored_bytes={
                "models": _bytes(session, NetworkRow),
                "datasets": _bytes(session, DatasetRow),
                "artifacts": _bytes(session, ArtifactRow),
            },
        )


def _age(now: datetime, since: datetime | None) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0


def _states(session: Session, row: type[NetworkRow | DatasetRow]) -> dict[str, int]:
    return dict(session.execute(select(row.state, func.count()).group_by(row.state)).all())


def _bytes(session: Session, row: type[NetworkRow | DatasetRow | ArtifactRow]) -> int:
    return session.scalar(select(func.coalesce(func.sum(row.size_bytes), 0))) or 0
