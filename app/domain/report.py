"""What a finished attempt states: costs before and after, how the network changed, what was measured and on what."""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

_OPEN = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
_CLOSED = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0)]
MAX_OPERATORS: Final = 2000  # of one profile
MAX_KEY: Final = 2000  # characters


class MeasuredKind(StrEnum):
    """What was timed."""

    NETWORK = "network"
    LAYER = "layer"  # a micro-graph of one operator; its key says of which shapes


class OperatorTime(BaseModel):
    """What one operator of a network took, as the runtime's own profile tells."""

    model_config = _CLOSED

    node: str = Field(max_length=1024)
    operator: str = Field(max_length=255)
    provider: str = Field(max_length=255)
    ms: float = Field(ge=0, description="Mean of a run; profiling slows a run down, so the sum exceeds the latency.")


class Figures(BaseModel):
    """One network's costs and quality. Accuracy and agreement are shares, in 0..1."""

    model_config = _OPEN

    macs: _Count
    flops: _Count
    params: _Count
    size_bytes: _Count
    peak_activation_bytes: _Count
    accuracy: float | None = None
    agreement: float | None = None
    latency_ms: float | None = None


class LayerChange(BaseModel):
    """One layer's output channels, before and after."""

    model_config = _OPEN

    name: str
    kind: str
    before: _Count
    after: _Count


class Result(BaseModel):
    """The `result` of a prune job, as the API gives it; artifacts are added when they have ids."""

    model_config = _OPEN

    before: Figures
    after: Figures
    target_met: bool
    stopped_by: str
    layers: tuple[LayerChange, ...] = ()
    curve: tuple[dict[str, Any], ...] = ()
    timing: dict[str, float] = {}
    parity: dict[str, Any] = {}
    warnings: tuple[Any, ...] = ()


class MeasurementReport(BaseModel):
    """A latency as it was measured: every sample, and what ran it. Times in milliseconds."""

    model_config = _CLOSED

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the ONNX bytes that were timed.")
    device: str = "dev_local"
    runtime: str
    runtime_version: str
    provider: str
    threads: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    warmup: _Count
    samples_ms: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    load_ms: float
    peak_rss_bytes: _Count | None = None
    host: dict[str, Any]
    kind: MeasuredKind = MeasuredKind.NETWORK
    key: str | None = Field(default=None, max_length=MAX_KEY, description="Of a layer: its operator and shapes.")
    profile: tuple[OperatorTime, ...] | None = Field(default=None, description="Where it was asked for.")
