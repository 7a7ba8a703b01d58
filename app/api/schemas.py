"""The documents that the API answers with, as pydantic models: no rules, no queries. Requests are app.domain's JobSpec.

Documents that workers write (analysis, result) allow more fields than are named here: a newer worker may say more.
"""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.domain import report
from app.domain.job import InputState, JobState, Phase
from app.domain.methods import MethodName
from app.domain.target import Metric

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
DocumentT = TypeVar("DocumentT", bound=BaseModel)


class Document(BaseModel):
    """An answer: exactly the fields that are named."""

    model_config = ConfigDict(extra="forbid")


class OpenDocument(BaseModel):
    """An answer that may say more than is named."""

    model_config = ConfigDict(extra="allow")


class ProblemField(Document):
    """One thing in the request that is wrong."""

    pointer: str = Field(description="JSON pointer to the field, or to the parameter's name.")
    message: str


class Problem(OpenDocument):
    """Why a request, a model or a job failed (RFC 9457)."""

    type: str = Field(description="Stable slug of the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str = Field(default="", description="Id of the request, as in X-Request-ID.")
    errors: list[ProblemField] = []
    retryable: bool = Field(description="Whether the same request may succeed later.")


class JobProblem(OpenDocument):
    """Why a job, a model or a dataset failed: a problem without a request."""

    type: str
    title: str
    detail: str
    status: int | None = None
    retryable: bool = False


class Tensor(OpenDocument):
    """An input or output of a network; a dimension that may vary is a name."""

    name: str
    dtype: str
    shape: list[int | str | None]


class PrunableGroup(OpenDocument):
    """Channels that live and die together."""

    id: str | int
    channels: int
    layers: list[str]
    share_of_macs: float
    sensitivity: float | None = Field(
        default=None,
        description="How far the outputs move, relative to their size, when the weaker half of these channels goes and "
        "nothing is repaired; measured on made-up inputs, to compare groups by. Null where it was not measured.",
    )


class Frozen(OpenDocument):
    """A node whose channels must stay, and why."""

    node: str
    reason: str


class Reachable(OpenDocument):
    """The smallest share of each cost that pruning can leave."""

    macs_min_ratio: float | None = None
    params_min_ratio: float | None = None
    size_min_ratio: float | None = None


class Speed(OpenDocument):
    """How long a forward pass takes the service itself, not the device that the network is for."""

    seconds_per_run: float
    seconds_per_sample: float
    threads: int


class Analysis(OpenDocument):
    """What is known of a network before anything is pruned. `flops` = 2 x `macs`."""

    opset: int | None = None
    producer: str | None = None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    macs: int | None = None
    flops: int | None = None
    params: int | None = None
    size_bytes: int | None = None
    peak_activation_bytes: int | None = None
    num_nodes: int | None = None
    op_types: dict[str, int] = {}
    prunable_groups: list[PrunableGroup] = []
    frozen: list[Frozen] = []
    reachable: Reachable | None = None
    head: str | None = None
    speed: Speed | None = None
    warnings: list[str] = []


class ExternalData(Document):
    """The file that holds the weights of a network which lie outside of its ONNX file."""

    sha256: str = Sha256
    size_bytes: int


class Model(Document):
    """A network that was uploaded."""

    id: str
    name: str
    sha256: str = Sha256
    size_bytes: int
    created_at: datetime
    state: InputState
    problem: JobProblem | None = None
    external_data: ExternalData | None = None
    analysis: Analysis | None = None


class Dataset(Document):
    """Data that was uploaded; what it holds is known once it is ready."""

    id: str
    name: str
    sha256: str = Sha256
    size_bytes: int
    created_at: datetime
    state: InputState
    problem: JobProblem | None = None
    kind: str | None = None
    num_samples: int | None = None
    num_classes: int | None = None
    shape: list[Any] | None = None
    dtype: str | None = None
    splits: dict[str, Any] | None = None


class TargetDocument(Document):
    """One limit of a job: what remains, as a share or an absolute figure."""

    metric: Metric
    ratio: float | None = None
    value: float | None = None
    device: str | None = None


class Progress(Document):
    """How far a job is."""

    phase: Phase | None = None
    fraction: float = Field(ge=0, le=1)
    eta_seconds: float | None = None
    message: str | None = None
    metrics: dict[str, Any] = {}


class Result(report.Result):
    """What a job reached, and where it is."""

    artifacts: list[dict[str, Any]] = Field(default=[])


class Links(OpenDocument):
    """Where to go from a job."""

    self: str
    events: str
    artifacts: str
    cancel: str


class Job(Document):
    """A pruning job: what was asked, how far it is, how it ended."""

    id: str
    name: str | None = None
    metadata: dict[str, str] | None = None
    state: JobState
    method: MethodName
    target: list[TargetDocument] | None = None
    targets: list[list[TargetDocument]] | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int
    progress: Progress
    result: Result | None = None
    problem: JobProblem | None = None
    model: str
    dataset: str | None = None
    device: str | None = None
    links: Links


class ExpectedTime(Document):
    """How long the job should take, as a range; by phase, the middle of it. Null where nothing can be said."""

    seconds: tuple[float, float]
    phases: dict[str, float]
    assumption: str


class Estimate(Document):
    """What a job would reach: every group cut by the same share; a method cuts some more than others."""

    model: str
    prunable_groups: list[PrunableGroup]
    frozen: list[Frozen]
    reachable: dict[str, dict[str, float]]
    predictions: list[dict[str, Any]]
    expected_time: ExpectedTime | None = None
    latencies: list[dict[str, Any]] = Field(default=[], description="Targets that only their device can judge.")
    refusals: list[JobProblem]


class Event(Document):
    """One entry of a job's log; `seq` counts from 1 without gaps."""

    seq: int
    type: str
    data: dict[str, Any]
    created_at: datetime


class ArtifactLinks(Document):
    """Where an artifact and its bytes are."""

    self: str
    content: str


class Artifact(Document):
    """A file that a job made; its bytes never change."""

    id: str
    job: str
    kind: str
    name: str
    target: list[TargetDocument] | None = None
    sha256: str = Sha256
    size_bytes: int
    created_at: datetime
    summary: dict[str, Any]
    links: ArtifactLinks


class Page(Document, Generic[DocumentT]):
    """Some entries of a list; `last_id` is what `after` takes to go on."""

    data: list[DocumentT]
    has_more: bool
    last_id: str | int | None


class Check(OpenDocument):
    """One thing that readiness looked at."""

    status: Literal["ok", "degraded", "failed"]
    detail: str = ""


class Readiness(Document):
    """Whether the service can do its work, and what was looked at."""

    status: Literal["ready", "degraded"]
    checks: dict[str, Check]


class Liveness(Document):
    """The process answers."""

    status: Literal["alive"]
