"""The smallest network that holds an accuracy: bisection over repaired networks, then training of a few candidates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from workers.judged import Drop, Pruned, fall, pruned
from workers.progress import Part
from workers.prune_spec import PruneSpec
from workers.pruning.allocation.budget import reachable
from workers.pruning.graph import cost
from workers.pruning.methods import METHODS
from workers.pruning.methods.task import Task
from workers.pruning.training.evaluate import Answers, Evaluation, judge
from workers.pruning.training.samples import select
from workers.pruning.types import Budget, Cost, Json, Metric

DRAFTS: Final = 6  # halvings of the way, without training
TRIES: Final = 3  # whole prunings
DRAFT_SAMPLES: Final = 1000  # held-out samples that judge a draft
DRAFT_STREAM: Final = 401  # keeps these draws apart from others of the same seed
RESOLUTION: Final = 1.0 / 2**DRAFTS  # of the way from the target to the original
FLOOR_MARGIN: Final = 1.01
# Methods whose untrained result is cheap, because what they learned of the network serves every size.
DRAFTED: Final = frozenset({"auto", "easiedge", "lcp", "magnitude", "random"})
STAND_IN: Final = "auto"  # drafts for the others
ROUNDS: Final = "taylor"  # looks at accuracy in every round itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One network that was looked at, and how far its quality fell."""

    kind: str  # draft: repaired, never trained; whole: as it would be shipped
    macs: int
    params: int
    samples: int
    drop: Drop
    shipped: bool = False

    def to_json(self) -> dict[str, Json]:
        """Give the figures of the report."""
        return {
            "kind": self.kind,
            "macs": self.macs,
            "params": self.params,
            "of": self.drop.of,
            "fall": self.drop.found,
            "held": self.drop.held,
            "samples": self.samples,
            "shipped": self.shipped,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A whole pruning, where it lies between the target (0) and the original (1), and how far its quality fell."""

    pruned: Pruned
    drop: Drop | None
    position: float
    number: int  # among the tries


class Search:
    """Looks for the smallest network within the allowed drop, between the target and the original.

    First by drafts: the method without training, on statistics that it computed once. Then by whole prunings, from what
    the drafts found towards the target while they hold and towards the original while they do not. Without a target
    the way begins at the smallest network that may be, counted in MACs.
    """

    def __init__(self, spec: PruneSpec, task: Task, before: Evaluation, metadata: dict[str, str]) -> None:
        self._metadata, self._before, self._full = metadata, before, cost.count(task.graph)
        self._has_target = bool(task.budgets or task.latency_budgets)
        self._task = task if self._has_target else replace(task, budgets=(_floor(task),))
        self._spec = spec if self._has_target or spec.method != ROUNDS else _stopping(spec)
        self._tries: list[Try] = []
        self._found: list[Found] = []
        self._missed, self._held = 0.0, 1.0

    @property
    def num_milder(self) -> int:
        """Whole prunings beside the one that was asked for."""
        return len(self._found) - int(self._has_target)

    def asked(self) -> Found:
        """Prune to the target itself."""
        return self._whole(0.0, Part(self._task.run.report, 0.0, 0.4), "")

    def run(self) -> Found:
        """Search; gives the smallest that holds, or where none does the one that fell least."""
        drafted = self._first()
        position = drafted
        start = 0.5 if self._found or drafted > 0 else 0.0
        for number in range(1, TRIES + 1):
            low = start + (1.0 - start) * (number - 1) / TRIES
            part = Part(self._task.run.report, low, low + (1.0 - start) / TRIES, f"try {number} of at most {TRIES}")
            found = self._whole(position, part, f"milder{number}-")
            if found.drop is not None and found.drop.held:
                self._held = min(self._held, position)
            else:
                self._missed = max(self._missed, position)
            if self._held - self._missed <= RESOLUTION:
                break
            position = (self._missed + self._held) / 2
        return min(self._found, key=_preference)

    def at_floor(self, found: Found) -> bool:
        """Whether nothing more could have gone."""
        return cost.count(found.pruned.outcome.graph).macs <= FLOOR_MARGIN * _floor(self._task).limit

    def tries_shipping(self, shipped: Found) -> tuple[Try, ...]:
        """Everything that was looked at, with the mark of what is shipped."""
        return tuple(replace(each, shipped=number == shipped.number) for number, each in enumerate(self._tries))

    def _first(self) -> float:
        """Where the first whole pruning goes: what drafts found; a method that looks in every round needs none."""
        if self._spec.method == ROUNDS:
            if not self._found:
                return 0.0
            self._missed = self._position(cost.count(self._found[0].pruned.outcome.graph))
            return (self._missed + 1.0) / 2
        missed, held = 0.0, 1.0
        begin = 0.4 if self._found else 0.0
        for number in range(1, DRAFTS + 1):
            low = begin + (0.5 - begin) * (number - 1) / DRAFTS
            part = Part(self._task.run.report, low, low + (0.5 - begin) / DRAFTS, f"draft {number} of {DRAFTS}")
            middle = (missed + held) / 2
            if self._draft(middle, part, number):
                held = middle
            else:
                missed = middle
        if self._task.finetune.steps == 0 and self._spec.method in DRAFTED:
            self._missed = missed
        return held if held < 1.0 else (self._missed + 1.0) / 2

    def _draft(self, position: float, part: Part, number: int) -> bool:
        """Prune and repair without training; gives whether that holds on some of the held-out samples."""
        own = self._spec.method in DRAFTED
        options: Mapping[str, Json] = self._spec.options if own else {}
        task, before = _on_few(_milder(self._task, position))
        task = replace(
            task,
            finetune=replace(task.finetune, steps=0, epochs=None),
            run=replace(task.run, report=part),
            step_prefix=f"{task.step_prefix}draft{number}-",
        )
        outcome = METHODS[self._spec.method if own else STAND_IN](task, **options)
        drop = fall(self._spec, before, outcome.stages[-1].evaluation)
        self._note("draft", cost.count(outcome.graph), drop, len(task.data.validation))
        return drop is not None and drop.held

    def _whole(self, position: float, part: Part, prefix: str) -> Found:
        task = _milder(self._task, position) if position else self._task
        task = replace(task, run=replace(task.run, report=part), step_prefix=f"{task.step_prefix}{prefix}")
        done = pruned(self._spec, task, self._metadata)
        drop = fall(self._spec, done.before or self._before, done.evaluation)
        found = Found(pruned=done, drop=drop, position=position, number=len(self._tries))
        self._note("whole", cost.count(done.outcome.graph), drop, done.evaluation.num_samples)
        self._found.append(found)
        return found

    def _note(self, kind: str, counted: Cost, drop: Drop | None, samples: int) -> None:
        if drop is not None:
            self._tries.append(Try(kind=kind, macs=counted.macs, params=counted.params, samples=samples, drop=drop))

    def _position(self, reached: Cost) -> float:
        """How far a network that was reached lies on the way back to the original."""
        ways = []
        for budget in self._task.budgets:
            whole, now = (float(getattr(each, budget.metric.value)) for each in (self._full, reached))
            if whole > budget.limit:
                ways.append((now - budget.limit) / (whole - budget.limit))
        return min(1.0, max(0.0, max(ways, default=0.0)))


def _preference(found: Found) -> tuple[bool, float]:
    """What holds first, the smallest of it; of what does not hold, the least fall."""
    held = found.drop is None or found.drop.held
    return not held, found.position if held or found.drop is None else found.drop.found


def _floor(task: Task) -> Budget:
    least = reachable(task.cost_model, min_keep=task.min_keep, round_to=task.round_to)
    return Budget(metric=Metric.MACS, limit=float(least[Metric.MACS]))


def _stopping(spec: PruneSpec) -> PruneSpec:
    """The method's own limit is the job's."""
    return replace(spec, options={**spec.options, "max_accuracy_drop": spec.max_accuracy_drop})


def _milder(task: Task, position: float) -> Task:
    """The task with each limit moved by `position` of the way from the target to the original."""
    return replace(
        task,
        budgets=tuple(relaxed(task.budgets, cost.count(task.graph), position)),
        latency_budgets=tuple(replace(budget, relaxed_by=position) for budget in task.latency_budgets),
    )


def relaxed(budgets: tuple[Budget, ...], original: Cost, share: float) -> Iterator[Budget]:
    """Move each limit by `share` of the way from the target to the cost of the original."""
    for budget in budgets:
        whole = float(getattr(original, budget.metric.value))
        yield replace(budget, limit=budget.limit + share * max(0.0, whole - budget.limit))


def _on_few(task: Task) -> tuple[Task, Evaluation]:
    """The task judged by a seeded part of its held-out samples, and what the original says to these."""
    samples, answers = task.data.validation, task.reference
    if len(samples) > DRAFT_SAMPLES:
        chosen = np.zeros(len(samples), np.bool_)
        rng = np.random.default_rng([task.run.seed, DRAFT_STREAM])
        chosen[rng.permutation(len(samples))[:DRAFT_SAMPLES]] = True
        samples = select(samples, chosen)
        if isinstance(answers, Answers):
            answers = Answers(log_probabilities=answers.log_probabilities[chosen])
    task = replace(task, data=replace(task.data, validation=samples), reference=answers)
    if isinstance(answers, Answers):
        return task, judge(answers, samples, reference=answers)
    return task, Evaluation(num_samples=len(samples))
