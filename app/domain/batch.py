"""Several networks timed in turn under one lease: what a job asks for, and what an agent answers."""

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.domain.device import (
    MAX_BATCH_SAMPLES,
    MAX_SAMPLE_MS,
    MAX_SAMPLES,
    MAX_THREADS,
    MIN_SAMPLE_MS,
    FailureReport,
    Host,
    Shapes,
)
from app.domain.report import MAX_KEY, MAX_OPERATORS, MeasuredKind, OperatorTime

MAX_ITEMS: Final = 256

_STRICT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_Name = Annotated[str, Field(min_length=1, max_length=255)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SampleMs = Annotated[float, Field(ge=MIN_SAMPLE_MS, le=MAX_SAMPLE_MS)]


class BatchItem(BaseModel):
    """A network, or a micro-graph of one layer, whose bytes are in the store already."""

    model_config = _STRICT

    name: _Name
    kind: MeasuredKind = MeasuredKind.NETWORK
    key: str | None = Field(default=None, max_length=MAX_KEY)
    sha256: _Digest
    size_bytes: int = Field(ge=0)
    external_data_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    external_data_bytes: int = Field(default=0, ge=0)
    artifact: str | None = None
    model: str | None = None


class BatchSpec(BaseModel):
    """What is timed side by side, and how; the settings are those of a single measurement."""

    model_config = _STRICT

    items: tuple[BatchItem, ...] = Field(min_length=1, max_length=MAX_ITEMS)
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS)
    batch: int = Field(default=1, ge=1, le=65536)
    provider: _Name | None = None
    warmup: int = Field(default=10, ge=0, le=1000)
    repeats: int = Field(default=100, ge=6, le=MAX_SAMPLES)
    profile: bool = False
    shapes: Shapes | None = None

    @model_validator(mode="after")
    def _names_differ_and_answers_fit(self) -> Self:
        if len({item.name for item in self.items}) != len(self.items):
            raise PydanticCustomError("names_differ", "Each item needs a name of its own.")
        if len(self.items) * self.repeats > MAX_BATCH_SAMPLES:
            raise PydanticCustomError("too_many_samples", "At most 30,000 runs in all: fewer repeats or items.")
        return self


class ItemReport(BaseModel):
    """What became of one item: its samples, or why there are none."""

    model_config = _STRICT

    name: _Name
    sha256: _Digest | None = Field(default=None, description="Digest of the ONNX bytes that were timed.")
    batch: int | None = Field(default=None, ge=1, le=65536)
    samples_ms: tuple[_SampleMs, ...] | None = Field(default=None, min_length=1, max_length=MAX_SAMPLES)
    load_ms: float | None = Field(default=None, ge=0, le=MAX_SAMPLE_MS)
    peak_rss_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    profile: tuple[OperatorTime, ...] | None = Field(default=None, max_length=MAX_OPERATORS)
    on_cpu_share: float | None = Field(default=None, ge=0, le=1)
    on_cpu_p50_ms: float | None = Field(default=None, ge=0)
    failure: FailureReport | None = None

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        timed = (self.sha256, self.batch, self.samples_ms, self.load_ms)
        whole = all(given is not None for given in timed)
        if (self.failure is None) != whole or (self.failure is not None and any(given is not None for given in timed)):
            raise PydanticCustomError("one_outcome", "Give sha256, batch, samples_ms and load_ms, or a failure.")
        return self


class BatchReport(BaseModel):
    """What a device measured under a lease of several items: one result for each."""

    model_config = _STRICT

    runtime: _Name
    runtime_version: _Name
    provider: _Name
    threads: int = Field(ge=1, le=MAX_THREADS)
    warmup: int = Field(ge=0, le=1000)
    host: Host
    results: tuple[ItemReport, ...] = Field(min_length=1, max_length=MAX_ITEMS)
