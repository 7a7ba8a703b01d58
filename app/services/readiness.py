"""Whether the service can do its work now, found out by trying: write a row, write bytes, ask who works."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from app.broker import Bell
from app.db.migrate import is_current
from app.db.session import Database, translated
from app.db.tables import IdempotencyRow, JobRow, WorkerRow
from app.domain.job import JobState
from app.errors import ServiceError
from app.settings import Settings
from app.storage.blobs import BlobStore

Status = Literal["ok", "degraded", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried: `failed` means unready, `degraded` that something runs slower or later."""

    status: Status
    detail: str


def examine(*, database: Database, store: BlobStore, bell: Bell, settings: Settings) -> dict[str, Finding]:
    """Try everything; never raises for what does not work.

    A broker that is away is degraded only: the outbox keeps its messages, and workers look by themselves. So are absent
    workers: requests are still served, and where workers start once this is ready, waiting for them would be for ever.
    """
    probes: dict[str, Callable[[], Finding]] = {
        "database": lambda: _database(database),
        "migrations": lambda: _migrations(database),
        "store": lambda: _store(store, settings.min_free_bytes),
        "broker": lambda: _broker(bell),
        "workers": lambda: _workers(database, settings.worker_stale_seconds),
    }
    return {name: _tried(probe) for name, probe in probes.items()}


def _tried(probe: Callable[[], Finding]) -> Finding:
    try:
        return probe()
    except ServiceError as error:
        return Finding(status="failed", detail=str(error))
    except SQLAlchemyError as error:  # tables are missing, or not those of this version
        return Finding(status="failed", detail=str(error).splitlines()[0])
    except OSError as error:
        return Finding(status="failed", detail=f"{type(error).__name__}: {error.strerror}")


def _database(database: Database) -> Finding:
    """Write a row and take it back, in one committed transaction."""
    key = f"readiness-{uuid.uuid4().hex}"
    with database.unit_of_work() as session:
        now = database.now(session)
        session.execute(
            insert(IdempotencyRow).values(
                tenant="",
                key=key,
                fingerprint="0" * 64,
                owner=key[:40],
                locked_until=now,
                expires_at=now,
                created_at=now,
            )
        )
        session.execute(delete(IdempotencyRow).where(IdempotencyRow.tenant == "", IdempotencyRow.key == key))
    return Finding(status="ok", detail=f"{database.dialect} takes writes")


def _migrations(database: Database) -> Finding:
    with translated():
        current = is_current(database.engine)
    if current:
        return Finding(status="ok", detail="the schema is the newest")
    return Finding(status="failed", detail="the schema is not that of this version; run `alembic upgrade head`")


def _store(store: BlobStore, min_free_bytes: int) -> Finding:
    """Write bytes that are dropped again, and look at what is left."""
    with store.writer() as writer:
        writer.write(b"readiness")
    free = store.free_bytes()
    if free < min_free_bytes:
        return Finding(status="failed", detail=f"{free} bytes are free; uploads need {min_free_bytes}")
    return Finding(status="ok", detail=f"takes writes; {free} bytes are free")


def _broker(bell: Bell) -> Finding:
    if bell.answers():
        return Finding(status="ok", detail=f"the {bell.name} bell answers")
    return Finding(status="degraded", detail=f"the {bell.name} bell does not answer; workers look by themselves")


def _workers(database: Database, stale: timedelta) -> Finding:
    with database.read_only() as session:
        now = database.now(session)
        seen = session.scalar(select(func.count()).select_from(WorkerRow).where(WorkerRow.seen_at > now - stale)) or 0
        waiting = (
            JobRow.state == JobState.QUEUED,
            JobRow.created_at < now - stale,
            JobRow.dispatch_after < now - stale,
        )
        neglected = session.scalar(select(func.count()).select_from(JobRow).where(*waiting)) or 0
    if seen:
        return Finding(status="ok", detail=f"{seen} looked for work within {stale.total_seconds():g} s")
    waiting_jobs = f"{neglected} jobs wait" if neglected else "nothing waits yet"
    return Finding(status="degraded", detail=f"nobody looks for work; {waiting_jobs}")
