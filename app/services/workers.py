"""Which workers look for jobs: each says so in a row, so that readiness can tell consumption from mere existence."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.session import Clock, Database
from app.db.tables import WorkerRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The roll of workers."""

    database: Database
    clock: Clock

    def seen(
        self, worker_id: str, *, queues: Sequence[str], bell: str, job_id: str | None, system: Mapping[str, object]
    ) -> None:
        """Note that this worker just looked for a job, or works on `job_id`."""
        with self.database.unit_of_work() as session:
            now = self.clock(session)
            row = session.get(WorkerRow, worker_id)
            if row is None:
                row = WorkerRow(id=worker_id, host=socket.gethostname(), pid=os.getpid(), started_at=now)
                session.add(row)
            row.queues, row.bell, row.job_id, row.system, row.seen_at = list(queues), bell, job_id, dict(system), now

    def gone(self, worker_id: str) -> None:
        """Note that this worker has stopped."""
        with self.database.unit_of_work() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))

    def present(self, within: timedelta) -> Sequence[WorkerRow]:
        """Give the workers that were seen lately."""
        with self.database.read_only() as session:
            return _seen_since(session, self.clock, within)

    def forget(self, older_than: timedelta) -> int:
        """Drop the rows of workers that have been silent for long; gives how many."""
        with self.database.unit_of_work() as session:
            limit = self.clock(session) - older_than
            return len(
                session.scalars(delete(WorkerRow).where(WorkerRow.seen_at < limit).returning(WorkerRow.id)).all()
            )


def _seen_since(session: Session, clock: Clock, within: timedelta) -> Sequence[WorkerRow]:
    query = select(WorkerRow).where(WorkerRow.seen_at > clock(session) - within).order_by(WorkerRow.id)
    return session.scalars(query).all()
