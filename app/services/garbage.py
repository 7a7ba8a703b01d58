"""What nobody needs any more: content that no row names, jobs past their retention, expired keys."""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import delete

from app.db import artifacts, statistics
from app.db.session import Clock, Database
from app.db.tables import JobRow
from app.settings import Settings
from app.storage.blobs import Blob, BlobStore

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Collects. Content is put before the row that names it, so only what is old and unnamed may go."""

    database: Database
    store: BlobStore
    settings: Settings
    clock: Clock

    def unreferenced(self, grace: timedelta | None = None) -> list[Blob]:
        """Give the content that no row names and that was last put before the grace period."""
        with self.database.read_only() as session:
            limit = self.clock(session) - (self.settings.blob_grace if grace is None else grace)
        old = [blob for blob in self.store.blobs() if blob.stored_at < limit]
        with self.database.read_only() as session:  # after the listing: a row that came meanwhile counts
            named = artifacts.referenced(session)
        return [blob for blob in old if blob.digest not in named]

    def collect(self) -> int:
        """Delete unreferenced content; gives how many bytes that freed."""
        with self.database.read_only() as session:
            limit = self.clock(session) - self.settings.blob_grace
        freed = 0
        for blob in self.unreferenced():
            if self.store.delete(blob.digest, put_before=limit):
                freed += blob.size_bytes
        if freed:
            _log.info("garbage.collected", freed_bytes=freed)
        return freed

    def forget_statistics(self) -> int:
        """Forget what was found out about networks and was not used for a while; gives how many files."""
        with self.database.unit_of_work() as session:
            return statistics.forget(session, self.clock(session) - self.settings.statistics_retention)

    def expire_jobs(self) -> int:
        """Delete jobs that ended before the retention period, with their events and artifacts; gives how many."""
        with self.database.unit_of_work() as session:
            limit = self.clock(session) - self.settings.job_retention
            statement = delete(JobRow).where(JobRow.finished_at < limit).returning(JobRow.id)
            return len(session.scalars(statement, execution_options={"synchronize_session": False}).all())
