"""`auto`: coupled optimal-brain-surgeon elimination, closed-form compensation, distillation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

import numpy as np

from workers.pruning.methods import steps
from workers.pruning.methods.steps import Batches
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.scores.brain_surgeon import brain_surgeon
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.types import FloatArray, Json, Memo, Phase, Scores

Order = Literal["obs", "information_gain"]
WithoutData = Literal["auto", "noise", "merge"]
PROBES: Final = 512  # of all calibration samples together, where nothing was asked
REPAIRED_ON: Final = 2  # times as many samples as scores look at: it costs half as much again, and pays
MOST_PROBES: Final = 4  # of one sample
STATISTICS: Final = "statistics"  # the journal's name for what does not depend on the target


class Repair(StrEnum):
    """How what stays takes over the work of what went."""

    STATISTICS = "statistics"
    LEAST_SQUARES = "least_squares"
    MERGING = "merging"
    BOTH = "merging, least_squares"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is known of the units before any target: their worth, their gain alone, and how each group was ranked."""

    scores: Scores
    gain: FloatArray
    groups: tuple[Mapping[str, Json], ...]


def auto(
    task: Task,
    *,
    order: Order = "obs",
    calibration_samples: int = 512,
    probes: int | None = None,
    alpha: float = 1.0,
    compensate: bool = True,
    without_data: WithoutData = "auto",
) -> Outcome:
    """Prune by the damage that each channel's removal adds once the others stand in for it, per cost saved.

    Source: the order is optimal brain surgeon over coupled layers (`scores.brain_surgeon`, ours on Hassibi & Stork
    1992), or with `order="information_gain"` that of EasiEdge (Yu, Cui et al. 2021) in its half-Fisher form; the
    sequential least-squares repair and the choice by damage over cost are our own. No labels enter. Without data,
    channels that are cut are merged into their likest ones (`compensation.merge`) and the rest is refitted on noise;
    `without_data` may ask for one of both. Where `probes` is None, all samples together get 512, each 4 at most: an
    image more says as much as a probe more. See docs/methods/auto.md.

    Raises:
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    task.run.report(Phase.SCORE, 0.0)
    batches = steps.calibration_batches(task, calibration_samples)
    found = statistics(task, batches, order=order, probes=probes or _probes(batches))
    chosen = steps.choose(task, found.scores, alpha)
    repair = _repair(task, without_data) if compensate else Repair.STATISTICS
    outcome = steps.recover(
        task,
        chosen,
        batches,
        compensated=repair in {Repair.LEAST_SQUARES, Repair.BOTH},
        merged=repair in {Repair.MERGING, Repair.BOTH},
        score_source=found.scores.source,
        repaired_on=steps.calibration_batches(task, REPAIRED_ON * calibration_samples),
    )
    facts = {**outcome.facts, "groups": _facts(task, found, outcome), "repair": repair.value}
    return replace(outcome, warnings=(*outcome.warnings, *_warnings(found)), facts=facts)


def _probes(batches: Batches) -> int:
    num_samples = sum(len(batch[0]) for batch in batches)
    return min(MOST_PROBES, max(1, -(-PROBES // max(1, num_samples))))


def _repair(task: Task, without_data: WithoutData) -> Repair:
    if task.data.kind != "synthetic" or without_data == "noise":
        return Repair.LEAST_SQUARES
    return Repair.MERGING if without_data == "merge" else Repair.BOTH


def statistics(task: Task, batches: Batches, *, order: Order, probes: int) -> Statistics:
    """Everything that serves all targets of a network and its data, computed once and remembered.

    One pass over the calibration data and the elimination of every group to its end. The memo depends on the network,
    the calibration samples, the seed, `order` and `probes`, and on nothing else.
    """
    memo = task.run.journal.recall(STATISTICS)
    if memo is not None:
        return _recalled(memo)
    found = _measured(task, batches, order, probes)
    arrays = {"scores": found.scores.values, "gain": found.gain}
    state: dict[str, Json] = {"source": found.scores.source, "groups": found.groups}
    task.run.journal.record(STATISTICS, Memo(arrays=arrays, state=state))
    return found


def _measured(task: Task, batches: Batches, order: Order, probes: int) -> Statistics:
    graph, grouping = task.graph, task.grouping
    if order == "information_gain":
        gain = information_gain(graph, grouping, batches, probes=probes, run=task.run, head=task.head)
        return Statistics(scores=gain, gain=gain.values, groups=())
    damage = brain_surgeon(graph, grouping, batches, probes=probes, run=task.run, head=task.head)
    return Statistics(scores=damage.scores, gain=damage.gain, groups=damage.groups)


def _recalled(memo: Memo) -> Statistics:
    groups = memo.state["groups"]
    if not isinstance(groups, Sequence) or isinstance(groups, str):
        raise TypeError("recorded statistics hold a list of groups")
    return Statistics(
        scores=Scores(values=memo.arrays["scores"].astype(np.float64), source=str(memo.state["source"])),
        gain=memo.arrays["gain"].astype(np.float64),
        groups=tuple(group for group in groups if isinstance(group, Mapping)),
    )


def _facts(task: Task, found: Statistics, outcome: Outcome) -> list[Json]:
    """State for every group what it kept and what the units that went were thought to be worth."""
    facts: list[Json] = []
    ranked = found.groups or ({"score": "information_gain"},) * len(task.grouping.groups)
    for group, how in zip(task.grouping.groups, ranked, strict=True):
        gone = ~outcome.keep.mask[group.start : group.stop]
        facts.append(
            {
                **how,
                "group": group.id,
                "kept": int((~gone).sum()),
                "of": group.width,
                "score_removed": float(found.scores.values[group.start : group.stop][gone].sum()),
                "gain_removed": float(found.gain[group.start : group.stop][gone].sum()),
            }
        )
    return facts


def _warnings(found: Statistics) -> tuple[str, ...]:
    """Say which groups could not be ranked by elimination."""
    by_reason: dict[str, list[str]] = {}
    for group in found.groups:
        if "reason" in group:
            by_reason.setdefault(str(group["reason"]), []).append(str(group["group"]))
    return tuple(
        f"Ranked by information gain, not by elimination: {', '.join(groups)}. {reason}."
        for reason, groups in by_reason.items()
    )
