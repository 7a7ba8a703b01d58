"""The nouns that every stage shares. Frozen, numpy only: no torch, no service.

A *unit* is what is kept or cut as a whole: one channel index in every tensor that is tied to it. Units are numbered
0..num_units-1 over the whole graph. Along each axis of each initializer or value, an integer array says which unit
every position belongs to; `FROZEN` (-1) marks positions that always stay. A *group* is a run of exchangeable units:
they occur on exactly the same axes.

In attention units cross: a channel lies in the unit of its position inside the head (the same position of all heads)
and in the unit of its whole head. It stays when both stay. What a layer makes out of positions lies across channels
alike. Units that are whole heads, or lie across in this way, have the highest numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[np.generic]
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

FROZEN: Final = -1


class Phase(StrEnum):
    """Where an attempt is; the words of the API."""

    INSPECT = "inspect"
    LOAD = "load"
    GROUP = "group"
    SCORE = "score"
    ALLOCATE = "allocate"
    CUT = "cut"
    COMPENSATE = "compensate"
    FINETUNE = "finetune"
    EXPORT = "export"
    VERIFY = "verify"
    MEASURE = "measure"


class Role(StrEnum):
    """What a tagged axis does to the units on it."""

    PRODUCE = "produce"  # output axis of Conv, Gemm, ...: the unit is computed here
    CONSUME = "consume"  # input axis: the unit is read here; zeros here are exactly removal
    THROUGH = "through"  # per-channel constant: bias, BatchNormalization, depthwise filter, slope


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output of a network: its name, numpy dtype and shape."""

    name: str
    dtype: str  # numpy's name: "float32", "float16", "uint8", ...
    shape: tuple[int | str | None, ...]  # a symbolic axis is its name, an unknown one None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitializerAxis:
    """One axis of one initializer and the unit at each of its positions."""

    initializer: str
    axis: int
    node: str
    role: Role
    units: IntArray  # (axis length,), unit number or FROZEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Exchangeable units: `start <= unit < stop`, all on the same axes."""

    id: str
    start: int
    stop: int
    producers: tuple[str, ...]  # node names
    consumers: tuple[str, ...]  # node names
    crosses: bool = False  # its units lie across those of other groups, see Grouping.head_axes
    whole_heads: bool = False  # they are whole attention heads, which cross the units inside of them

    @property
    def width(self) -> int:
        """Number of units."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A node whose channels stay, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Everything that label propagation found out about a graph."""

    num_units: int
    groups: tuple[Group, ...]  # partition 0..num_units-1, ordered by start
    initializer_axes: tuple[InitializerAxis, ...]
    value_axes: Mapping[
        str, Mapping[int, IntArray]
    ]  # value name -> axis -> unit at each position; axes without units left out
    frozen: tuple[Frozen, ...]
    head_axes: Mapping[str, Mapping[int, IntArray]] = field(default_factory=dict)  # the same for groups that cross

    @property
    def first_crossing(self) -> int:
        """Number of the first unit that lies across others; `num_units` where there is none."""
        return next((group.start for group in self.groups if group.crosses), self.num_units)

    def units_of(self, value: str) -> tuple[tuple[int, IntArray], ...]:
        """Axes of a value and the units on them; an axis on which heads and positions inside them lie comes twice."""
        return (*self.value_axes.get(value, {}).items(), *self.head_axes.get(value, {}).items())

    def widths(self, keep: "Keep") -> tuple[int, ...]:
        """Units that each group keeps."""
        return tuple(int(keep.mask[group.start : group.stop].sum()) for group in self.groups)

    def kept(self, value: str, axis: int, keep: "Keep") -> BoolArray | None:
        """Which positions along an axis of a value stay; None where no units lie on it."""
        stays: BoolArray | None = None
        for where, units in self.units_of(value):
            if where == axis:
                here = np.asarray((units == FROZEN) | keep.mask[units])
                stays = here if stays is None else stays & here
        return stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What each unit is worth: the damage expected from its removal, never negative."""

    values: FloatArray  # (num_units,)
    source: str  # e.g. "information_gain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Which units stay."""

    mask: BoolArray  # (num_units,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one inference at batch 1 costs. One MAC is one multiply-add; FLOPs are 2 x MACs."""

    macs: int
    params: int
    size_bytes: int
    peak_activation_bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of two parts that run one after the other."""
        return Cost(
            macs=self.macs + other.macs,
            params=self.params + other.params,
            size_bytes=self.size_bytes + other.size_bytes,
            peak_activation_bytes=max(self.peak_activation_bytes, other.peak_activation_bytes),
        )


NOTHING: Final = Cost(macs=0, params=0, size_bytes=0, peak_activation_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """Length of an axis as a function of kept widths: fixed + sum over groups of multiplicity x kept."""

    fixed: int
    parts: tuple[tuple[int, int], ...] = ()  # (group index, positions per unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A product: coefficient x the lengths of its axes."""

    coefficient: float
    lengths: tuple[Length, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Cost of any Keep from its kept widths alone, without touching the graph; exact, multilinear.

    `peak` holds, for each step of the schedule, the terms of the bytes that are live then; the peak is the largest sum.
    """

    widths: tuple[int, ...]  # units per group before pruning
    macs: tuple[Term, ...]
    params: tuple[Term, ...]
    size_bytes: tuple[Term, ...]
    peak: tuple[tuple[Term, ...], ...]
    single: tuple[int, ...] = ()  # groups whose units go one at a time however widths are rounded: whole heads


class Metric(StrEnum):
    """What a budget limits."""

    MACS = "macs"
    PARAMS = "params"
    SIZE_BYTES = "size_bytes"
    PEAK_ACTIVATION_BYTES = "peak_activation_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A target in absolute figures: the metric may not exceed `limit`."""

    metric: Metric
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBudget:
    """A target for the time of one run on a named device: `limit_ms`, or `ratio` of what the original takes there.

    A noun of its own: other budgets limit what is counted exactly from the widths, this one what is only predicted
    until the device has measured it. Exactly one of the two figures is given.
    """

    device: str
    limit_ms: float | None = None
    ratio: float | None = None
    relaxed_by: float = 0.0  # share of the way from this target back to the original


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedLayer:
    """What one layer is predicted to take on a device, as a function of the kept widths of all groups."""

    node: str
    groups: tuple[int, ...]  # indices of the groups that it depends on
    ms: Callable[[Sequence[int]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyLimit:
    """A latency budget as a planner needs it: predicted layer by layer, the sum at most `limit_ms`."""

    device: str
    limit_ms: float
    layers: tuple[TimedLayer, ...]
    steps: tuple[int, ...]  # units that each group best gives up at a time on this device
    finer: bool = True  # whether widths may lie between these steps where none in steps uses the limit up


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Latency of one network on one host; every sample is kept."""

    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    load_ms: float
    warmup: int
    batch: int
    threads: int
    runtime: str
    runtime_version: str
    provider: str
    host: Mapping[str, Json]
    peak_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedNetwork:
    """What a stopwatch is asked to time: a network of the job, or the graph of one row of a latency table."""

    name: str  # tells the networks of one question apart
    content: bytes  # an ONNX file
    kind: Literal["network", "layer"]
    key: str | None = None  # of a layer: its row in the latency table


class Stopwatch(Protocol):
    """A device that times networks, always with the same runtime, threads and batch."""

    @property
    def device(self) -> str:
        """Its id."""

    @property
    def batch(self) -> int:
        """Samples per run, for networks whose batch axis is free."""

    def known(self) -> Mapping[str, float]:
        """Rows of the latency table that this device has timed before under the same conditions: key to median ms."""

    def time(self, networks: Sequence[TimedNetwork]) -> Mapping[str, Measurement]:
        """Time networks in turn with each other, by name; waits until the device has answered.

        Raises:
            DeviceGone: the device did not answer in the time allowed.
        """


class Report(Protocol):
    """Tell how far a phase is; raises the caller's own exception when the work is to stop."""

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
        """Report `fraction` (0..1) of `phase`; call often, the receiver limits the rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memo:
    """The stored result of an expensive step: arrays and plain JSON, nothing executable."""

    arrays: Mapping[str, AnyArray] = field(default_factory=dict)
    state: Mapping[str, Json] = field(default_factory=dict)


class Journal(Protocol):
    """Where expensive steps leave their results, so that a killed attempt resumes behind them."""

    def recall(self, step: str) -> Memo | None:
        """Return what an earlier attempt recorded for `step`, or None."""

    def record(self, step: str, memo: Memo) -> None:
        """Keep `memo` for `step`, replacing an older one; durable when it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The hidden inputs of a run, made visible."""

    seed: int
    num_threads: int
    device: str  # torch device, "cpu" or "cuda"
    report: Report
    journal: Journal
    clock: Callable[[], float]  # monotonic seconds
    stopwatches: Mapping[str, Stopwatch] = field(default_factory=dict)  # by device id
    memory_bytes: int | None = None  # that may still be taken; None: not limited
