"""A latency on a device as the target: plan on predictions, measure on the device, correct, plan again.

Nothing is trained meanwhile: latency depends on widths alone, so the network is compensated and trained once, when the
device has said that its widths hold the target.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final

import numpy as np

from workers.pruning.allocation.budget import cost, require_reachable
from workers.pruning.allocation.timed import Between, predicted, smallest
from workers.pruning.errors import DeviceGone, TargetUnreachable
from workers.pruning.graph.open_batch import close_batch, fixed_batch
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.trunk import restored
from workers.pruning.groups.lengths import Lengths
from workers.pruning.latency.layers import find
from workers.pruning.latency.model import LatencyModel
from workers.pruning.latency.table import on_one_clock
from workers.pruning.methods.in_turn import InTurn, by_medians, by_ratio
from workers.pruning.methods.latency_groups import by_group
from workers.pruning.methods.pursuit import Pursuit
from workers.pruning.methods.task import Task
from workers.pruning.surgery.cut import cut
from workers.pruning.types import (
    Budget,
    Json,
    Keep,
    LatencyBudget,
    LatencyLimit,
    Measurement,
    Memo,
    Metric,
    Phase,
    TimedNetwork,
)

CORRECTIONS: Final = 3  # of the first plan
SAFE_CORRECTIONS: Final = 3  # more, each further below, where no plan held the target
RESCUES: Final = 4  # more still, each far below
_REPLANS: Final = 40  # plans in all, those that were measured before among them
_AIM: Final = 0.975  # of the target: the middle of the window
_SAFER: Final = 0.95  # of the aim, each time that no plan held
_RESCUE: Final = 0.85  # the same, where that did not help
_ORIGINAL: Final = "original"
_PLAN: Final = "plan"
_NEAR: Final = 0.02  # of the aim, predicted: plans nearer to it are not looked for in wider bounds or finer steps
_IN_WINDOW: Final = 0.025  # the same; what is farther off is predicted to miss the window
_ABOVE: Final = 2.0  # times as bad is what lies above the aim
_ROUNDS: Final = 3  # of planning and timing rows before a plan is measured

Plan = Callable[[Sequence[LatencyLimit], Between | None], Keep]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What stays, and how the device was heard on it."""

    keep: Keep
    facts: Mapping[str, Json]  # by device


@dataclass(slots=True, kw_only=True)
class _Try:
    """A plan that was measured."""

    keep: Keep
    kept: tuple[int, ...]
    measured_ms: dict[str, float]  # by device
    judged_by: dict[str, str]  # by device


def settle(task: Task, plan: Plan) -> Settled:
    """Find widths that take the target's time on its devices, measured there.

    Source: derivation. The model is fitted to the original and to every plan that was measured; what it still misses on
    the last plans also scales the next, which is not far away. Each plan aims at 97.5 % of the target, the middle of
    the window. A plan within 5 % under the target ends the search. Widths are multiples of the device's steps; only
    where none of these is predicted to come near the aim, a few groups go between them, and only if that still comes
    nearer once the rows of these widths were timed. Of several plans that hold, the slowest is taken: it keeps most.

    Args:
        task: with at least one latency budget, whose devices are among the run's stopwatches.
        plan: allocation under limits on predicted latency, from scores that are computed already.

    Raises:
        TargetUnreachable: the smallest network was measured and is too slow, and how fast it is; or a budget is below
            the floor.
        DeviceGone: a device did not answer, or has no stopwatch.
    """
    memo = task.run.journal.recall(f"{task.step_prefix}latency")
    if memo is None:
        require_reachable(task.cost_model, task.budgets, min_keep=task.min_keep, round_to=1)
        settled = _search(task, plan)
        memo = Memo(arrays={"mask": settled.keep.mask}, state={"facts": settled.facts})
        task.run.journal.record(f"{task.step_prefix}latency", memo)
    facts = memo.state["facts"]
    return Settled(
        keep=Keep(mask=memo.arrays["mask"].astype(np.bool_)), facts=facts if isinstance(facts, Mapping) else {}
    )


def stand_in(task: Task) -> tuple[Budget, ...]:
    """MACs at the share of the original's time that is asked for: what searches use before widths are known."""
    full = cost(task.cost_model, task.cost_model.widths).macs
    shares = []
    for budget in task.latency_budgets:
        share = budget.ratio
        if share is None and budget.limit_ms is not None:
            share = budget.limit_ms / _time(task, budget.device, {_ORIGINAL: _content(task, None)})[_ORIGINAL]
        shares.append(min(1.0, share or 1.0))
    return (Budget(metric=Metric.MACS, limit=min(shares, default=1.0) * full),)


def _search(task: Task, plan: Plan) -> Settled:
    pursuits = [_started(task, budget) for budget in task.latency_budgets]
    tries: list[_Try] = []
    aim = _AIM
    for _ in range(_REPLANS):
        task.run.report(Phase.ALLOCATE, min(1.0, len(tries) / (1 + CORRECTIONS)), "widths for the latency")
        keep = _planned(task, pursuits, plan, tries, aim)
        held = any(_held(one, pursuits) for one in tries)
        if keep is None:
            if held:
                break
            aim *= _SAFER
            continue
        one = _measured(task, pursuits, keep)
        tries.append(one)
        held = held or _held(one, pursuits)
        if _held(one, pursuits) and any(pursuit.near(one.measured_ms[pursuit.device]) for pursuit in pursuits):
            break
        if (held and len(tries) > CORRECTIONS) or len(tries) > CORRECTIONS + SAFE_CORRECTIONS + RESCUES:
            break
        if len(tries) > CORRECTIONS:
            aim *= _SAFER if len(tries) <= CORRECTIONS + SAFE_CORRECTIONS else _RESCUE
    chosen = _best(task, pursuits, tries)
    return Settled(
        keep=chosen.keep, facts={pursuit.device: _facts(task, pursuit, chosen, tries) for pursuit in pursuits}
    )


def _started(task: Task, budget: LatencyBudget) -> Pursuit:
    """Learn what the device likes and what the original takes there."""
    if budget.device not in task.run.stopwatches:
        raise DeviceGone(
            "The device has no stopwatch in this run",
            where=budget.device,
            allowed=", ".join(sorted(task.run.stopwatches)) or "none",
        )
    task.run.report(Phase.MEASURE, 0.0, f"layers on {budget.device}")
    watch = task.run.stopwatches[budget.device]
    layers = find(task.graph, Lengths(task.graph, task.grouping).of, batch=fixed_batch(task.uploaded) or watch.batch)
    model = LatencyModel(layers, task.cost_model.widths, watch)
    model.learn()
    task.run.report(Phase.MEASURE, 0.5, f"original on {budget.device}")
    original = _time(task, budget.device, {_ORIGINAL: _content(task, None)})[_ORIGINAL]
    model.time(task.cost_model.widths)
    expected = model.predict(task.cost_model.widths)
    model.observe(_ORIGINAL, task.cost_model.widths, original)
    limit = budget.limit_ms if budget.limit_ms is not None else (budget.ratio or 1.0) * original
    limit += budget.relaxed_by * max(0.0, original - limit)
    return Pursuit(
        budget=budget,
        model=model,
        widths=tuple(task.cost_model.widths),
        original_ms=original,
        predicted_original_ms=expected,
        limit_ms=limit,
    )


def _planned(task: Task, pursuits: Sequence[Pursuit], plan: Plan, tries: Sequence[_Try], aim: float) -> Keep | None:
    """Plan, have the rows of the plan timed, and plan again if there were new ones; None if nothing comes nearer.

    Widths between the steps that a device likes are predicted worst, so a plan with such is taken only where none in
    steps is predicted to land, and only if this one still is once all of its rows were timed, or nothing held so far.
    """
    if not tries:
        return _with_rows(task, pursuits, partial(_first, task, pursuits, plan, aim))
    nearest = min((_miss(task, pursuits, one.kept, aim) for one in tries if _held(one, pursuits)), default=inf)
    best: Keep | None = None
    for finer in (False, True):
        keep = _with_rows(task, pursuits, partial(_chosen, task, pursuits, plan, tries, aim, finer=finer))
        miss = inf if keep is None else _miss(task, pursuits, task.grouping.widths(keep), aim)
        worthwhile = not finer or miss <= _IN_WINDOW or nearest == inf
        if miss < nearest and worthwhile:
            nearest, best = miss, keep
        if best is not None and nearest <= _NEAR:
            break
    return best


def _with_rows(task: Task, pursuits: Sequence[Pursuit], make: Callable[[], Keep | None]) -> Keep | None:
    """Plan until every row of the plan was timed."""
    keep = make()
    for _ in range(_ROUNDS):
        if keep is None or not sum(pursuit.model.time(task.grouping.widths(keep)) for pursuit in pursuits):
            break
        keep = make()
    return keep


def _chosen(
    task: Task, pursuits: Sequence[Pursuit], plan: Plan, tries: Sequence[_Try], aim: float, *, finer: bool
) -> Keep | None:
    """The plan that comes nearest to the aim, within the narrowest bounds that allow it."""
    found: list[tuple[float, Keep]] = []
    for share in (aim, aim * (1.0 + _NEAR / _ABOVE)):
        limits = [pursuit.limit(share, task.round_to, finer=finer) for pursuit in pursuits]
        for between in _bounds(task, pursuits, tries):
            try:
                keep = plan(limits, between)
            except TargetUnreachable:
                continue
            miss = _miss(task, pursuits, task.grouping.widths(keep), aim)
            if miss <= _NEAR:
                return keep
            found.append((miss, keep))
    return min(found, key=lambda each: each[0])[1] if found else None


def _miss(task: Task, pursuits: Sequence[Pursuit], kept: Sequence[int], aim: float) -> float:
    """How far off the aim the predicted time is, relatively, where it is most; above it, it counts twice."""
    limits = [pursuit.limit(aim, task.round_to) for pursuit in pursuits]
    off = max(predicted(limit, kept) / limit.limit_ms for limit in limits) - 1.0
    return -off if off <= 0 else _ABOVE * off


def _bounds(task: Task, pursuits: Sequence[Pursuit], tries: Sequence[_Try]) -> Iterator[Between]:
    """Where the next plan lies: between the largest that held and the smallest that did not, else beyond one."""
    floors, full = smallest(task.cost_model, task.min_keep), tuple(task.cost_model.widths)
    held = [one for one in tries if _held(one, pursuits)]
    missed = [one for one in tries if not _held(one, pursuits)]
    inner = max(held, key=lambda one: _slowness(one, pursuits)).kept if held else floors
    outer = min(missed, key=lambda one: _slowness(one, pursuits)).kept if missed else full
    for low, high in ((inner, outer), (inner, full), (floors, outer), (floors, full)):
        if all(least <= most for least, most in zip(low, high, strict=True)):
            yield Between(inner=low, outer=high, known=frozenset(one.kept for one in tries))


def _first(task: Task, pursuits: Sequence[Pursuit], plan: Plan, aim: float) -> Keep:
    """Plan on predictions; where they say that the target is out of reach, ask the device before believing it."""
    try:
        return plan([pursuit.limit(aim, task.round_to) for pursuit in pursuits], None)
    except TargetUnreachable:
        pass
    floors = smallest(task.cost_model, task.min_keep)
    found = _smallest_measured(task, pursuits)
    missed = [one for one in pursuits if not one.holds(found[one.device])]
    if missed:
        raise TargetUnreachable(
            "The latency cannot be reached",
            where=", ".join(one.device for one in missed),
            actual="smallest measured " + ", ".join(_share(found[one.device], one.original_ms) for one in missed),
            allowed=", ".join(f"{one.limit_ms:.4g} ms" for one in missed),
            advice=f"Ask for more, or lower min_keep (now {task.min_keep:g}).",
        )
    for pursuit in pursuits:
        pursuit.heard_smallest(floors, found[pursuit.device])
    between = Between(inner=floors, outer=tuple(task.cost_model.widths))
    return plan([pursuit.limit(aim, task.round_to) for pursuit in pursuits], between)


def _smallest_measured(task: Task, pursuits: Sequence[Pursuit]) -> dict[str, float]:
    """What the network takes on each device with every group at its floor."""
    content = _content(task, _floor_keep(task, smallest(task.cost_model, task.min_keep)))
    return {one.device: one.ms(_compared(task, one, content)) for one in pursuits}


def _share(ms: float, of: float) -> str:
    return f"{ms:.4g} ms ({ms / of:.0%} of the original)"


def _floor_keep(task: Task, floors: Sequence[int]) -> Keep:
    mask = np.zeros(task.grouping.num_units, np.bool_)
    for group, width in zip(task.grouping.groups, floors, strict=True):
        mask[group.start : group.start + width] = True
    return Keep(mask=mask)


def _measured(task: Task, pursuits: Sequence[Pursuit], keep: Keep) -> _Try:
    content, one = _content(task, keep), _Try(keep=keep, kept=task.grouping.widths(keep), measured_ms={}, judged_by={})
    for pursuit in pursuits:
        task.run.report(Phase.MEASURE, 0.5, f"plan on {pursuit.device}")
        found = _compared(task, pursuit, content)
        one.measured_ms[pursuit.device] = pursuit.ms(found)
        one.judged_by[pursuit.device] = found.judged_by.value
        pursuit.heard(one.kept, pursuit.ms(found))
    return one


def _compared(task: Task, pursuit: Pursuit, content: bytes) -> InTurn:
    """How a network compares with the original, timed in turn with it: in pairs where the target is a ratio."""
    timed = _answers(task, pursuit.device, {_ORIGINAL: _content(task, None), _PLAN: content})
    judge = by_medians if pursuit.budget.ratio is None else by_ratio
    return judge(timed[_ORIGINAL], timed[_PLAN])


def _time(task: Task, device: str, contents: Mapping[str, bytes]) -> dict[str, float]:
    return on_one_clock(_answers(task, device, contents))


def _answers(task: Task, device: str, contents: Mapping[str, bytes]) -> dict[str, Measurement]:
    networks = [TimedNetwork(name=name, content=content, kind="network") for name, content in contents.items()]
    answers = task.run.stopwatches[device].time(networks)
    return {name: answers[name] for name in contents}


def _content(task: Task, keep: Keep | None) -> bytes:
    """The file that the device runs, with the upload's own batch axis."""
    graph = task.graph if keep is None else cut(task.graph, task.grouping, keep)
    closed = close_batch(graph, task.uploaded)
    return to_bytes(closed if task.trunk is None else restored(closed, task.trunk))


def _held(one: _Try, pursuits: Sequence[Pursuit]) -> bool:
    return all(pursuit.holds(one.measured_ms[pursuit.device]) for pursuit in pursuits)


def _slowness(one: _Try, pursuits: Sequence[Pursuit]) -> float:
    """Of its targets, the share that it takes of the one that it is worst at."""
    return max(one.measured_ms[pursuit.device] / pursuit.limit_ms for pursuit in pursuits)


def _best(task: Task, pursuits: Sequence[Pursuit], tries: Sequence[_Try]) -> _Try:
    """Of the plans that hold, the slowest; where none does, the refusal.

    Raises:
        TargetUnreachable: no plan held.
    """
    held = [one for one in tries if _held(one, pursuits)]
    if held:
        return max(held, key=lambda one: _slowness(one, pursuits))
    smallest_ms = _smallest_measured(task, pursuits)
    nearest = min(tries, key=lambda one: _slowness(one, pursuits))
    raise TargetUnreachable(
        f"None of {len(tries)} plans held the latency when it was measured",
        where=", ".join(pursuit.device for pursuit in pursuits),
        actual=", ".join(
            f"nearest {nearest.measured_ms[p.device]:.4g} ms, smallest network {smallest_ms[p.device]:.4g} ms"
            for p in pursuits
        ),
        allowed=", ".join(f"{pursuit.limit_ms:.4g} ms" for pursuit in pursuits),
        advice=f"Ask for more, or lower min_keep (now {task.min_keep:g}).",
    )


def _facts(task: Task, pursuit: Pursuit, chosen: _Try, tries: Sequence[_Try]) -> Json:
    model = pursuit.model
    reached = chosen.measured_ms[pursuit.device]
    return {
        "device": pursuit.device,
        "target_ms": pursuit.limit_ms,
        "target_ratio": pursuit.budget.ratio,
        "original_ms": pursuit.original_ms,
        "original_predicted_ms": pursuit.predicted_original_ms,
        "reached_ms": reached,
        "judged_by": chosen.judged_by[pursuit.device],
        "met": pursuit.holds(reached),
        "within_window": pursuit.near(reached),
        "corrections": max(0, len(tries) - 1),
        "plans": pursuit.corrections,
        "steps": dict(model.steps),
        "prediction_error": model.error,
        "rows_asked": len(model.table.asked),
        "rows_reused": len(model.table.reused),
        "factors": model.factors(chosen.kept),
        "kept": {group.id: width for group, width in zip(task.grouping.groups, chosen.kept, strict=True)},
        "layers": model.dominant(chosen.kept),
        "groups": by_group(
            task.grouping,
            chosen.kept,
            model.group_steps(task.round_to),
            original=model.timed_layers(pursuit.original_ms),
            pruned=model.timed_layers(reached),
        ),
    }
