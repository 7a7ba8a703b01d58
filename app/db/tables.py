"""Every table as a Row class. Each row carries its tenant; rows have no relations, so nothing loads by surprise.

Inputs (`models`, `datasets`) may be deleted while jobs still name them, so jobs keep plain ids there, not foreign keys.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, false, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, BigInt
from app.domain.device import RequestState
from app.domain.job import InputState, JobKind, JobState
from app.domain.record import record_digest
from app.domain.report import MeasuredKind

ID = String(40)
DIGEST = String(64)
WORD = String(40)
NAME = String(255)


def _one_of(column: str, words: Iterable[StrEnum]) -> CheckConstraint:
    """A string enum that both databases check the same way."""
    listed = ", ".join(f"'{word.value}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _record_digest(context: DefaultExecutionContext) -> str:
    """What a measurement is known by, of the values that are inserted."""
    return record_digest(context.get_current_parameters())  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it so


class Tenanted:
    """Whose row it is: `default` until there are API keys."""

    tenant: Mapped[str] = mapped_column(WORD, server_default=text("'default'"))


class NetworkRow(Tenanted, Base):
    """A network that a user uploaded: the API's `Model`. Its external weights, where it has any, are a second blob."""

    __tablename__ = "models"
    __table_args__ = (
        _one_of("state", InputState),
        UniqueConstraint("tenant", "sha256", "external_data_sha256"),
        Index("ix_models_tenant_id", "tenant", "id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    external_data_sha256: Mapped[str] = mapped_column(DIGEST, server_default=text("''"), default="", index=True)
    external_data_bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"), default=0)
    state: Mapped[str] = mapped_column(WORD)
    problem: Mapped[dict[str, object] | None]
    analysis: Mapped[dict[str, object] | None]  # as served: api.md, without the private cost model
    cost_model: Mapped[dict[str, object] | None] = mapped_column(deferred=True, deferred_raiseload=True)
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)


class DatasetRow(Tenanted, Base):
    """Calibration and fine-tuning data that a user uploaded."""

    __tablename__ = "datasets"
    __table_args__ = (
        _one_of("state", InputState),
        UniqueConstraint("tenant", "sha256"),
        Index("ix_datasets_tenant_id", "tenant", "id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    state: Mapped[str] = mapped_column(WORD)
    problem: Mapped[dict[str, object] | None]
    description: Mapped[dict[str, object] | None]  # kind, num_samples, num_classes, shape, dtype, splits
    created_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1)


class JobRow(Tenanted, Base):
    """What was asked for, who works on it, how far it is, how it ended."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("state", JobState),
        _one_of("kind", JobKind),
        Index("ix_jobs_tenant_kind_id", "tenant", "kind", "id"),
        Index("ix_jobs_queue_state_priority", "queue", "state", "priority"),
        Index("ix_jobs_state_lease_until", "state", "lease_until"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    kind: Mapped[str] = mapped_column(WORD)
    state: Mapped[str] = mapped_column(WORD)
    name: Mapped[str | None] = mapped_column(NAME)
    model_id: Mapped[str | None] = mapped_column(ID, index=True)
    dataset_id: Mapped[str | None] = mapped_column(ID, index=True)
    spec: Mapped[dict[str, object]]  # JobSpec as JSON; empty for the analysing kinds
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]  # of the first attempt
    finished_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1)  # goes up with every write: the ETag
    event_seq: Mapped[int] = mapped_column(default=0)  # number of the last event

    queue: Mapped[str] = mapped_column(WORD)
    priority: Mapped[int] = mapped_column(default=0)  # higher first
    attempt: Mapped[int] = mapped_column(default=0)  # attempts begun
    losses: Mapped[int] = mapped_column(default=0)  # attempts that died; bounded
    max_attempts: Mapped[int]
    dispatch_after: Mapped[datetime]  # not claimed before
    lease_owner: Mapped[str | None] = mapped_column(NAME)
    lease_epoch: Mapped[int] = mapped_column(default=0)  # fencing number: every worker write names it
    lease_until: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]

    phase: Mapped[str | None] = mapped_column(WORD)
    fraction: Mapped[float] = mapped_column(default=0.0)  # of the whole job, 0..1
    eta_seconds: Mapped[float | None]
    message: Mapped[str | None] = mapped_column(Text)
    metrics: Mapped[dict[str, object] | None]
    progress_at: Mapped[datetime | None]

    result: Mapped[dict[str, object] | None]
    problem: Mapped[dict[str, object] | None]
    last_problem: Mapped[dict[str, object] | None]  # how the last attempt died (signal, peak memory)
    sandbox: Mapped[dict[str, object] | None]  # layers that were active around the attempt
    traceparent: Mapped[str | None] = mapped_column(NAME)


class JobEventRow(Tenanted, Base):
    """One entry of a job's log; `seq` counts from 1 without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(WORD)
    data: Mapped[dict[str, object]]
    created_at: Mapped[datetime]


class OutboxRow(Tenanted, Base):
    """A doorbell that is still to be rung; written with its cause, deleted once sent."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    queue: Mapped[str] = mapped_column(WORD)
    created_at: Mapped[datetime]
    due_at: Mapped[datetime] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)


class ArtifactRow(Tenanted, Base):
    """A file that a job made; its bytes never change."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_tenant_job_id", "tenant", "job_id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(WORD)  # onnx | external_data | report | checkpoint
    name: Mapped[str] = mapped_column(NAME)  # file name offered on download
    target: Mapped[list[object] | None]
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    summary: Mapped[dict[str, object]]
    created_at: Mapped[datetime]


class CheckpointRow(Tenanted, Base):
    """One file of the state that an attempt left for the next one; gone when the job has ended."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[str] = mapped_column(NAME, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    attempt: Mapped[int]
    created_at: Mapped[datetime]


class StatisticsRow(Base):
    """One file of what was found out about a network on its data; jobs that ask the same of them share it."""

    __tablename__ = "statistics"

    tenant: Mapped[str] = mapped_column(WORD, primary_key=True, server_default=text("'default'"))
    key: Mapped[str] = mapped_column(DIGEST, primary_key=True)  # of model, data and what was asked of them
    step: Mapped[str] = mapped_column(NAME, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, primary_key=True)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    job_id: Mapped[str] = mapped_column(ID)  # that computed it; it may be gone
    created_at: Mapped[datetime]
    used_at: Mapped[datetime] = mapped_column(index=True)


class IdempotencyRow(Tenanted, Base):
    """A request that may be sent again: its fingerprint, and its answer once there is one."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("tenant", "key"),)

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    key: Mapped[str] = mapped_column(NAME)
    fingerprint: Mapped[str] = mapped_column(DIGEST)  # SHA-256 of method, path and payload
    resource_id: Mapped[str | None] = mapped_column(ID)  # what the request made
    status: Mapped[int | None]
    headers: Mapped[dict[str, object] | None]
    body: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(ID)  # the request that holds the key now
    locked_until: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime]


class MeasurementRow(Tenanted, Base):
    """Latency of one network on one host, every sample kept."""

    __tablename__ = "measurements"
    __table_args__ = (
        Index("ix_measurements_tenant_artifact_id", "tenant", "artifact_id"),
        Index("ix_measurements_tenant_model_id", "tenant", "model_id"),
        Index("ix_measurements_tenant_sha256", "tenant", "sha256"),
        Index("ix_measurements_tenant_device_kind", "tenant", "device", "kind"),
        Index("ix_measurements_tenant_record_sha256", "tenant", "record_sha256"),
        Index(
            "uq_measurements_imported",
            "tenant",
            "record_sha256",
            unique=True,
            sqlite_where=text("source IS NOT NULL"),
            postgresql_where=text("source IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id", ondelete="CASCADE"))
    model_id: Mapped[str | None] = mapped_column(ID)
    sha256: Mapped[str] = mapped_column(DIGEST)  # of the bytes that were timed
    device: Mapped[str] = mapped_column(ID)
    runtime: Mapped[str] = mapped_column(NAME)
    runtime_version: Mapped[str] = mapped_column(NAME)
    provider: Mapped[str] = mapped_column(NAME)
    threads: Mapped[int]
    batch: Mapped[int]
    warmup: Mapped[int]
    samples_ms: Mapped[list[object]]
    p50_ms: Mapped[float]
    p90_ms: Mapped[float]
    p99_ms: Mapped[float]
    mean_ms: Mapped[float]
    load_ms: Mapped[float]
    peak_rss_bytes: Mapped[int | None] = mapped_column(BigInt)
    host: Mapped[dict[str, object]]
    kind: Mapped[str] = mapped_column(WORD, default="network", server_default=text("'network'"))
    key: Mapped[str | None] = mapped_column(Text)  # of a layer: its operator and shapes
    profile: Mapped[list[object] | None]  # what each operator takes
    source: Mapped[dict[str, object] | None]  # where an imported measurement is from; null: measured for this service
    record_sha256: Mapped[str] = mapped_column(DIGEST, default=_record_digest)
    created_at: Mapped[datetime]


class WorkerRow(Tenanted, Base):
    """A supervisor that looks for jobs; readiness asks when it was last seen."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(NAME, primary_key=True)
    queues: Mapped[list[object]]
    host: Mapped[str] = mapped_column(NAME)
    pid: Mapped[int]
    bell: Mapped[str] = mapped_column(WORD)
    job_id: Mapped[str | None] = mapped_column(ID)  # what it works on now
    system: Mapped[dict[str, object]]  # versions, devices, sandbox layers
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class DeviceRow(Tenanted, Base):
    """A device that measures latencies. Its token is not kept, only the token's SHA-256."""

    __tablename__ = "devices"
    __table_args__ = (Index("ix_devices_tenant_id", "tenant", "id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    token_sha256: Mapped[str] = mapped_column(DIGEST, unique=True)
    attributes: Mapped[dict[str, object] | None]  # as its agent reported them last
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class MeasurementRequestRow(Tenanted, Base):
    """A latency that somebody wants from one device, and who works on it. Its lease's id fences what comes back."""

    __tablename__ = "measurement_requests"
    __table_args__ = (
        _one_of("state", RequestState),
        Index("ix_measurement_requests_device_id_state_id", "device_id", "state", "id"),
        Index("ix_measurement_requests_state_expires_at", "state", "expires_at"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    device_id: Mapped[str] = mapped_column(ID)  # no foreign key: `dev_local` is no row
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)  # that asks
    once: Mapped[str | None] = mapped_column(DIGEST, unique=True)  # the same question again is this request
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id", ondelete="CASCADE"), index=True)
    model_id: Mapped[str | None] = mapped_column(ID)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    external_data_sha256: Mapped[str] = mapped_column(DIGEST, server_default=text("''"), default="")
    external_data_bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"), default=0)
    shapes: Mapped[dict[str, object] | None]  # of inputs whose axes are free, by name
    threads: Mapped[int | None]
    batch: Mapped[int]
    provider: Mapped[str | None] = mapped_column(NAME)
    warmup: Mapped[int]
    repeats: Mapped[int]
    profile: Mapped[bool] = mapped_column(default=False, server_default=false())
    state: Mapped[str] = mapped_column(WORD)
    attempts: Mapped[int] = mapped_column(default=0)  # times that a lease was given out
    lease_id: Mapped[str | None] = mapped_column(ID, unique=True)
    lease_agent: Mapped[str | None] = mapped_column(NAME)
    leased_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    problem: Mapped[dict[str, object] | None]
    measurement_id: Mapped[str | None] = mapped_column(ForeignKey("measurements.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]  # given up then if the device has not answered
    finished_at: Mapped[datetime | None]


class MeasurementItemRow(Tenanted, Base):
    """One of several networks or layers that one request times in turn. A request of a single network has none."""

    __tablename__ = "measurement_items"
    __table_args__ = (
        _one_of("kind", MeasuredKind),
        UniqueConstraint("request_id", "position"),
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("measurement_requests.id", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str] = mapped_column(NAME)
    kind: Mapped[str] = mapped_column(WORD)
    key: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(DIGEST, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInt)
    external_data_sha256: Mapped[str] = mapped_column(DIGEST, server_default=text("''"), default="")
    external_data_bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"), default=0)
    artifact_id: Mapped[str | None] = mapped_column(ForeignKey("artifacts.id", ondelete="CASCADE"), index=True)
    model_id: Mapped[str | None] = mapped_column(ID)
    measurement_id: Mapped[str | None] = mapped_column(ForeignKey("measurements.id", ondelete="SET NULL"), index=True)
    problem: Mapped[dict[str, object] | None]
