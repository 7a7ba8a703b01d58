"""Every setting of the service in one frozen class, read once from the environment and handed down.

Each field is the environment variable `ESPALIER_<NAME>`. Durations are ISO 8601 (`PT45S`) or seconds; sizes are bytes.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _plain_seconds(given: object) -> object:
    """Let `45` from the environment mean 45 seconds, as it does where a number is given."""
    if isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            return given
    return given


Duration = Annotated[timedelta, BeforeValidator(_plain_seconds), Field(ge=timedelta(0))]
GIB = 1024**3
MIB = 1024**2


class Settings(BaseSettings):
    """What an operator may decide. Built in create_app() and celery_app.py, passed as an argument everywhere else."""

    model_config = SettingsConfigDict(env_prefix="ESPALIER_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path("espalier-data"), description="Directory for the database, the store and job folders.")
    database_url: str = Field(
        "", description="SQLAlchemy URL of SQLite or PostgreSQL. Empty: `espalier.sqlite3` in data_dir."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="URL of the doorbell's broker: redis://, rediss:// or redis+socket://. Empty: workers poll.",
    )
    store_dir: Path | None = Field(None, description="Directory of the content-addressed store. Empty: in data_dir.")
    work_dir: Path | None = Field(None, description="Directory of the folders of running jobs. Empty: in data_dir.")

    host: str = Field("127.0.0.1", description="Address the web process listens on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port the web process listens on; 0 means any free one.")
    log_level: str = Field("INFO", description="Lowest level that is logged: DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(default=True, description="Log lines as JSON; otherwise for reading on a terminal.")

    max_model_bytes: int = Field(2 * GIB, gt=0, description="Largest model file, in bytes.")
    max_external_data_bytes: int = Field(8 * GIB, gt=0, description="Largest file of external weights, in bytes.")
    max_dataset_bytes: int = Field(8 * GIB, gt=0, description="Largest dataset file, in bytes.")
    max_import_bytes: int = Field(16 * MIB, gt=0, description="Largest export of measurements to import, in bytes.")
    max_spec_bytes: int = Field(1 * MIB, gt=0, description="Largest JSON body or `spec` part, in bytes.")
    min_free_bytes: int = Field(
        256 * MIB, ge=0, description="Free space on the store's file system below which uploads answer 507, in bytes."
    )
    max_concurrent_uploads: int = Field(16, gt=0, description="Uploads served at once; further ones wait.")

    lease_seconds: Duration = Field(
        timedelta(seconds=45), description="How long a worker holds a job without a heartbeat before it is requeued."
    )
    heartbeat_seconds: Duration = Field(
        timedelta(seconds=10), description="How often a worker extends its lease; well below the lease."
    )
    poll_seconds: Duration = Field(
        timedelta(seconds=1), description="How often a worker without a doorbell looks for a job."
    )
    cancel_poll_seconds: Duration = Field(
        timedelta(seconds=1), description="How often a worker asks whether its job was cancelled."
    )
    progress_seconds: Duration = Field(
        timedelta(seconds=1), description="Shortest time between two progress rows of one job."
    )
    max_attempts: int = Field(
        3, ge=1, description="Attempts that may die on a job before it fails: the first, and two after losing a worker."
    )
    job_timeout: Duration = Field(
        timedelta(hours=12), description="Longest time one attempt may run before it is stopped and the job fails."
    )
    cancel_grace_seconds: Duration = Field(
        timedelta(seconds=2), description="Time a child gets between the request to stop and the kill."
    )
    child_memory_bytes: int | None = Field(
        None, description="Memory one attempt's process may use, in bytes. Empty: nine tenths of what the host has."
    )
    child_file_bytes: int = Field(16 * GIB, gt=0, description="Largest file one attempt may write, in bytes.")
    child_threads: int = Field(
        1, ge=0, description="Threads one attempt computes with; more pay for large networks only. 0 means every core."
    )
    workers: int = Field(1, ge=0, description="Workers that `espalier serve` starts; each runs one job at a time.")
    sandbox_required: str = Field(
        "", description="Sandbox layers without which no attempt starts, joined by commas, such as network,filesystem."
    )
    queues: str = Field("cpu", description="Queues a worker serves, joined by commas.")

    outbox_seconds: Duration = Field(
        timedelta(seconds=2), description="How often unsent doorbell messages are sent again."
    )
    sweep_seconds: Duration = Field(timedelta(seconds=5), description="How often leases that ran out are looked for.")
    garbage_seconds: Duration = Field(timedelta(hours=1), description="How often unreferenced content is looked for.")
    blob_grace: Duration = Field(
        timedelta(hours=24), description="Age below which unreferenced content is never deleted."
    )
    job_retention: Duration = Field(
        timedelta(days=30), description="How long a finished job and its artifacts are kept."
    )
    statistics_retention: Duration = Field(
        timedelta(days=7),
        description="How long scores and statistics of a model on its data are kept for further jobs after their last "
        "use.",
    )
    idempotency_ttl: Duration = Field(timedelta(hours=24), description="How long an idempotency key is remembered.")
    idempotency_lock: Duration = Field(
        timedelta(minutes=10), description="How long an unanswered request keeps its key before a retry takes over."
    )
    worker_stale_seconds: Duration = Field(
        timedelta(seconds=30), description="Silence after which a worker counts as not consuming."
    )

    device_lease: Duration = Field(
        timedelta(seconds=60), description="How long a device holds a measurement without a word of its agent."
    )
    device_stale: Duration = Field(
        timedelta(seconds=90),
        description="Silence after which a device counts as stale; its agent polls well below it.",
    )
    device_gone: Duration = Field(timedelta(hours=24), description="Silence after which a device counts as gone.")
    device_attempts: int = Field(
        5, ge=1, description="Times that a measurement is leased to a device before it fails as lost."
    )
    device_request_ttl: Duration = Field(
        timedelta(hours=24), description="How long a measurement waits for its device before it fails."
    )
    device_wait: Duration = Field(
        timedelta(hours=1), description="How long a job waits for a device that is silent, unless the job says."
    )
    device_patience: Duration = Field(
        timedelta(seconds=60),
        description="How long a job that waits for a device keeps its worker from other jobs.",
    )
    timing_lock: Path | None = Field(
        None, description="Lock file of what times networks on this host, for all its workers. Empty: in data_dir."
    )

    page_limit: int = Field(100, ge=1, description="Most entries of one page; a higher `limit` is capped.")
    page_default: int = Field(20, ge=1, description="Entries of a page when `limit` is not given.")
    max_wait_seconds: Duration = Field(timedelta(seconds=30), description="Longest time that `?wait=` is honoured.")

    database_pool_size: int = Field(20, ge=1, description="Database connections kept open by one process.")
    database_pool_overflow: int = Field(30, ge=0, description="Connections beyond the pool in a burst.")
    database_timeout: Duration = Field(
        timedelta(seconds=5), description="Longest wait for a connection, a lock or a busy SQLite before a 503."
    )

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        """Two heartbeats may be missed before a lease runs out, otherwise healthy jobs would be requeued."""
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            msg = (
                f"ESPALIER_HEARTBEAT_SECONDS is {self.heartbeat_seconds}; allowed is a third of "
                f"ESPALIER_LEASE_SECONDS ({self.lease_seconds}) or less."
            )
            raise ValueError(msg)
        return self

    @property
    def resolved_database_url(self) -> str:
        """The database's URL; SQLite in the data directory unless one is set."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'espalier.sqlite3').resolve()}"

    @property
    def resolved_store_dir(self) -> Path:
        """The store's directory."""
        return self.store_dir or self.data_dir / "store"

    @property
    def resolved_work_dir(self) -> Path:
        """The directory of job folders."""
        return self.work_dir or self.data_dir / "work"

    @property
    def required_layers(self) -> tuple[str, ...]:
        """The layers of `sandbox_required`, split."""
        return tuple(name.strip() for name in self.sandbox_required.split(",") if name.strip())

    @property
    def resolved_timing_lock(self) -> Path:
        """The lock file of the host's timing lane."""
        return self.timing_lock or self.data_dir / "timing.lock"

    @property
    def max_upload_bytes(self) -> Mapping[str, int]:
        """The largest file of each kind that is taken in."""
        return {
            "model": self.max_model_bytes,
            "external_data": self.max_external_data_bytes,
            "dataset": self.max_dataset_bytes,
        }

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues of `queues`, split."""
        return tuple(name.strip() for name in self.queues.split(",") if name.strip())
