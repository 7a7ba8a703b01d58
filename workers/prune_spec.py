"""What a prune job asks of the engine, read from the plain JSON that the service stores with the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.errors import PruningError
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Cost, Json, Metric

_FINETUNE_FIELDS: Final = ("steps", "epochs", "batch_size", "learning_rate", "distillation", "temperature")


class UnsupportedTarget(PruningError):
    """A target that this version cannot aim at."""

    code = "unsupported-target"
    title = "The target cannot be aimed at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One limit: the share that remains, or an absolute figure; flops are 2 x macs."""

    metric: str
    ratio: float | None = None
    value: float | None = None

    def budget(self, before: Cost) -> Budget:
        """Give the limit in absolute figures.

        Raises:
            UnsupportedTarget: a latency, which this version measures but does not aim at.
        """
        metric, per_unit = (Metric.MACS, 0.5) if self.metric == "flops" else (_metric(self.metric), 1.0)
        if self.ratio is not None:
            return Budget(metric=metric, limit=self.ratio * float(getattr(before, metric.value)))
        return Budget(metric=metric, limit=per_unit * (self.value if self.value is not None else float("inf")))

    def text(self) -> str:
        """Give the target in the short form of the API."""
        amount = f"{100 * self.ratio:.6g}%" if self.ratio is not None else f"{self.value:.12g}"
        return f"{self.metric}={amount}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSpec:
    """A prune job without the service's ids: one artifact per entry of `target_sets`."""

    target_sets: tuple[tuple[Target, ...], ...]
    method: str = "auto"
    options: Mapping[str, Json] = field(default_factory=dict)
    preprocessing: Mapping[str, Json] | None = None
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    max_accuracy_drop: float | None = None
    round_to: int | None = None
    min_keep: float = 0.1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    measure: bool = True

    @staticmethod
    def from_json(spec: Mapping[str, Json]) -> "PruneSpec":
        """Read a job's spec as the service stores it; fields that only the service needs are passed over."""
        sets = spec.get("targets")
        given = [_mapping(spec, "export"), _mapping(spec, "finetune"), _mapping(spec, "options")]
        export, finetune, options = given
        return PruneSpec(
            target_sets=tuple(_targets(entry) for entry in (_list(sets) if sets else [spec.get("target")])),
            method=str(spec.get("method", "auto")),
            options=options,
            preprocessing=_mapping(spec, "preprocessing") or None,
            finetune=FinetuneSettings(**{name: finetune.get(name) for name in _FINETUNE_FIELDS}),  # type: ignore[arg-type]  # the service validated the types
            max_accuracy_drop=_number(spec.get("max_accuracy_drop")),
            round_to=None if export.get("round_to") is None else int(_number(export["round_to"]) or 1),
            min_keep=0.1 if export.get("min_keep") is None else _number(export["min_keep"]) or 0.0,
            include=tuple(str(pattern) for pattern in _list(export.get("include") or spec.get("include"))),
            exclude=tuple(str(pattern) for pattern in _list(export.get("exclude") or spec.get("exclude"))),
        )


def _metric(name: str) -> Metric:
    if name == "latency_ms":
        raise UnsupportedTarget(
            "A latency cannot be aimed at yet; it is measured before and after every job",
            where="target",
            actual=name,
            allowed="flops, macs, params, size_bytes, peak_activation_bytes",
            advice="Ask for flops, and read the latency from the result.",
        )
    return Metric(name)


def _targets(given: Json) -> tuple[Target, ...]:
    entries = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(_target(entry) for entry in entries)


def _target(given: Json) -> Target:
    if not isinstance(given, Mapping):
        raise TypeError(f"a stored target is an object, found {type(given).__name__}")
    return Target(metric=str(given["metric"]), ratio=_number(given.get("ratio")), value=_number(given.get("value")))


def _mapping(spec: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    value = spec.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None
