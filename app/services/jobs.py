"""What users do with jobs: submit, estimate, look, cancel. One verb, one transaction, one commit.

What workers do with them is in attempts.py.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from sqlalchemy.orm import Session

from app.db import artifacts as artifact_queries
from app.db import jobs as queries
from app.db import outbox as outbox_queries
from app.db.session import Clock, Database
from app.db.tables import ArtifactRow, JobEventRow, JobRow, OutboxRow
from app.domain import plan
from app.domain.expected_time import Known, forecast
from app.domain.job import TERMINAL, InputState, JobKind, JobState
from app.domain.methods import JobSpec
from app.domain.target import Metric
from app.errors import ModelNotReady, ModelRejected, NotFound, ServiceError
from app.ids import new_id
from app.services import idempotency
from app.services.outbox import Outbox
from app.services.requirements import Inputs as JobInputs
from app.services.requirements import check_inputs, check_presence, find_inputs
from app.settings import Settings

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
ANALYSIS_PRIORITY = 10  # seconds of work that a user is waiting for
PRUNE_PRIORITY = 0
Found = TypeVar("Found")
_CANCELLED_FROM = {JobState.QUEUED: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLING}


def enqueue(session: Session, row: JobRow, settings: Settings, clock: Clock) -> OutboxRow:
    """Insert a job with its first event and its doorbell; the caller commits, then delivers the doorbell."""
    now = clock(session)
    row.state, row.created_at, row.dispatch_after = JobState.QUEUED.value, now, now
    row.version, row.event_seq, row.max_attempts = 1, 1, settings.max_attempts
    session.add(row)
    session.flush()
    session.add(
        JobEventRow(
            job_id=row.id,
            tenant=row.tenant,
            seq=1,
            type=JobState.QUEUED.value,
            data={"state": JobState.QUEUED.value},
            created_at=now,
        )
    )
    return outbox_queries.add(session, row, now, due_at=now + settings.outbox_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The verbs of users. Every one asks for the tenant; another tenant's job is NotFound."""

    database: Database
    settings: Settings
    outbox: Outbox
    clock: Clock

    def submit(
        self,
        tenant: str,
        spec: JobSpec,
        *,
        ticket: idempotency.Ticket | None = None,
        traceparent: str | None = None,
        queue: str = "cpu",
    ) -> JobRow:
        """Accept a job: row, event, doorbell and idempotency key in one transaction; the bell rings after it.

        Raises:
            NotFound: the tenant has no such model, dataset or device.
            ModelRejected, DatasetRejected, DatasetMismatch: an input cannot be used.
            TargetUnreachable: the model is analysed, and even its smallest version is above the target.
            TargetUnsupported: the method cannot aim at a latency.
            DeviceGone: a device has been silent for too long.
            IdempotencyConflict: the ticket has passed to another request.
        """
        row = JobRow(
            id=new_id("job"),
            tenant=tenant,
            kind=JobKind.PRUNE.value,
            name=spec.name,
            model_id=spec.model,
            dataset_id=spec.dataset,
            spec=spec.model_dump(mode="json"),
            queue=queue,
            priority=PRUNE_PRIORITY,
            traceparent=traceparent,
        )
        with self.database.unit_of_work() as session:
            given = find_inputs(session, tenant, spec)
            check_inputs(spec, given)
            check_presence(spec, given, self.clock(session), self.settings)
            message = enqueue(session, row, self.settings, self.clock)
            if ticket is not None:
                idempotency.bind(session, ticket, row.id)
        _log.info("job.submitted", job_id=row.id, method=spec.method)
        self.outbox.deliver([message])
        return row

    def estimate(self, tenant: str, spec: JobSpec) -> Mapping[str, object]:
        """Plan a job without running it: groups, reachable range, predicted cost, and what would be refused.

        Raises:
            NotFound: the tenant has no such model or dataset.
            ModelNotReady: the model is still being analysed.
            ModelRejected: the model was rejected.
        """
        with self.database.read_only() as session:
            given, now = find_inputs(session, tenant, spec), self.clock(session)
        network, refusals = given.network, list[Mapping[str, object]]()
        if network.state == InputState.ANALYSING or network.cost_model is None:
            if network.state == InputState.REJECTED:
                check_inputs(spec, given)
                raise ModelRejected(f"{network.id} was rejected.")
            raise ModelNotReady(f"{network.id} is still being analysed.", advice="Ask again in a few seconds.")
        try:
            check_inputs(spec, given)
            check_presence(spec, given, now, self.settings)
        except ServiceError as error:
            refusals.append(error.problem())
        model = plan.read_cost_model(network.cost_model)
        analysis = network.analysis or {}
        asked = [] if refusals else [targets for targets in spec.target_sets if targets]
        predictions = [plan.estimate(model, targets, spec.export) for targets in asked]
        return {
            "model": network.id,
            "prunable_groups": analysis.get("prunable_groups", []),
            "frozen": analysis.get("frozen", []),
            "reachable": plan.reachable_range(model, spec.export),
            "predictions": predictions,
            "expected_time": _expected_time(spec, given, predictions),
            "latencies": _latencies(spec),
            "refusals": refusals,
        }

    def get(self, tenant: str, job_id: str) -> JobRow:
        """Give a job.

        Raises:
            NotFound: the tenant has no such job.
        """
        with self.database.read_only() as session:
            return _found(queries.find(session, tenant, job_id), job_id)

    def version(self, tenant: str, job_id: str) -> tuple[int, JobState]:
        """Give version and state of a job, cheaply: what a poll compares.

        Raises:
            NotFound: the tenant has no such job.
        """
        with self.database.read_only() as session:
            return _found(queries.version(session, tenant, job_id), job_id)

    def page(
        self, tenant: str, *, states: Collection[JobState] = (), limit: int, after: str | None = None
    ) -> tuple[Sequence[JobRow], bool]:
        """Give jobs, newest first, and whether there are more; a high limit is capped."""
        size = self._size(limit)
        with self.database.read_only() as session:
            rows = queries.page(session, tenant, states=states, limit=size + 1, after=after)
        return rows[:size], len(rows) > size

    def cancel(self, tenant: str, job_id: str) -> JobRow:
        """Stop a job: at once if it waits, soon if it runs; one that has ended is given unchanged.

        Raises:
            NotFound: the tenant has no such job.
        """
        with self.database.unit_of_work() as session:
            row = _found(queries.find_locked(session, tenant, job_id), job_id)
            after = _CANCELLED_FROM.get(JobState(row.state))
            if after is not None:
                now = self.clock(session)
                queries.advance(session, row, after, now, data={"state": after.value}, cancel_requested_at=now)
            if after is JobState.CANCELLED:
                artifact_queries.drop_checkpoints(session, row.id)
        _log.info("job.cancelled", job_id=job_id, state=row.state)
        return row

    def events(
        self, tenant: str, job_id: str, *, after: int = 0, limit: int
    ) -> tuple[Sequence[JobEventRow], bool, bool]:
        """Give events behind `after`, whether there are more, and whether the job had ended when they were read.

        Raises:
            NotFound: the tenant has no such job.
        """
        size = self._size(limit)
        with self.database.read_only() as session:
            # The state is read first: a job seen as ended has written its last event.
            _, state = _found(queries.version(session, tenant, job_id), job_id)
            rows = queries.events(session, tenant, job_id, after=after, limit=size + 1)
        return rows[:size], len(rows) > size, state in TERMINAL

    def artifacts(self, tenant: str, job_id: str) -> Sequence[ArtifactRow]:
        """Give what a job made.

        Raises:
            NotFound: the tenant has no such job.
        """
        with self.database.read_only() as session:
            _found(queries.version(session, tenant, job_id), job_id)
            return artifact_queries.of_job(session, tenant, job_id)

    def artifact(self, tenant: str, artifact_id: str) -> ArtifactRow:
        """Give one artifact.

        Raises:
            NotFound: the tenant has no such artifact.
        """
        with self.database.read_only() as session:
            row = artifact_queries.find(session, tenant, artifact_id)
        if row is None:
            raise NotFound(f"There is no artifact {artifact_id[:40]}.")
        return row

    def _size(self, limit: int) -> int:
        return max(1, min(limit, self.settings.page_limit))


def _expected_time(
    spec: JobSpec, given: JobInputs, predictions: Sequence[Mapping[str, Any]]
) -> Mapping[str, object] | None:
    """Forecast how long the job takes; None where the analysis timed nothing or the method cannot be forecast."""
    described = {} if given.dataset is None else given.dataset.description or {}
    num_samples = described.get("num_samples")
    known = Known.of(given.network.analysis or {}, num_samples if isinstance(num_samples, int) else None)
    return None if known is None else forecast(spec, known, [one["ratios"]["macs"] for one in predictions])


def _latencies(spec: JobSpec) -> list[Mapping[str, object]]:
    """Say of each latency target what can be said before its device has measured: that it must."""
    return [
        {
            "target": target.text(),
            "device": spec.device_of(target),
            "reachable": None,
            "note": "What is reachable is known once the device has measured the layers of this network.",
        }
        for targets in spec.target_sets
        for target in targets
        if target.metric is Metric.LATENCY_MS
    ]


def _found(found: Found | None, job_id: str) -> Found:
    if found is None:
        raise NotFound(f"There is no job {job_id[:40]}.")
    return found
