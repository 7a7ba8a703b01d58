"""What a worker is given with a job, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from sqlalchemy.orm import Session

from app.db import inputs
from app.db.tables import CheckpointRow, DatasetRow, JobRow, NetworkRow, StatisticsRow
from app.domain.job import JobKind, Phase
from app.domain.methods import JobSpec
from app.errors import DatasetDeleted, ModelDeleted
from app.ids import Digest
from app.services.requirements import check_inputs, find_claimed_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An uploaded file that an attempt reads."""

    id: str
    name: str
    sha256: Digest
    size_bytes: int
    external_data: Digest | None = None  # the companion that holds a network's weights


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFile:
    """One file of a step's state."""

    step: str
    name: str
    sha256: Digest
    size_bytes: int

    @classmethod
    def of(cls, row: CheckpointRow | StatisticsRow) -> Self:
        """Give the file that a row names."""
        return cls(step=row.step, name=row.name, sha256=Digest(row.sha256), size_bytes=row.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A job that this worker holds until its lease runs out."""

    job_id: str
    tenant: str
    kind: JobKind
    queue: str
    spec: Mapping[str, object]
    attempt: int  # from 1
    losses: int  # attempts that died before this one
    epoch: int
    lease_until: datetime
    network: Source | None
    dataset: Source | None
    checkpoints: tuple[CheckpointFile, ...]
    last_problem: Mapping[str, object] | None  # how the last attempt died
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an attempt is: the fraction of the whole job, 0..1."""

    phase: Phase
    fraction: float
    message: str = ""
    eta_seconds: float | None = None
    metrics: Mapping[str, float] | None = None


def claimed_inputs(session: Session, row: JobRow) -> tuple[NetworkRow | None, DatasetRow | None]:
    """Give what the job reads, or raise what it must fail with."""
    if row.kind == JobKind.PRUNE:
        spec = JobSpec.model_validate(row.spec)
        given = find_claimed_inputs(session, row.tenant, spec)
        if row.attempt:  # it has begun: a device that was revoked since then answers its question with that
            given = replace(given, devices={})
        check_inputs(spec, given)
        return given.network, given.dataset
    if row.kind == JobKind.ANALYSE_MODEL:
        network = inputs.find(session, NetworkRow, row.tenant, row.model_id or "")
        if network is None:
            raise ModelDeleted(f"{row.model_id} was deleted while it waited for its analysis.")
        return network, None
    dataset = inputs.find(session, DatasetRow, row.tenant, row.dataset_id or "")
    if dataset is None:
        raise DatasetDeleted(f"{row.dataset_id} was deleted while it waited for its analysis.")
    return None, dataset


def source(row: NetworkRow | DatasetRow | None) -> Source | None:
    """Give what a worker needs to know of an upload."""
    if row is None:
        return None
    beside = row.external_data_sha256 if isinstance(row, NetworkRow) else ""
    return Source(
        id=row.id,
        name=row.name,
        sha256=Digest(row.sha256),
        size_bytes=row.size_bytes,
        external_data=Digest(beside) if beside else None,
    )
