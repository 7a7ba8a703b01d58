"""The cost of any choice of widths, and whether it holds the budgets."""

from collections.abc import Iterable, Sequence
from math import ceil

from workers.pruning.allocation.alignment import blocks_for, steps_for
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, Cost, CostModel, Length, Metric, Term


def cost(model: CostModel, kept: Sequence[int]) -> Cost:
    """Cost of one inference at batch 1 when group q keeps `kept[q]` units.

    Source: every MAC and every parameter belongs to one product of axis lengths, so cost is multilinear in the widths.
    """
    return Cost(
        macs=round(total(model.macs, kept)),
        params=round(total(model.params, kept)),
        size_bytes=round(total(model.size_bytes, kept)),
        peak_activation_bytes=round(max((total(step, kept) for step in model.peak), default=0.0)),
    )


def total(terms: Iterable[Term], kept: Sequence[int]) -> float:
    """Sum of products of lengths at these widths."""
    return sum(_value(term, kept) for term in terms)


def _value(term: Term, kept: Sequence[int]) -> float:
    value = term.coefficient
    for length in term.lengths:
        value *= length_at(length, kept)
    return value


def length_at(length: Length, kept: Sequence[int]) -> int:
    """Length of an axis at these widths."""
    return length.fixed + sum(positions * kept[group] for group, positions in length.parts)


def figure(cost: Cost, metric: Metric) -> int:
    """One metric of a cost."""
    return int(getattr(cost, metric.value))


def holds(cost: Cost, budgets: Iterable[Budget]) -> bool:
    """Whether no budget is exceeded."""
    return all(figure(cost, budget.metric) <= budget.limit for budget in budgets)


def floor_widths(model: CostModel, min_keep: float, round_to: int | None) -> tuple[int, ...]:
    """Fewest units that each group may keep: the share `min_keep`, rounded up to a step, never none, never above all.

    With `round_to` None the step is chosen later, and small enough to reach whatever can be reached: floors of step 1.
    """
    steps = steps_for(model, round_to or 1)
    return tuple(floor_of(width, min_keep, step) for width, step in zip(model.widths, steps, strict=True))


def aligned_floors(model: CostModel, min_keep: float) -> tuple[int, ...]:
    """Fewest units that each group may keep where the runtime's blocks are to stay filled."""
    shapes = zip(model.widths, steps_for(model, None), blocks_for(model, None), strict=True)
    return tuple(max(floor_of(width, min_keep, step), min(width, block)) for width, step, block in shapes)


def floor_of(width: int, min_keep: float, step: int) -> int:
    """Fewest units of one group."""
    least = max(1, ceil(min_keep * width - 1e-9))
    return min(width, ceil(least / step) * step)


def reachable(model: CostModel, *, min_keep: float = 0.1, round_to: int | None = None) -> dict[Metric, int]:
    """Smallest value that every metric can reach: that with all groups at their floor."""
    least = cost(model, floor_widths(model, min_keep, round_to))
    return {metric: figure(least, metric) for metric in Metric}


def require_reachable(model: CostModel, budgets: Sequence[Budget], *, min_keep: float, round_to: int | None) -> None:
    """Refuse budgets that even the floor exceeds.

    Raises:
        TargetUnreachable: names every such budget and the smallest value of every metric.
    """
    smallest = reachable(model, min_keep=min_keep, round_to=round_to)
    missed = [budget for budget in budgets if smallest[budget.metric] > budget.limit]
    if missed:
        full = cost(model, model.widths)
        raise TargetUnreachable(
            "The target cannot be reached",
            where=", ".join(budget.metric.value for budget in missed),
            actual="smallest reachable "
            + ", ".join(f"{m.value} {n:,} ({_share(n, figure(full, m))})" for m, n in smallest.items()),
            allowed=", ".join(f"{budget.metric.value} {budget.limit:,.0f}" for budget in missed),
            advice=f"Ask for more, or lower min_keep (now {min_keep:g}).",
        )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "all"
