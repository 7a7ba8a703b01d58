"""`lcp`: layer-compensated pruning and its successor LeGR. One ranking for all layers, learned by evolution."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final, Literal

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.allocation.budget import cost, figure
from workers.pruning.allocation.rank import allocate
from workers.pruning.errors import NonFiniteScore
from workers.pruning.methods import evolution, latency_loop, steps
from workers.pruning.methods.evolution import Latents, Searched
from workers.pruning.methods.fitness import Candidates, CrossEntropy, Divergence, Repair, candidates
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.scores.magnitude import by_layer
from workers.pruning.scores.taylor import taylor
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, FloatArray, IntArray, Json, Keep, Phase, Run, Scores

STEP_NAME: Final = "lcp-search"  # without the target's prefix: one search serves all targets of a job
ALPHA: Final = 0.0  # the paper ranks by score alone
_SEARCH_PATIENCE: Final = 80
_BROOD: Final = 8  # children of one pool, which several cores may judge at once

Base = Literal["l2", "l1", "taylor", "ig"]
Preset = Literal["ours", "authors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScores:
    """Base scores of the units of one layer."""

    name: str
    units: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The options with everything filled in."""

    settings: evolution.Settings
    repair: Repair
    on_labels: bool
    compensate: bool
    training: FinetuneSettings | None  # of every candidate


def lcp(  # noqa: PLR0913 -- an option of the API each
    task: Task,
    *,
    mode: Literal["lcp", "legr"] = "lcp",
    preset: Preset = "ours",
    base: Base = "l2",
    evaluations: int | None = None,
    fitness: Repair | None = None,
    candidate_steps: int = 0,
    calibration_samples: int = 512,
    compensate: bool | None = None,
) -> Outcome:
    """Learn what to add to the scores of each layer, so that one threshold for the whole network prunes well.

    Source: Chin, Zhang, Marculescu 2018 (LcP: s' = s + beta_l, one latent a layer, found by meta-learning), and the
    same authors' LeGR, CVPR 2020 (s' = a_l s + k_l). The evolution, the squared l2 norm as base, the sum over coupled
    layers and the settings are the authors' code. Preset "authors": 400 evaluations of the raw cut by cross-entropy on
    a tenth of the training set, and no compensation in the end. Differs in preset "ours": a candidate is judged after
    its BatchNormalization was re-estimated on 256 samples, by the Kullback-Leibler divergence from the original on
    `calibration_samples` (no label enters), 120 evaluations, and the search ends after 80 without a new best. Both:
    costs come from the table of the cost model, and the search is made once at the job's lowest target. The authors
    train every candidate for `candidate_steps`: none in their CIFAR-10 runs, 200 in those of CIFAR-100; by
    cross-entropy in preset "authors", by distillation in ours.

    Raises:
        InvalidDataset: preset "authors" without labels, or base "taylor" without class scores.
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    training = _candidate_training(task, preset, candidate_steps)
    plan = _planned(mode, preset, evaluations, fitness, compensate=compensate, training=training)
    task.run.report(Phase.SCORE, 0.0)
    batches = steps.calibration_batches(task, calibration_samples)
    layers = base_scores(task, base, batches)
    searched = _search(task, layers, plan, batches)
    scores = transformed(layers, task.grouping.num_units, searched.best.latents, source=f"{mode}_{base}")
    chosen = steps.choose(task, scores, ALPHA)
    outcome = steps.recover(task, chosen, batches, compensated=plan.compensate, score_source=scores.source)
    return replace(outcome, facts={**outcome.facts, **_facts(layers, searched, plan)})


def base_scores(task: Task, base: Base, batches: steps.Batches) -> tuple[LayerScores, ...]:
    """Give the base scores of every layer that has latents.

    Norms belong to layers: each layer that produces a coupled channel has its own latents. Gate scores (taylor, ig)
    belong to the channel itself, so there a group of channels is what has latents.

    Raises:
        NonFiniteScore: a score is NaN or infinite.
    """
    if base in {"l1", "l2"}:
        found = by_layer(task.graph, task.grouping, norm="l1" if base == "l1" else "l2")
        return tuple(LayerScores(name=node, units=units, values=sizes) for node, units, sizes in found)
    scores = steps.remembered_scores(task, lambda: _gate_scores(task, base, batches))
    return tuple(
        LayerScores(
            name=group.id,
            units=np.arange(group.start, group.stop, dtype=np.int64),
            values=scores.values[group.start : group.stop],
        )
        for group in task.grouping.groups
    )


def transformed(layers: tuple[LayerScores, ...], num_units: int, latents: Latents, *, source: str) -> Scores:
    """Give s' = a_l s + k_l, summed over the layers that a channel is coupled to; if any is negative, all are raised.

    Source: authors' code (sum over a chain after the transformation). Raising all scores by a constant changes no
    ranking; scores of this engine are never negative.
    """
    values = np.zeros(num_units)
    for layer, scale, shift in zip(layers, latents.scale, latents.shift, strict=True):
        values[layer.units] += scale * layer.values + shift
    if not np.isfinite(values).all():
        raise NonFiniteScore("The transformed scores are not finite", where=source)
    return Scores(values=values - values.min(initial=0.0), source=source)


def lowest(task: Task) -> tuple[Budget, ...]:
    """The target of the job that leaves least: the smallest mean share of the original's cost."""
    full = cost(task.cost_model, task.cost_model.widths)

    def share(budgets: tuple[Budget, ...]) -> float:
        shares = [min(1.0, budget.limit / max(1, figure(full, budget.metric))) for budget in budgets]
        return sum(shares) / max(1, len(shares))

    return min([budgets for budgets in task.job_budgets if budgets] or [task.budgets], key=share)


def candidate(task: Task, layers: tuple[LayerScores, ...], latents: Latents, budgets: tuple[Budget, ...]) -> Keep:
    """What stays under these latents; its cost comes from the cost model's table, no network is built."""
    return allocate(
        transformed(layers, task.grouping.num_units, latents, source="lcp"),
        task.grouping,
        task.cost_model,
        budgets,
        alpha=ALPHA,
        round_to=task.round_to,
        min_keep=task.min_keep,
    )


def _gate_scores(task: Task, base: Base, batches: steps.Batches) -> Scores:
    if base == "taylor":
        return taylor(task.graph, task.grouping, batches, run=task.run)
    return information_gain(task.graph, task.grouping, batches, run=task.run, head=task.head)


def _search(task: Task, layers: tuple[LayerScores, ...], plan: _Plan, batches: steps.Batches) -> Searched:
    budgets = (*lowest(task), *latency_loop.stand_in(task)) if task.latency_budgets else lowest(task)
    deviations = np.asarray([layer.values.std() for layer in layers])
    heard = _Progress(task.run, plan.settings.evaluations)
    ready = _Judged(task, plan, batches, heard.run)

    def worth(latents: Latents) -> float:
        return ready.worth(candidate(task, layers, latents, budgets))

    # Also one thread computes in a thread of its own, on one core: sums come out the same however many there are.
    # Dropout draws from one stream of the whole process, so candidates that are trained take turns.
    at_once = 1 if plan.training else task.run.num_threads
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def worths(drawn: Sequence[Latents]) -> Sequence[float]:
            ready.prepare()
            return list(pool.map(worth, drawn))

        searched = evolution.search(worths, deviations, plan.settings, task.run, step_name=STEP_NAME, note=heard.note)
    torch.set_num_threads(task.run.num_threads)
    return searched


class _Judged:
    """Says what a Keep is worth. What that takes is prepared for the first one: a recorded search needs nothing."""

    def __init__(self, task: Task, plan: _Plan, batches: steps.Batches, run: Run) -> None:
        self._task, self._plan, self._batches, self._run = task, plan, batches, run
        self._ready: tuple[Candidates, Callable[[ir.Model], float]] | None = None

    def worth(self, keep: Keep) -> float:
        """Make the candidate and compare it; one whose activations overflow is infinitely bad."""
        made, judge = self.prepare()
        try:
            return judge(made.graph(keep, self._run))
        except NonFiniteScore:
            return float("inf")

    def prepare(self) -> tuple[Candidates, Callable[[ir.Model], float]]:
        """Make what all candidates share, once; not from several threads."""
        if self._ready is None:
            task, plan = self._task, self._plan
            judge = CrossEntropy(task) if plan.on_labels else Divergence(task, self._batches)
            self._ready = candidates(task, plan.repair, self._batches, plan.training), judge
        return self._ready


class _Progress:
    """Turns what is heard during the search into progress of the search, with the best so far and the time left."""

    def __init__(self, run: Run, evaluations: int) -> None:
        self._evaluations, self._report, self._clock = evaluations, run.report, run.clock
        self._done, self._first, self._started = 0, 0, run.clock()
        self._lock = Lock()  # candidates that are judged at once tell of themselves at once
        self.run = replace(run, report=lambda *_, **__: self._tell())

    def note(self, searched: Searched) -> None:
        """Hear of one more evaluation."""
        done = len(searched.losses)
        if not self._done:
            self._first = done - 1
        self._done = done
        seconds = (self._clock() - self._started) / max(1, done - self._first)
        left = seconds * (self._evaluations - done)
        self._tell(loss=searched.best.loss, step=done, eta_seconds=left)

    def _tell(self, **metrics: float) -> None:
        message = f"candidate {self._done} of {self._evaluations}"
        with self._lock:
            self._report(Phase.SCORE, self._done / self._evaluations, message, **metrics)


def _planned(
    mode: str,
    preset: Preset,
    evaluations: int | None,
    repair: Repair | None,
    *,
    compensate: bool | None,
    training: FinetuneSettings | None,
) -> _Plan:
    authors = preset == "authors"
    count = evaluations or (400 if authors else 120)
    return _Plan(
        settings=evolution.Settings(
            evaluations=count,
            pool=min(evolution.POOL, count),
            patience=None if authors else _SEARCH_PATIENCE,
            affine=mode == "legr",
            brood=1 if authors else _BROOD,
        ),
        repair=repair or ("raw" if authors else "recalibrated"),
        on_labels=authors,
        compensate=not authors if compensate is None else compensate,
        training=training,
    )


def _candidate_training(task: Task, preset: Preset, num_steps: int) -> FinetuneSettings | None:
    """Source: authors' code: SGD at 0.01 with momentum 0.9 and decay 5e-4, batches of 128, on the labels."""
    if not num_steps:
        return None
    distillation = 0.0 if preset == "authors" else task.finetune.distillation
    return replace(task.finetune, steps=num_steps, epochs=None, distillation=distillation)


def _facts(layers: tuple[LayerScores, ...], searched: Searched, plan: _Plan) -> dict[str, Json]:
    latents = searched.best.latents
    identity = plan.settings.pool - 1
    return {
        "evaluations": len(searched.losses),
        "fitness": f"{'cross-entropy on labels' if plan.on_labels else 'divergence from the original'}, {plan.repair}",
        "candidate_steps": plan.training.steps if plan.training else 0,
        "best_evaluation": searched.best.number,
        "best_loss": _finite(searched.best.loss),
        "identity_loss": _finite(searched.losses[identity]) if identity < len(searched.losses) else None,
        "losses": [_finite(loss) for loss in searched.losses],
        "layers": [
            {"name": layer.name, "scale": float(scale), "shift": float(shift)}
            for layer, scale, shift in zip(layers, latents.scale, latents.shift, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
