"""`dynhp`: dynamic hard pruning. The network shrinks while it trains, and what that frees may become batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np

from workers.pruning.allocation.budget import cost as cost_at
from workers.pruning.allocation.budget import figure
from workers.pruning.graph import renormalise
from workers.pruning.groups.cost_model import activation_elements
from workers.pruning.methods.marginal import RankBy, rules, shrunk
from workers.pruning.methods.regime import require_training, training_recipe
from workers.pruning.methods.shrinking import Schedule, held_terms, positions, relative, trainable
from workers.pruning.methods.task import Outcome, Stage, Task
from workers.pruning.scores.collect import Edit, find_sites
from workers.pruning.scores.running import RunningScores
from workers.pruning.surgery.check import largest_difference
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.training import batch_size
from workers.pruning.training.dynamic import DynamicTrainer
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.loop import SECONDS_BETWEEN_RECORDS, Finetuned
from workers.pruning.training.recipe import fallen
from workers.pruning.types import Budget, Json, Keep, Memo, Metric, Phase

WARM_UP: Final = 0.05  # of training from scratch
LARGEST_RISE: Final = 2.0  # of the rate from scratch, by batches and narrower layers together
BOLDNESS: Final = 8.0  # of the rate from scratch, over what the untrained network bears at once
MOST_RISE: Final = 0.15  # of the loss between two events, above which an event waits
MOST_WAITS: Final = 2  # events in a row
LEAST_LOSS: Final = 0.05  # of an uninformed network's loss; below it a rise means nothing
STEP_NAME: Final = "dynhp"
SETTLED_NAME: Final = "dynhp-settled"  # the network right after the last event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of the method, and when its events are."""

    memory_budget_bytes: int | None
    reuse_memory: bool
    from_scratch: bool
    scale_learning_rate: bool
    rank_by: RankBy
    marginal: float
    schedule: Schedule


@dataclass(slots=True, kw_only=True)
class _State:
    """What changes at events."""

    keep: Keep
    done: int = 0  # events that are over
    waited: int = 0  # events in a row that waited for the loss
    loss: float | None = None  # at the last event
    points: list[dict[str, Json]] = field(default_factory=list)


def dynhp(  # noqa: PLR0913 - a job's options, one to one
    task: Task,
    *,
    memory_budget_bytes: int | None = None,
    reuse_memory: bool = True,
    from_scratch: bool = False,
    scale_learning_rate: bool = True,
    rank_by: RankBy = "memory",
    marginal: float = 0.1,
    prune_from: float = 0.05,
    prune_until: float = 0.6,
) -> Outcome:
    """Train within a memory budget while the network is cut in small steps; freed memory is reused by larger batches.

    Source: Valerio, Nardini, Passarella, Perego, arXiv 2011.08545, JNCA 200 (2022): incremental pruning during
    training, hard (what goes is gone and its memory freed), a tunable final size, and dynamic batch sizing. No code of
    the authors is known; everything beyond that is derived. Units are ranked by the running empirical Fisher
    information of their gates over the bytes that they hold; the size follows a cubic schedule between `prune_from` and
    `prune_until` of training; weights, statistics and momentum are sliced at every event; memory is a line in the
    batch, measured anew after every event, and the batch is solved from it. Training is counted in samples, so larger
    batches mean fewer steps. Uploaded weights are trained with the job's recipe, from scratch by cross-entropy.
    Differs: pruning may start from a trained network, and is then learning from it; without a budget it is what the
    usual batch needs at the start.

    Raises:
        OutOfMemory: not even eight samples fit into the budget.
        TrainingNeeded: finetune.steps is 0.
        InvalidDataset: from scratch without labels.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss is no longer finite.
    """
    require_training(task, from_scratch=from_scratch)
    options = _Options(
        memory_budget_bytes=memory_budget_bytes,
        reuse_memory=reuse_memory,
        from_scratch=from_scratch,
        scale_learning_rate=scale_learning_rate,
        rank_by=rank_by,
        marginal=marginal,
        schedule=Schedule(start=prune_from, stop=max(prune_until, prune_from + 0.02)),
    )
    return _Dynamic(task, options).outcome()


class _Dynamic:
    """One run of the method."""

    def __init__(self, task: Task, options: _Options) -> None:
        task.run.report(Phase.FINETUNE, 0.0, "preparing")
        self._task, self._options, self._schedule = task, options, options.schedule
        self._start, self._grouping = trainable(task, from_scratch=options.from_scratch)
        self._sites = find_sites(self._start, self._grouping)
        self._elements = activation_elements(self._start, self._grouping)
        self._rules = rules(
            self._grouping,
            task.cost_model,
            task.budgets,
            round_to=task.round_to,
            min_keep=task.min_keep,
            marginal=options.marginal,
            rank_by=options.rank_by,
        )
        self._scores = RunningScores(self._grouping.num_units, task.run.device)
        self._state = _State(keep=Keep(mask=np.ones(self._grouping.num_units, np.bool_)))
        recipe = training_recipe(task, self._start, from_scratch=options.from_scratch)
        teacher = None if options.from_scratch else task.graph
        self._trainer = DynamicTrainer(
            self._start,
            teacher,
            task.data.train,
            recipe,
            batch_size=recipe.batch_size,
            run=task.run,
        )
        self._memory = self._trainer.memory(self._edits)
        self._begin(recipe.batch_size)
        if task.finetune.learning_rate is None:
            self._trainer.lower_rate(BOLDNESS if options.from_scratch else 1.0)

    def _begin(self, wanted: int) -> None:
        """Fix the memory budget and the first batch; a smaller one than wanted learns more slowly."""
        num_samples, progress = len(self._task.data.train), self._trainer.progress
        usual = max(wanted // batch_size.MULTIPLE * batch_size.MULTIPLE, min(batch_size.MULTIPLE, num_samples))
        self._budget = self._options.memory_budget_bytes or self._memory.at(usual)
        progress.batch_size = batch_size.first(self._memory, self._budget, wanted=usual, num_samples=num_samples)
        progress.rate_factor = min(1.0, math.sqrt(progress.batch_size / wanted))

    def outcome(self) -> Outcome:
        """Train to the end, check the surgery and state everything."""
        task, keep, trainer = self._task, self._state.keep, self._trainer
        settled, loss_before = self._train()
        keep, curve, loss_after = self._state.keep, tuple(trainer.curve), trainer.probe_loss()
        taken = trainer.progress.steps
        if loss_after >= loss_before:  # the steps after the last event made it worse: they are undone
            trainer.restore(cut(self._start, self._grouping, keep), settled)
        final = renormalise.fold(trainer.trained())
        task.run.report(Phase.CUT, 0.5, "comparing the cut with the masked network")
        masked, smaller = mask(task.graph, task.grouping, keep), cut(task.graph, task.grouping, keep)
        evaluation = evaluate(
            final,
            task.data.validation,
            reference=task.reference,
            threads=task.run.num_threads,
            progress=lambda _: task.run.report(Phase.FINETUNE, 1.0, "held-out samples"),
        )
        return Outcome(
            graph=final,
            keep=keep,
            masked_vs_cut=largest_difference(masked, smaller, seed=task.run.seed),
            stages=(Stage(name="trained", evaluation=evaluation),),
            finetuned=Finetuned(
                graph=final, curve=curve, recipe=trainer.recipe, loss_before=loss_before, loss_after=loss_after
            ),
            score_source="running_gate_fisher",
            facts=self._facts(taken),
        )

    def _train(self) -> tuple[Memo, float]:
        """Take every step that is left; gives the network after the last event and its loss."""
        self._resume()
        run, trainer, state = self._task.run, self._trainer, self._state
        started, first = run.clock(), trainer.fraction
        due = started + SECONDS_BETWEEN_RECORDS
        measured = not state.points
        if measured:
            self._note_point(removed=0)
        while trainer.fraction < 1.0 or state.done < self._schedule.count:
            if self._schedule.due(trainer.fraction) > state.done and self._event():
                measured, due = True, run.clock()  # what was cut is recorded at once
            if trainer.fraction < 1.0:
                held = trainer.step(self._edits, self._rate(), measured=measured)
                self._scores.take()
                if held is not None:
                    state.points[-1]["measured_bytes"] = held
                measured = False
            now = run.clock()
            self._report((now - started) / max(1e-9, trainer.fraction - first))
            if now >= due:
                self._record()
                due = run.clock() + SECONDS_BETWEEN_RECORDS
        self._record()
        memo = self._recall(SETTLED_NAME)
        if memo is None:
            raise RuntimeError("the network after the last event was not recorded")
        return memo, float(cast("float", memo.state["probe_loss"]))

    def _event(self) -> bool:
        """Cut what the schedule asks for, or wait where the loss has risen; gives whether anything was cut."""
        state, schedule, fraction = self._state, self._schedule, self._trainer.fraction
        state.done = schedule.due(fraction)
        last = state.done == schedule.count
        if not last and self._rises():
            state.waited += 1
            return False
        state.waited, state.loss = 0, self._trainer.progress.loss
        full = cost_at(self._task.cost_model, self._task.cost_model.widths)
        figures = {metric: figure(full, metric) for metric in Metric}
        removed = self._shrink(schedule.budgets(fraction, figures, self._task.budgets), last=last)
        if removed:
            self._resize_batch()
            self._note_point(removed=removed)
        if last:
            self._settle()
        return removed > 0

    def _rises(self) -> bool:
        """Whether the loss rose by more than 15 % since the last event; after two waits it is not asked."""
        now, before = self._trainer.progress.loss, self._state.loss
        if now is None or before is None or self._state.waited >= MOST_WAITS:
            return False
        return now > (1 + MOST_RISE) * max(before, LEAST_LOSS * self._trainer.uninformed_loss())

    def _shrink(self, budgets: tuple[Budget, ...], *, last: bool) -> int:
        """Cut the least units down to these budgets, and measure memory anew; gives how many went."""
        state, trainer = self._state, self._trainer
        held = held_terms(
            self._task.cost_model.params,
            self._elements,
            self._grouping.widths(state.keep),
            sample_bytes=self._memory.sample_bytes,
            num_samples=trainer.progress.batch_size,
        )
        keep = shrunk(self._rules, state.keep, self._scores.values, tuple(held), budgets, last=last)
        removed = int(state.keep.mask.sum() - keep.mask.sum())
        if removed:
            slices = relative(self._grouping, state.keep, keep)
            state.keep = keep
            trainer.resize(cut(self._start, self._grouping, keep), slices)
            self._memory = trainer.memory(self._edits)
        return removed

    def _resize_batch(self) -> None:
        """Put the freed memory into the batch, and let the rate follow."""
        if not self._options.reuse_memory:
            return
        progress, num_samples = self._trainer.progress, len(self._task.data.train)
        now = progress.batch_size
        progress.batch_size = batch_size.grown(self._memory, self._budget, now=now, num_samples=num_samples)
        if self._options.scale_learning_rate:
            progress.rate_factor *= batch_size.rate_factor(now, progress.batch_size)

    def _rate(self) -> float:
        """Constant up to the last event, then a cosine to zero; larger batches have larger rates.

        From scratch it rises to that in the first twentieth: the full rate at once leaves layers without normalisation
        with units that never answer again, which then look marginal. Narrow layers bear and need more than wide ones:
        there it grows with the square root of how many times fewer units there are, all in all at most twofold.
        """
        progress = self._trainer.progress
        rate = self._trainer.recipe.learning_rate * progress.rate_factor
        if self._options.from_scratch:
            mask = self._state.keep.mask
            narrower = math.sqrt(len(mask) / mask.sum()) if self._options.scale_learning_rate else 1.0
            rate = self._trainer.recipe.learning_rate * min(progress.rate_factor * narrower, LARGEST_RISE)
            rate *= min(1.0, (progress.samples + progress.batch_size) / (WARM_UP * self._trainer.total_samples))
        beyond = (self._trainer.fraction - self._schedule.stop) / (1.0 - self._schedule.stop)
        return fallen(rate, beyond) if beyond > 0 else rate

    def _edits(self, num_samples: int) -> dict[tuple[str, int], Edit]:
        keep = self._state.keep
        sites = [positions(site, keep) for site in self._sites]
        return self._scores.edits(sites, num_samples)

    def _note_point(self, *, removed: int) -> None:
        """One point of the curves of size, memory and batch."""
        kept = cost_at(self._task.cost_model, self._grouping.widths(self._state.keep))
        progress = self._trainer.progress
        self._state.points.append(
            {
                "step": progress.steps,
                "fraction": self._trainer.fraction,
                "removed": removed,
                "macs": kept.macs,
                "params": kept.params,
                "batch_size": progress.batch_size,
                "predicted_bytes": self._memory.at(progress.batch_size),
                "bytes_per_sample": self._memory.sample_bytes,
                "learning_rate": self._rate(),
            }
        )

    def _settle(self) -> None:
        """Keep the network as it is right after the last event."""
        memo = self._trainer.memo()
        loss = self._trainer.probe_loss()
        self._task.run.journal.record(self._step(SETTLED_NAME), replace(memo, state={**memo.state, "probe_loss": loss}))

    def _record(self) -> None:
        memo, state = self._trainer.memo(), self._state
        arrays = {**memo.arrays, "keep": state.keep.mask, "scores": self._scores.averages}
        events: dict[str, Json] = {
            "done": state.done,
            "waited": state.waited,
            "loss_at_event": state.loss,
            "points": [dict(point) for point in state.points],
            "budget": self._budget,
        }
        self._task.run.journal.record(self._step(STEP_NAME), Memo(arrays=arrays, state={**memo.state, **events}))

    def _resume(self) -> None:
        memo = self._recall(STEP_NAME)
        if memo is None:
            return
        recorded = cast("Mapping[str, Any]", memo.state)
        keep = Keep(mask=memo.arrays["keep"].astype(np.bool_))
        state = self._state
        state.keep, state.done, state.waited = keep, int(recorded["done"]), int(recorded["waited"])
        state.loss = recorded["loss_at_event"]
        state.points = [dict(point) for point in recorded["points"]]
        self._budget = int(recorded["budget"])
        scores = memo.arrays["scores"].astype(np.float64)
        self._scores = RunningScores(self._grouping.num_units, self._task.run.device, scores)
        self._trainer.restore(cut(self._start, self._grouping, keep), memo)
        self._memory = self._trainer.memory(self._edits)

    def _recall(self, name: str) -> Memo | None:
        return self._task.run.journal.recall(self._step(name))

    def _step(self, name: str) -> str:
        return f"{self._task.step_prefix}{name}"

    def _report(self, seconds: float) -> None:
        """`seconds` is what the whole of training would take at the present speed."""
        trainer = self._trainer
        self._task.run.report(
            Phase.FINETUNE,
            trainer.fraction,
            f"{trainer.progress.samples} of {trainer.total_samples} samples, batch {trainer.progress.batch_size}",
            loss=trainer.progress.loss or 0.0,
            step=trainer.progress.steps,
            eta_seconds=seconds * (1.0 - trainer.fraction),
        )

    def _facts(self, steps: int) -> dict[str, Json]:
        points = self._state.points
        held = [cast("int", point.get("measured_bytes", point["predicted_bytes"])) for point in points]
        return {
            "mode": "memory reused" if self._options.reuse_memory else "memory freed",
            "from_scratch": self._options.from_scratch,
            "memory_budget_bytes": self._budget,
            "memory_bytes_first": held[0],
            "memory_bytes_last": held[-1],
            "memory_bytes_most": max(held),
            "samples": self._trainer.total_samples,
            "steps": steps,
            "events": points,
        }
