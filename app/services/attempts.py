"""What workers do with jobs: claim, heartbeat, report, record, finish, fail, give back.

Every write is fenced by the lease epoch that the claim raised: a worker that was paused past its lease and wakes up
finds LeaseLost, whoever holds the job now. One verb, one transaction, one commit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from app.db import artifacts as artifact_queries
from app.db import inputs
from app.db import jobs as queries
from app.db import outbox as outbox_queries
from app.db.session import Clock, Database
from app.db.tables import CheckpointRow, DatasetRow, JobRow, NetworkRow, OutboxRow
from app.domain.job import InputState, JobKind, JobState, Phase
from app.errors import LeaseLost, ServiceError, WorkerLost
from app.ids import Digest
from app.services import statistics
from app.services.claims import CheckpointFile, Claimed, Progress, claimed_inputs, source
from app.services.outbox import Outbox
from app.services.results import NewArtifact, NewMeasurement, keep_results
from app.settings import Settings
from app.storage.blobs import BlobStore

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_SWEEP_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The verbs of workers, and of the sweeper that stands in for those that died."""

    database: Database
    store: BlobStore
    settings: Settings
    outbox: Outbox
    clock: Clock

    def claim(self, worker_id: str, queues: Collection[str]) -> Claimed | None:
        """Take the next job of these queues, or None where nothing waits.

        Jobs that can no longer succeed (model deleted or rejected, target unreachable) are failed on the way.
        """
        while True:
            with self.database.unit_of_work() as session:
                now = self.clock(session)
                row = queries.next_queued(session, queues, now)
                if row is None:
                    return None
                try:
                    network, dataset = claimed_inputs(session, row)
                except (ServiceError, ValueError, TypeError, KeyError) as error:
                    # Whatever is wrong with a stored job is that job's end, not that of the queue behind it.
                    self._fail(session, row, {**_refusal(row, error), "phase": Phase.INSPECT.value}, now)
                    continue
                return self._take(session, row, worker_id, now, network=network, dataset=dataset)

    def _take(
        self,
        session: Session,
        row: JobRow,
        worker_id: str,
        now: datetime,
        *,
        network: NetworkRow | None,
        dataset: DatasetRow | None,
    ) -> Claimed:
        queries.advance(
            session,
            row,
            JobState.RUNNING,
            now,
            data={"state": JobState.RUNNING.value, "attempt": row.attempt + 1, "worker": worker_id},
            attempt=row.attempt + 1,
            lease_epoch=row.lease_epoch + 1,
            lease_owner=worker_id,
            lease_until=now + self.settings.lease_seconds,
            started_at=row.started_at or now,
            progress_at=None,
        )
        own = [CheckpointFile.of(file) for file in artifact_queries.checkpoints(session, row.id)]
        shared = statistics.reusable(session, row, [file.step for file in own], now)
        if shared:
            queries.log(session, row, now, "statistics", {"reused": sorted({file.step for file in shared})})
        _log.info("job.claimed", job_id=row.id, attempt=row.attempt, worker=worker_id)
        return Claimed(
            job_id=row.id,
            tenant=row.tenant,
            kind=JobKind(row.kind),
            queue=row.queue,
            spec=row.spec,
            attempt=row.attempt,
            losses=row.losses,
            epoch=row.lease_epoch,
            lease_until=now + self.settings.lease_seconds,
            network=source(network),
            dataset=source(dataset),
            checkpoints=(*own, *shared),
            last_problem=row.last_problem,
            traceparent=row.traceparent,
        )

    def heartbeat(self, job_id: str, epoch: int) -> bool:
        """Extend the lease; says whether the job is to be cancelled.

        Raises:
            LeaseLost: the attempt no longer holds the job; its process must be killed.
        """
        with self.database.unit_of_work() as session:
            until = self.clock(session) + self.settings.lease_seconds
            state = queries.extend_lease(session, job_id, epoch, until)
        if state is None:
            raise _lost(job_id, epoch)
        return state is JobState.CANCELLING

    def progress(self, job_id: str, epoch: int, progress: Progress) -> bool:
        """Show how far the attempt is; says whether the job is to be cancelled.

        Within a phase, a report that follows the last one too closely is dropped.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row, now = _held(session, job_id, epoch), self.clock(session)
            # A reporter that keeps the interval by its own clock may arrive a little early by ours.
            soon = row.progress_at is not None and now - row.progress_at < 0.8 * self.settings.progress_seconds
            if not (soon and row.phase == progress.phase.value and progress.fraction < 1.0):
                shown: dict[str, object] = {
                    "phase": progress.phase.value,
                    "fraction": min(1.0, max(0.0, progress.fraction)),
                    "message": progress.message,
                    "eta_seconds": progress.eta_seconds,
                    "metrics": dict(progress.metrics or {}),
                }
                queries.log(session, row, now, "progress", shown, progress_at=now, **shown)
            return row.state == JobState.CANCELLING

    def describe_sandbox(self, job_id: str, epoch: int, layers: Mapping[str, object]) -> None:
        """Record which layers of the sandbox are around this attempt.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row = _held(session, job_id, epoch)
            queries.log(session, row, self.clock(session), "sandbox", layers, sandbox=dict(layers))

    def warn(self, job_id: str, epoch: int, warning: Mapping[str, object]) -> None:
        """Log something that went wrong without ending the attempt, such as a checkpoint that cannot be read.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row = _held(session, job_id, epoch)
            queries.log(session, row, self.clock(session), "warning", warning)

    def record_checkpoint(self, job_id: str, epoch: int, step: str, files: Mapping[str, tuple[Digest, int]]) -> None:
        """Keep the state of a step (file name -> digest and size, already stored), replacing an older one.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row, now = _held(session, job_id, epoch), self.clock(session)
            artifact_queries.drop_checkpoints(session, job_id, step)
            session.add_all(
                CheckpointRow(
                    tenant=row.tenant,
                    job_id=job_id,
                    step=step,
                    name=name,
                    sha256=digest,
                    size_bytes=size_bytes,
                    attempt=row.attempt,
                    created_at=now,
                )
                for name, (digest, size_bytes) in files.items()
            )
            statistics.keep(session, row, step, files, now)
            queries.log(session, row, now, "checkpoint", {"step": step, "attempt": row.attempt})

    def checkpoints(self, job_id: str) -> tuple[CheckpointFile, ...]:
        """Give what earlier attempts left."""
        with self.database.read_only() as session:
            return tuple(CheckpointFile.of(file) for file in artifact_queries.checkpoints(session, job_id))

    def finish(
        self,
        job_id: str,
        epoch: int,
        result: Mapping[str, object],
        artifacts: Sequence[NewArtifact] = (),
        measurements: Sequence[NewMeasurement] = (),
    ) -> JobState:
        """End the job well: result, artifacts and measurements appear together with the state. Gives the state.

        A job that was being cancelled ends as cancelled, and nothing of the result is kept.

        Raises:
            LeaseLost: the attempt no longer holds the job.
            BlobMissing: an artifact's bytes are not in the store.
        """
        for artifact in artifacts:
            self.store.verify(artifact.sha256)
        with self.database.unit_of_work() as session:
            row, now = _held(session, job_id, epoch), self.clock(session)
            if row.state == JobState.CANCELLING:
                return self._cancelled(session, row, now)
            kept = keep_results(session, row, result, artifacts, measurements=measurements, now=now)
            artifact_queries.drop_checkpoints(session, job_id)
            data = {"state": JobState.SUCCEEDED.value, "attempt": row.attempt}
            queries.advance(session, row, JobState.SUCCEEDED, now, data=data, result=kept, fraction=1.0)
        _log.info("job.succeeded", job_id=job_id, attempt=row.attempt)
        return JobState.SUCCEEDED

    def fail(self, job_id: str, epoch: int, problem: Mapping[str, object], *, retryable: bool) -> JobState:
        """End the attempt badly. Gives the state: queued again if it may be retried and an attempt is left.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row = _held(session, job_id, epoch)
            message = self._end_badly(session, row, problem, retryable=retryable, now=self.clock(session))
        return self._told(row, message)

    def release(self, job_id: str, epoch: int, reason: str) -> JobState:
        """Give the job back, for example because this worker stops; that counts as no failure. Gives the state.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row, now = _held(session, job_id, epoch), self.clock(session)
            if row.state == JobState.CANCELLING:
                return self._cancelled(session, row, now)
            message = self._requeue(session, row, now, {"reason": reason})
        return self._told(row, message)

    def set_aside(self, job_id: str, epoch: int, waits_for: str, *, until: datetime) -> JobState:
        """Give the job back while it waits for devices; it is claimed again when they answered, or at `until`.

        Raises:
            LeaseLost: the attempt no longer holds the job.
        """
        with self.database.unit_of_work() as session:
            row, now = _held(session, job_id, epoch), self.clock(session)
            if row.state == JobState.CANCELLING:
                return self._cancelled(session, row, now)
            _queue_again(session, row, now, {"reason": waits_for}, due=until, message=waits_for)
        _log.info("job.set_aside", job_id=job_id, attempt=row.attempt, until=until.isoformat())
        return JobState(row.state)

    def acknowledge_cancel(self, job_id: str, epoch: int) -> JobState:
        """End a job that was being cancelled; the attempt's process is gone.

        Raises:
            LeaseLost: the attempt no longer holds the job, or nobody cancelled it.
        """
        with self.database.unit_of_work() as session:
            row = _held(session, job_id, epoch)
            if row.state != JobState.CANCELLING:
                raise LeaseLost(f"Job {job_id} was not cancelled; its state is {row.state}.")
            return self._cancelled(session, row, self.clock(session))

    def sweep_leases(self, now: datetime | None = None) -> int:
        """Take jobs back from workers that were not heard from in time; gives how many."""
        with self.database.read_only() as session:
            found = queries.expired(session, now or self.clock(session), limit=_SWEEP_LIMIT)
        return sum(self._take_back(job_id, epoch, now) for job_id, epoch in found)

    def _take_back(self, job_id: str, epoch: int, now: datetime | None) -> bool:
        with self.database.unit_of_work() as session:
            row, moment = queries.find_held(session, job_id, epoch), now or self.clock(session)
            if row is None or row.lease_until is None or row.lease_until >= moment:
                return False  # it was heard from, or swept, since the look
            error = WorkerLost(
                f"Worker {row.lease_owner} was not heard from since its lease ran out at "
                f"{row.lease_until.isoformat(timespec='seconds')}."
            )
            message = self._end_badly(session, row, error.problem(), retryable=True, now=moment)
        self._told(row, message)
        return True

    def _end_badly(
        self, session: Session, row: JobRow, problem: Mapping[str, object], *, retryable: bool, now: datetime
    ) -> OutboxRow | None:
        if row.state == JobState.CANCELLING:
            self._cancelled(session, row, now)
            return None
        losses = row.losses + 1
        full = {"phase": row.phase, **problem, "attempt": row.attempt, "retryable": retryable}
        if retryable and losses < row.max_attempts:
            return self._requeue(session, row, now, {"problem": full}, losses=losses, last_problem=full)
        if retryable:
            full["detail"] = f"{problem.get('detail', 'The attempt died.')} All {losses} attempts ended like this."
        self._fail(session, row, full, now, losses=losses)
        return None

    def _requeue(
        self, session: Session, row: JobRow, now: datetime, data: Mapping[str, object], **values: object
    ) -> OutboxRow:
        _queue_again(session, row, now, data, due=now, **values)
        return outbox_queries.add(session, row, now, due_at=now + self.settings.outbox_seconds)

    def _cancelled(self, session: Session, row: JobRow, now: datetime) -> JobState:
        artifact_queries.drop_checkpoints(session, row.id)
        queries.advance(session, row, JobState.CANCELLED, now, data={"state": JobState.CANCELLED.value})
        _log.info("job.cancelled", job_id=row.id, state=row.state)
        return JobState.CANCELLED

    def _fail(
        self, session: Session, row: JobRow, problem: Mapping[str, object], now: datetime, **values: object
    ) -> None:
        full = {"attempt": row.attempt, "phase": row.phase, **problem}
        artifact_queries.drop_checkpoints(session, row.id)
        data = {"state": JobState.FAILED.value, "attempt": row.attempt, "problem": full}
        queries.advance(session, row, JobState.FAILED, now, data=data, problem=full, **values)
        if row.kind == JobKind.ANALYSE_MODEL:
            inputs.settle(session, NetworkRow, row.tenant, row.model_id, state=InputState.REJECTED, problem=full)
        if row.kind == JobKind.ANALYSE_DATASET:
            inputs.settle(session, DatasetRow, row.tenant, row.dataset_id, state=InputState.REJECTED, problem=full)
        _log.info("job.failed", job_id=row.id, attempt=row.attempt, code=full.get("type"))

    def _told(self, row: JobRow, message: OutboxRow | None) -> JobState:
        """After the commit: ring for a job that waits again."""
        if message is not None:
            _log.warning("job.requeued", job_id=row.id, attempt=row.attempt, losses=row.losses)
            self.outbox.deliver([message])
        return JobState(row.state)


def _refusal(row: JobRow, error: Exception) -> dict[str, object]:
    if isinstance(error, ServiceError):
        return error.problem()
    _log.error("job.unreadable", job_id=row.id, error=type(error).__name__, reason=str(error))
    return ServiceError(f"The stored job or its inputs cannot be read ({type(error).__name__}).").problem()


def _queue_again(
    session: Session, row: JobRow, now: datetime, data: Mapping[str, object], *, due: datetime, **values: object
) -> None:
    """Put a job back among those that wait; `data` go into the event, `values` into the row."""
    shown = {"state": JobState.QUEUED.value, "attempt": row.attempt, **data}
    queries.advance(session, row, JobState.QUEUED, now, data=shown, dispatch_after=due, eta_seconds=None, **values)


def _held(session: Session, job_id: str, epoch: int) -> JobRow:
    row = queries.find_held(session, job_id, epoch)
    if row is None:
        raise _lost(job_id, epoch)
    return row


def _lost(job_id: str, epoch: int) -> LeaseLost:
    return LeaseLost(f"Job {job_id} is no longer held by epoch {epoch}; the attempt must stop.")
