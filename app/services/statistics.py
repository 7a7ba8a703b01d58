"""Statistics of a network on its data, kept from job to job: a second target of the same model costs no second look.

What a step finds out about a network and its data before a target matters (scores, Grams, orders of elimination) is a
checkpoint like any other, except that it belongs to what it was computed from. A job that asks the same of the same
model and data starts as if an attempt of its own had recorded it, so reuse is the replay that a killed attempt does.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from app.db import statistics as queries
from app.db.tables import JobRow, StatisticsRow
from app.domain.job import JobKind
from app.ids import Digest
from app.services.claims import CheckpointFile

STEPS: Final = frozenset({"score", "statistics"})  # what the engine calls the steps that no target touches
# These may train before they score, so that what they find belongs to one job.
_OWN: Final = frozenset({"taylor", "dynhp"})
# What does not touch the statistics. A field that is not listed here does, so a new one costs time and never truth.
_LATER: Final = frozenset({
    "target", "targets", "finetune", "max_accuracy_drop", "device", "measure", "measure_on", "name", "metadata",
})  # fmt: skip
FORMAT: Final = 1  # of what the engine records; goes up when an older one may no longer be read


def key_of(row: JobRow) -> str | None:
    """Give what a job's statistics are kept under: a digest of model, data and everything asked that touches them.

    None where a job has none to share.
    """
    if row.kind != JobKind.PRUNE or row.spec.get("method") in _OWN:
        return None
    asked = {name: value for name, value in row.spec.items() if name not in _LATER}
    asked |= {"format": FORMAT, "model": row.model_id, "dataset": row.dataset_id}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def keep(session: Session, row: JobRow, step: str, files: Mapping[str, tuple[Digest, int]], now: datetime) -> None:
    """Keep a step of a job for the jobs after it, where it is one that they may use."""
    key = key_of(row) if step in STEPS else None
    if key is None:
        return
    queries.drop(session, row.tenant, key, step)
    session.add_all(
        StatisticsRow(
            tenant=row.tenant, key=key, step=step, name=name, sha256=digest, size_bytes=size_bytes,
            job_id=row.id, created_at=now, used_at=now,
        )
        for name, (digest, size_bytes) in files.items()
    )  # fmt: skip


def reusable(session: Session, row: JobRow, have: Sequence[str], now: datetime) -> tuple[CheckpointFile, ...]:
    """Give the files of steps that a job lacks and an earlier one left, and note that they were of use."""
    key = key_of(row)
    if key is None:
        return ()
    found = [file for file in queries.find(session, row.tenant, key) if file.step not in have]
    for file in found:
        file.used_at = now
    return tuple(CheckpointFile.of(file) for file in found)
