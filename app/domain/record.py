"""The record of measurements: which of them are meant, by what one is known, how one comes from elsewhere.

A measurement is known by the digest of everything that was measured and of what ran it. Ids, times of arrival and names
of devices differ from service to service and are left out, so that a record that was exported, imported elsewhere and
comes back is the same record.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.domain.device import MAX_SAMPLE_MS, MAX_SAMPLES, MAX_THREADS, MIN_SAMPLE_MS, Host
from app.domain.report import MAX_KEY, MAX_OPERATORS, MeasuredKind, OperatorTime

FIELDS: Final = (
    "sha256", "kind", "key", "runtime", "runtime_version", "provider", "threads", "batch", "warmup", "samples_ms",
    "load_ms", "peak_rss_bytes", "host",
)  # fmt: skip
DERIVED: Final = frozenset({"p50_ms", "p90_ms", "p99_ms", "mean_ms", "p50_interval_ms", "unstable"})
FOREIGN_LOCAL: Final = "dev_elsewhere"  # another service's `dev_local` is another machine than ours
MAX_IMPORTED: Final = 20_000
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _written(given: object) -> object:
    """Pass a moment as RFC 3339 writes it; a bare number would be read as seconds since 1970."""
    if isinstance(given, str) and _RFC_3339.fullmatch(given) is None:
        raise PydanticCustomError("rfc_3339", "A moment is written as 2026-01-31T12:00:00Z, with its zone.")
    return given


_Word = Annotated[str, Field(min_length=1, max_length=255)]
_SampleMs = Annotated[float, Field(ge=MIN_SAMPLE_MS, le=MAX_SAMPLE_MS)]
_Moment = Annotated[AwareDatetime, BeforeValidator(_written)]
_Id = Annotated[str, Field(pattern=r"^[0-9a-z_]{1,40}$")]


class Which(BaseModel):
    """Which measurements; what is not given does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: _Id | None = Field(default=None, description="Only of this artifact.")
    model: _Id | None = Field(default=None, description="Only of this uploaded model.")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Only of these ONNX bytes.")
    device: str | None = Field(default=None, pattern=r"^dev_[0-9a-z_]{1,36}$", description="Only on this device.")
    job: _Id | None = Field(default=None, description="Only of this job.")
    kind: MeasuredKind | None = Field(default=None, description="Only whole networks, or only layers.")
    key: str | None = Field(default=None, max_length=MAX_KEY, description="Only of this layer.")
    runtime: _Word | None = Field(default=None, description="Only by this runtime.")
    runtime_version: _Word | None = Field(default=None, description="Only by this version of it.")
    provider: _Word | None = Field(default=None, description="Only with this execution provider.")
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS, description="Only with this many threads.")
    batch: int | None = Field(default=None, ge=1, le=65536, description="Only of this many samples a run.")
    since: _Moment | None = Field(default=None, description="Only those recorded then or later.")
    until: _Moment | None = Field(default=None, description="Only those recorded before then.")
    imported: bool | None = Field(default=None, description="Only imported ones, or only this service's own.")


class Imported(BaseModel):
    """A measurement as an export has it. What follows from its samples is computed anew."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: _Id
    artifact: _Id | None = None
    model: _Id | None = None
    job: _Id | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    device: str = Field(pattern=r"^dev_[0-9a-z_]{1,36}$")
    runtime: _Word
    runtime_version: _Word
    provider: _Word
    threads: int = Field(ge=1, le=MAX_THREADS)
    batch: int = Field(ge=1, le=65536)
    warmup: int = Field(ge=0, le=1000)
    samples_ms: tuple[_SampleMs, ...] = Field(min_length=1, max_length=MAX_SAMPLES)
    load_ms: float = Field(ge=0, le=MAX_SAMPLE_MS)
    peak_rss_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    host: Host
    kind: MeasuredKind = MeasuredKind.NETWORK
    key: str | None = Field(default=None, max_length=MAX_KEY)
    profile: tuple[OperatorTime, ...] | None = Field(default=None, max_length=MAX_OPERATORS)
    source: dict[str, Any] | None = Field(default=None, max_length=16)
    created_at: _Moment


def record_digest(record: Mapping[str, object]) -> str:
    """Give the SHA-256 of a measurement, the same wherever it is kept."""
    said = {field: record.get(field) for field in FIELDS}
    said["kind"] = str(said["kind"] or MeasuredKind.NETWORK.value)
    said["load_ms"] = float(str(said["load_ms"]))  # a whole number is the same time as its float
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
