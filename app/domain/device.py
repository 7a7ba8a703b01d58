"""Devices that measure latencies: what they are asked, what they answer, when they count as present.

A device is known by what its agent reports; nothing about it is typed. It pulls its work: each measurement that a user
asks for is leased to the device's agent, and answered by a measurement or by the runtime's own words of refusal.
"""

import math
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.domain import target
from app.domain.methods import spec_refusal
from app.domain.report import MAX_OPERATORS, OperatorTime

LOCAL: Final = target.LOCAL  # the workers' own processor; it has no agent
TOKEN_PREFIX: Final = "espd_"  # noqa: S105 - what every device's token begins with, not a token
MAX_THREADS: Final = 1024
MAX_SAMPLES: Final = 10_000
MAX_SAMPLE_MS: Final = 3_600_000.0
MAX_SIDE_BY_SIDE: Final = 16
MAX_BATCH_SAMPLES: Final = 30_000  # of all networks of one request together; they travel in one document
MIN_SAMPLE_MS: Final = 1e-6  # no clock resolves less than a nanosecond

_STRICT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_DIGEST: Final = r"^[0-9a-f]{64}$"
_Word = Annotated[str, Field(min_length=1, max_length=255)]
_ArtifactId = Annotated[str, Field(pattern=r"^art_[0-9a-z]{1,36}$")]
_ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-z]{1,36}$")]
_SampleMs = Annotated[float, Field(ge=MIN_SAMPLE_MS, le=MAX_SAMPLE_MS)]
_Asked = TypeVar("_Asked", bound=BaseModel)


def _storable(found: Any) -> Any:
    """Pass what JSON can say: 1e999 reads as a number, but is infinite and has no JSON form."""
    if isinstance(found, float) and not math.isfinite(found):
        raise PydanticCustomError("finite", "A number in it is not finite.")
    for item in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        _storable(item)
    return found


def _named(host: dict[str, Any]) -> dict[str, Any]:
    """Pass a host that can be told from others."""
    for key in ("cpu", "os"):
        if not isinstance(host.get(key), str) or not host[key]:
            raise PydanticCustomError("host_is_named", "A latency without its host is not kept: host lacks cpu or os.")
    return host


_Facts = Annotated[dict[str, Any], AfterValidator(_storable)]
Shapes = Annotated[
    dict[_Word, Annotated[tuple[Annotated[int, Field(ge=1, lt=2**31)], ...], Field(max_length=16)]],
    Field(max_length=64, description="Whole shapes of inputs whose axes are free beyond the first, by input name."),
]
Host = Annotated[
    _Facts,
    Field(min_length=1, max_length=128, description="What ran it; `cpu` and `os` at least."),
    AfterValidator(_named),
]


class DeviceState(StrEnum):
    """Whether a device can be expected to measure soon."""

    NEW = "new"  # its agent has never called
    ONLINE = "online"
    STALE = "stale"
    GONE = "gone"
    REVOKED = "revoked"


class RequestState(StrEnum):
    """How far a measurement is that a user asked for."""

    QUEUED = "queued"
    LEASED = "leased"
    MEASURED = "measured"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN: Final = frozenset({RequestState.QUEUED, RequestState.LEASED})


class DeviceSpec(BaseModel):
    """A device to be registered: everything else about it is reported by its agent."""

    model_config = _STRICT

    name: _Word = Field(description="What people call it.")


class NetworkRef(BaseModel):
    """One of the networks that are timed side by side."""

    model_config = _STRICT

    artifact: _ArtifactId | None = None
    model: _ModelId | None = None

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if (self.artifact is None) == (self.model is None):
            raise PydanticCustomError("one_network", "Give either artifact or model.")
        return self


class MeasurementSpec(BaseModel):
    """A latency to be measured on one device: of an artifact, of an uploaded model, or of several in turn."""

    model_config = _STRICT

    artifact: _ArtifactId | None = None
    model: _ModelId | None = None
    networks: tuple[NetworkRef, ...] | None = Field(
        default=None,
        min_length=2,
        max_length=MAX_SIDE_BY_SIDE,
        description="Several, run by run in turn in one process: whatever the device does meanwhile falls on all.",
    )
    threads: int | None = Field(default=None, ge=1, le=MAX_THREADS, description="Null: the device's own, else 1.")
    batch: int = Field(default=1, ge=1, le=65536, description="A network with a fixed batch runs at its own.")
    provider: _Word | None = Field(default=None, description="Execution provider; null: the device's own, else CPU.")
    warmup: int = Field(default=10, ge=0, le=1000, description="Runs that are thrown away.")
    repeats: int = Field(default=100, ge=6, le=MAX_SAMPLES, description="Runs that are kept.")
    profile: bool = Field(default=False, description="Also tell what each operator takes, in runs of their own.")
    shapes: Shapes | None = None

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(given is not None for given in (self.artifact, self.model, self.networks)) != 1:
            raise PydanticCustomError("one_network", "Give either artifact or model, or several as networks.")
        if self.networks and len(self.networks) * self.repeats > MAX_BATCH_SAMPLES:
            raise PydanticCustomError("too_many_samples", "At most 30,000 runs in all: fewer repeats or networks.")
        return self


class Poll(BaseModel):
    """An agent that asks for work and says what it runs on."""

    model_config = _STRICT

    agent: str = Field(
        pattern=r"^[0-9a-z]{8,64}$",
        description="Identifies the agent's work folder: an agent that died is given its lease again at once.",
    )
    attributes: _Facts | None = Field(
        default=None,
        max_length=64,
        description="Board, processor, memory, runtime, providers, threads; null: as before.",
    )


class LatencyReport(BaseModel):
    """What a device measured under a lease. Times in milliseconds; quantiles are computed from the samples."""

    model_config = _STRICT

    lease: str = Field(pattern=r"^lse_[0-9a-z]{1,36}$")
    sha256: str = Field(pattern=_DIGEST, description="Digest of the ONNX bytes that were timed.")
    runtime: _Word
    runtime_version: _Word
    provider: _Word
    threads: int = Field(ge=1, le=MAX_THREADS)
    batch: int = Field(ge=1, le=65536)
    warmup: int = Field(ge=0, le=1000)
    samples_ms: tuple[_SampleMs, ...] = Field(min_length=1, max_length=MAX_SAMPLES)
    load_ms: float = Field(ge=0, le=MAX_SAMPLE_MS)
    peak_rss_bytes: int | None = Field(default=None, ge=0, lt=2**63)
    profile: tuple[OperatorTime, ...] | None = Field(default=None, max_length=MAX_OPERATORS)
    host: Host


class FailureReport(BaseModel):
    """Why a device could not measure, in the words of what refused."""

    model_config = _STRICT

    reason: Literal["load", "run", "crash", "timeout", "download", "storage"] = Field(
        description="load, run: the runtime refused; crash: its process died; storage: the device's disk."
    )
    detail: str = Field(min_length=1, max_length=4000)


def read(kind: type[_Asked], given: object) -> _Asked:
    """Read a request of this kind.

    Raises:
        ValidationFailed: it is none; `errors` points at each field.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise spec_refusal(error.errors(include_url=False, include_input=False)) from error


def presence(
    seen_at: datetime | None, now: datetime, *, revoked: bool, stale_after: timedelta, gone_after: timedelta
) -> DeviceState:
    """Say how present a device is from when its agent last called."""
    if revoked:
        return DeviceState.REVOKED
    if seen_at is None:
        return DeviceState.NEW
    silence = now - seen_at
    if silence <= stale_after:
        return DeviceState.ONLINE
    return DeviceState.STALE if silence <= gone_after else DeviceState.GONE
