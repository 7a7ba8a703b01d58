"""From a target to one pruned network: prune, judge, and prune less where that cost more accuracy than allowed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.prune_spec import PruneSpec
from workers.pruning.export.parity import parity
from workers.pruning.export.write import write
from workers.pruning.graph import cost, load
from workers.pruning.graph.open_batch import close_batch, fixed_batch
from workers.pruning.methods import METHODS, require_aim
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.training.evaluate import Answers, Evaluation, evaluate
from workers.pruning.types import Budget, Cost, Json, Phase

MILDER_ATTEMPTS: Final = 3
PARITY_SAMPLES: Final = 8
_ROUNDING: Final = 1e-9  # 0.93 - 0.90 is more than 0.03 in floating point


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """One pruned network as bytes, and how good it is on held-out samples."""

    outcome: Outcome
    content: bytes
    parity: float
    evaluation: Evaluation
    before: Evaluation | None = None  # of the network that the method made of the upload before it pruned, if it did


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """How far held-out quality fell, and how far it may."""

    of: str  # accuracy, or agreement with the original where there are no labels
    found: float
    allowed: float | None

    @property
    def held(self) -> bool:
        """Whether the fall is within what is allowed."""
        return self.allowed is None or self.found <= self.allowed + _ROUNDING

    def to_json(self) -> dict[str, Json]:
        """Give the figures of the report."""
        held = None if self.allowed is None else self.held
        return {"of": self.of, "found": self.found, "allowed": self.allowed, "held": held}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aimed:
    """The network that is shipped for a target, what stopped the pruning, and what a user should know."""

    pruned: Pruned
    drop: Drop | None
    stopped_by: str  # target, accuracy, floor
    warnings: tuple[str, ...] = ()


def aim(spec: PruneSpec, task: Task, before: Evaluation, metadata: dict[str, str]) -> Aimed:
    """Prune to the target; where accuracy falls further than allowed, search for the most that may go.

    The search halves the way between the target and the original three times. Each try is a whole pruning with its own
    fine-tuning, so a job that misses takes up to four times as long. The held-out samples then choose between up to
    four networks, which makes their figure a little too good; the report says so.
    """
    asked = pruned(spec, task, metadata)
    before = asked.before or before
    drop = fall(spec, before, asked.evaluation)
    if drop is None:
        unchecked = ("max_accuracy_drop was not checked: there is no accuracy to compare.",)
        warnings = unchecked if spec.max_accuracy_drop else ()
        return Aimed(pruned=asked, drop=None, stopped_by=_stop(asked), warnings=warnings)
    if drop.held:
        return Aimed(pruned=asked, drop=drop, stopped_by=_stop(asked))
    best, best_drop = asked, drop
    lower, upper = 0.0, 1.0
    for number in range(1, MILDER_ATTEMPTS + 1):
        middle = (lower + upper) / 2
        milder = replace(
            task,
            budgets=tuple(relaxed(task.budgets, cost.count(task.graph), middle)),
            latency_budgets=tuple(replace(budget, relaxed_by=middle) for budget in task.latency_budgets),
            step_prefix=f"{task.step_prefix}milder{number}-",
        )
        candidate = pruned(spec, milder, metadata)
        candidate_drop = fall(spec, before, candidate.evaluation)
        if candidate_drop is None or not candidate_drop.held:
            lower = middle
            best, best_drop = (best, best_drop) if best_drop.held else (candidate, candidate_drop or best_drop)
        else:
            upper = middle
            best, best_drop = candidate, candidate_drop
    return Aimed(pruned=best, drop=best_drop, stopped_by="accuracy", warnings=(_explained(drop, best_drop),))


def _stop(asked: Pruned) -> str:
    """Give what ended the pruning: the target, unless the method itself stopped before it."""
    return str(asked.outcome.facts.get("stopped_by", "target"))


def pruned(spec: PruneSpec, task: Task, metadata: dict[str, str]) -> Pruned:
    """Run the method, write the file, and judge the file rather than the graph it came from.

    Raises:
        LatencyNotAimedAt: the target is a latency and the method decides in rounds.
        PruningError: whatever a stage refuses, each by its own class.
    """
    run = task.run
    require_aim(spec.method, task)
    outcome = METHODS[spec.method](task, **spec.options)
    if outcome.pruned_task is not None:
        task = outcome.pruned_task
    run.report(Phase.EXPORT, 0.0)
    final = close_batch(outcome.graph, task.uploaded)
    content = write(final, task.uploaded, metadata)
    run.report(Phase.VERIFY, 0.0)
    samples = task.data.validation
    count = fixed_batch(task.uploaded) or PARITY_SAMPLES
    inputs = samples.batch(np.arange(count, dtype=np.int64) % len(samples))
    difference = parity(content, final, inputs, run)
    run.report(Phase.VERIFY, 0.3, "held-out samples")
    evaluation = _judged(load.load(content), task)
    before = None if outcome.pruned_task is None else _judged(task.uploaded, task)
    return Pruned(outcome=outcome, content=content, parity=difference, evaluation=evaluation, before=before)


def _judged(graph: ir.Model, task: Task) -> Evaluation:
    return evaluate(
        graph,
        task.data.validation,
        reference=task.reference if isinstance(task.reference, Answers) else task.uploaded,
        threads=task.run.num_threads,
        progress=lambda part: task.run.report(Phase.VERIFY, part, "held-out samples"),
    )


def fall(spec: PruneSpec, before: Evaluation, after: Evaluation) -> Drop | None:
    """Compare held-out accuracy; agreement stands in where there are no labels, nothing where there are no classes."""
    if before.accuracy is not None and after.accuracy is not None:
        return Drop(of="accuracy", found=before.accuracy - after.accuracy, allowed=spec.max_accuracy_drop)
    if after.agreement is not None:
        return Drop(of="agreement", found=1.0 - after.agreement, allowed=spec.max_accuracy_drop)
    return None


def relaxed(budgets: tuple[Budget, ...], original: Cost, share: float) -> Iterator[Budget]:
    """Move each limit by `share` of the way from the target to the cost of the original."""
    for budget in budgets:
        whole = float(getattr(original, budget.metric.value))
        yield replace(budget, limit=budget.limit + share * max(0.0, whole - budget.limit))


def _explained(asked: Drop, shipped: Drop) -> str:
    missed = f"At the target, held-out {asked.of} fell by {asked.found:.4f}; allowed were {asked.allowed:.4f}."
    if shipped.held:
        return f"{missed} This network was pruned less and falls by {shipped.found:.4f}; held-out data chose it."
    return f"{missed} Even the mildest of {MILDER_ATTEMPTS} further tries falls by {shipped.found:.4f}; it is shipped."
