"""What a cut would cost, from the analysis alone: the cost model of a network, evaluated without touching it.

The model is the JSON that analysing a network leaves: for each cost a list of terms `[coefficient, lengths]`, where a
length is `[fixed, [[group, positions per channel], ...]]` and a term is the coefficient times all its lengths. It is
exact, and small enough to answer while a request waits. Units: MACs at batch 1, bytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain.methods import ExportOptions
from app.domain.target import Metric, Target, targets_text
from app.errors import FieldError, TargetUnreachable

_Length = tuple[float, tuple[tuple[int, float], ...]]
_Term = tuple[float, tuple[_Length, ...]]
_BISECTIONS: Final = 40
Costs = Mapping[Metric, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """The costs of a network as functions of how many channels each group keeps."""

    widths: tuple[int, ...]
    group_ids: tuple[str, ...]
    macs: tuple[_Term, ...]
    params: tuple[_Term, ...]
    size_bytes: tuple[_Term, ...]
    peak: tuple[tuple[_Term, ...], ...]
    single: frozenset[int] = frozenset()  # groups whose units go one at a time: whole attention heads


def read_cost_model(given: Mapping[str, Any]) -> CostModel:
    """Give the cost model of an analysis' `cost_model` member."""
    return CostModel(
        widths=tuple(int(width) for width in given["widths"]),
        group_ids=tuple(str(name) for name in given["group_ids"]),
        macs=_terms(given["macs"]),
        params=_terms(given["params"]),
        size_bytes=_terms(given["size_bytes"]),
        peak=tuple(_terms(step) for step in given["peak"]),
        single=frozenset(int(group) for group in given.get("single", ())),
    )


def costs(model: CostModel, kept: Sequence[int]) -> Costs:
    """Give every cost where group `i` keeps `kept[i]` channels."""
    macs = _total(model.macs, kept)
    return {
        Metric.MACS: macs,
        Metric.FLOPS: 2 * macs,
        Metric.PARAMS: _total(model.params, kept),
        Metric.SIZE_BYTES: _total(model.size_bytes, kept),
        Metric.PEAK_ACTIVATION_BYTES: max((_total(step, kept) for step in model.peak), default=0.0),
    }


def floor_widths(model: CostModel, limits: ExportOptions) -> tuple[int, ...]:
    """Give the fewest channels each group may keep: its share, at least one, rounded up, never more than it has.

    `round_to` null means that the width is chosen later, so the smallest legal one counts here: what is refused at the
    door must be unreachable under every choice.
    """
    return tuple(
        min(width, math.ceil(max(1, math.ceil(limits.min_keep * width - 1e-9)) / step) * step)
        for width, step in zip(model.widths, _steps(model, limits.round_to or 1), strict=True)
    )


def _steps(model: CostModel, round_to: int) -> tuple[int, ...]:
    """Give, per group, how many units make a multiple of `round_to` channels in the narrowest tensor they lie in.

    A unit may be several channels there, as before a pixel shuffle; the attempt counts in the same way.
    """
    found: list[list[tuple[float, int]]] = [[] for _ in model.widths]
    for _, lengths in model.macs:
        for fixed, parts in lengths:
            whole = fixed + sum(times * model.widths[group] for group, times in parts)
            for group, times in parts:
                found[group].append((whole, int(times)))
    return tuple(
        1 if group in model.single else round_to // math.gcd(round_to, min(tensors, default=(0, 1))[1])
        for group, tensors in enumerate(found)
    )


def reachable(model: CostModel, limits: ExportOptions) -> Costs:
    """Give the smallest value of each cost that pruning can reach."""
    return costs(model, floor_widths(model, limits))


def reachable_range(model: CostModel, limits: ExportOptions) -> dict[str, object]:
    """Give, for each cost, the original's value, the smallest reachable one, and their ratio."""
    before, least = costs(model, model.widths), reachable(model, limits)
    return {
        metric.value: {
            "before": int(before[metric]),
            "smallest": int(least[metric]),
            "min_ratio": least[metric] / before[metric] if before[metric] else 1.0,
        }
        for metric in before
    }


def check_reachable(
    model: CostModel, targets: Sequence[Target], limits: ExportOptions, pointer: str = "/target"
) -> None:
    """Pass if some cut holds every target that can be counted; what a device takes is not known before it measured.

    Raises:
        TargetUnreachable: even the smallest network is above one of them; states the smallest reachable value.
    """
    before, least = costs(model, model.widths), reachable(model, limits)
    for target in counted(targets):
        limit, smallest = target.limit(before[target.metric]), least[target.metric]
        if smallest > limit * (1 + 1e-12):
            raise _unreachable(target, before[target.metric], smallest, pointer)


def counted(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Give the targets whose figure follows from the widths alone: all but latencies."""
    return tuple(target for target in targets if target.metric is not Metric.LATENCY_MS)


def _unreachable(target: Target, before: float, smallest: float, pointer: str) -> TargetUnreachable:
    name, limit, share = target.metric.value, target.limit(before), smallest / before if before else 1.0
    detail = (
        f"The target {target.text()} allows {limit:.0f} {name} of {before:.0f}; the smallest reachable is "
        f"{smallest:.0f} ({_percent_up(share)} of the original)."
    )
    return TargetUnreachable(
        detail,
        advice=f"Ask for {name}={_percent_up(share)} or more, or lower export.min_keep or export.round_to.",
        errors=[FieldError(pointer=pointer, message=f"smallest reachable: {smallest:.0f} {name}")],
        extra={
            "metric": name,
            "smallest_reachable": smallest,
            "smallest_reachable_ratio": share,
            "asked": limit,
            "before": before,
        },
    )


def _percent_up(share: float) -> str:
    """A percentage rounded up, so that asking for what is printed is reachable."""
    return f"{min(100.0, math.ceil(share * 1000) / 10):g}%"


def estimate(model: CostModel, targets: Sequence[Target], limits: ExportOptions) -> dict[str, Any]:
    """Predict the cost of meeting the targets by cutting every group by the same share.

    A method cuts some groups more than others, so its result meets the target with other figures for the costs that
    were not asked for; the share is found by bisection. Latencies have no part in it.
    """
    before, kept = costs(model, model.widths), _uniform(model, counted(targets), limits)
    after = costs(model, kept)
    names = [Metric.MACS, Metric.FLOPS, Metric.PARAMS, Metric.SIZE_BYTES, Metric.PEAK_ACTIVATION_BYTES]
    return {
        "target": targets_text(targets),
        "assumption": "every group keeps the same share of its channels",
        "before": {metric.value: int(before[metric]) for metric in names},
        "after": {metric.value: int(after[metric]) for metric in names},
        "ratios": {metric.value: after[metric] / before[metric] if before[metric] else 1.0 for metric in names},
        "groups": [
            {"id": name, "before": width, "after": left}
            for name, width, left in zip(model.group_ids, model.widths, kept, strict=True)
        ],
    }


def _uniform(model: CostModel, targets: Sequence[Target], limits: ExportOptions) -> tuple[int, ...]:
    before = costs(model, model.widths)
    floors, steps = floor_widths(model, limits), _steps(model, limits.round_to or 1)

    def kept(share: float) -> tuple[int, ...]:
        return tuple(
            min(width, max(floor, int(share * width) // step * step))
            for width, floor, step in zip(model.widths, floors, steps, strict=True)
        )

    def holds(share: float) -> bool:
        after = costs(model, kept(share))
        return all(after[target.metric] <= target.limit(before[target.metric]) for target in targets)

    low, high = 0.0, 1.0
    if holds(high):
        return model.widths
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return kept(low)


def _total(terms: Sequence[_Term], kept: Sequence[int]) -> float:
    return math.fsum(
        coefficient * math.prod(fixed + sum(times * kept[group] for group, times in parts) for fixed, parts in lengths)
        for coefficient, lengths in terms
    )


def _terms(given: Sequence[Any]) -> tuple[_Term, ...]:
    return tuple(
        (
            float(coefficient),
            tuple((float(fixed), tuple((int(g), float(m)) for g, m in parts)) for fixed, parts in lengths),
        )
        for coefficient, lengths in given
    )
