"""What a prune job asks of the engine, read from the plain JSON that the service stores with the job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.errors import PruningError
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Cost, Json, LatencyBudget, Metric

LOCAL: Final = "dev_local"  # the worker's own processor
LATENCY: Final = "latency_ms"
_FINETUNE_FIELDS: Final = ("steps", "epochs", "batch_size", "learning_rate", "distillation", "temperature")


class UnsupportedTarget(PruningError):
    """A job that says neither how small nor how good."""

    code = "unsupported-target"
    title = "The target cannot be aimed at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One limit: the share that remains, or an absolute figure; flops are 2 x macs."""

    metric: str
    ratio: float | None = None
    value: float | None = None
    device: str = LOCAL  # of a latency

    def budget(self, before: Cost) -> Budget:
        """Give the limit in absolute figures, of whatever is counted; a latency is none of these."""
        metric, per_unit = (Metric.MACS, 0.5) if self.metric == "flops" else (Metric(self.metric), 1.0)
        if self.ratio is not None:
            return Budget(metric=metric, limit=self.ratio * float(getattr(before, metric.value)))
        return Budget(metric=metric, limit=per_unit * (self.value if self.value is not None else float("inf")))

    def text(self) -> str:
        """Give the target in the short form of the API."""
        if self.metric != LATENCY:
            return f"{self.metric}={self._amount()}"
        return f"latency={self._amount()}{'' if self.ratio is not None else 'ms'}@{self.device}"

    def _amount(self) -> str:
        return f"{100 * self.ratio:.6g}%" if self.ratio is not None else f"{self.value:.12g}"


def budgets(targets: Sequence[Target], before: Cost) -> tuple[Budget, ...]:
    """Give the limits of everything that is counted from widths, in absolute figures."""
    return tuple(target.budget(before) for target in targets if target.metric != LATENCY)


def latency_budgets(targets: Sequence[Target]) -> tuple[LatencyBudget, ...]:
    """Give the limits of what only a device can tell."""
    return tuple(
        LatencyBudget(device=target.device, limit_ms=target.value, ratio=target.ratio)
        for target in targets
        if target.metric == LATENCY
    )


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
    head: str = "auto"  # classifier, other
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    measure: bool = True
    devices: tuple[str, ...] = ()  # beside the worker's own processor, that time the original and every artifact
    called: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)  # name and processor of each device

    @staticmethod
    def from_json(spec: Mapping[str, Json]) -> "PruneSpec":
        """Read a job's spec as the service stores it; fields that only the service needs are passed over."""
        sets = spec.get("targets")
        given = [_mapping(spec, "export"), _mapping(spec, "finetune"), _mapping(spec, "options")]
        export, finetune, options = given
        own = str(spec.get("device") or LOCAL)
        target_sets = tuple(_targets(entry, own) for entry in (_list(sets) if sets else [spec.get("target")]))
        return PruneSpec(
            target_sets=target_sets,
            method=str(spec.get("method", "auto")),
            options=options,
            preprocessing=_mapping(spec, "preprocessing") or None,
            finetune=FinetuneSettings(**{name: finetune.get(name) for name in _FINETUNE_FIELDS}),  # type: ignore[arg-type]  # the service validated the types
            max_accuracy_drop=_number(spec.get("max_accuracy_drop")),
            round_to=None if export.get("round_to") is None else int(_number(export["round_to"]) or 1),
            min_keep=0.1 if export.get("min_keep") is None else _number(export["min_keep"]) or 0.0,
            head=str(spec.get("head") or "auto"),
            include=tuple(str(pattern) for pattern in _list(export.get("include") or spec.get("include"))),
            exclude=tuple(str(pattern) for pattern in _list(export.get("exclude") or spec.get("exclude"))),
            devices=_devices(target_sets, own, _list(spec.get("measure_on"))),
            called={name: known for name, known in _mapping(spec, "called").items() if isinstance(known, Mapping)},
        )


def _devices(target_sets: Sequence[Sequence[Target]], own: str, more: Sequence[Json]) -> tuple[str, ...]:
    aimed = (target.device for targets in target_sets for target in targets if target.metric == LATENCY)
    return tuple(dict.fromkeys(name for name in (*aimed, own, *map(str, more)) if name != LOCAL))


def _targets(given: Json, own: str) -> tuple[Target, ...]:
    if given is None:  # an accuracy to hold is all that is asked
        return ()
    entries = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return tuple(_target(entry, own) for entry in entries)


def _target(given: Json, own: str) -> Target:
    if not isinstance(given, Mapping):
        raise TypeError(f"a stored target is an object, found {type(given).__name__}")
    metric, ratio, value = str(given["metric"]), _number(given.get("ratio")), _number(given.get("value"))
    device = str(given.get("device") or own) if metric == LATENCY else LOCAL
    return Target(metric=metric, ratio=ratio, value=value, device=device)


def _mapping(spec: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    value = spec.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) else None
