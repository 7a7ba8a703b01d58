"""The steps that all methods share, in the order in which they call them.

score -> choose (allocate, cut, check) -> repair (compensate, or statistics alone) -> train (renormalise, fine-tune,
fold). What is expensive goes through the journal, so that a later attempt resumes behind it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.allocation.rank import allocate
from workers.pruning.allocation.timed import Between, allocate_between
from workers.pruning.compensation.batch_statistics import channel_statistics, reestimate
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.compensation.merge import merge
from workers.pruning.graph import load, renormalise, save
from workers.pruning.graph.rebase import rebase, to_rebase
from workers.pruning.methods import latency_loop
from workers.pruning.methods.task import Outcome, Stage, Task
from workers.pruning.surgery.check import largest_difference
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.loop import Finetuned, finetune
from workers.pruning.training.recipe import activation_bytes
from workers.pruning.types import AnyArray, FloatArray, Grouping, Json, Keep, LatencyLimit, Memo, Phase, Scores

CALIBRATION_SAMPLES: Final = 512
CALIBRATION_BATCH: Final = 64
CALIBRATION_BYTES: Final = 256 << 20  # of inputs in memory
BATCH_ACTIVATION_BYTES: Final = 512 << 20
CALIBRATION_STREAM: Final = 204  # keeps these draws apart from others of the same seed

Batches = Sequence[Sequence[AnyArray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What stays, the network with only that, and the largest difference between cutting and masking."""

    keep: Keep
    graph: ir.Model
    masked_vs_cut: float
    facts: Mapping[str, Json] = field(default_factory=dict)  # how a latency was reached


def calibration_batches(task: Task, num_samples: int) -> Batches:
    """Draw seeded training samples, never validation samples, in batches that fit into memory."""
    samples = task.data.train
    sample_bytes = sum(array.nbytes for array in samples.batch(np.zeros(1, np.int64)))
    count = min(num_samples, len(samples), max(1, CALIBRATION_BYTES // max(1, sample_bytes)))
    order = np.random.default_rng([task.run.seed, CALIBRATION_STREAM]).permutation(len(samples))[:count]
    size = min(CALIBRATION_BATCH, max(1, BATCH_ACTIVATION_BYTES // max(1, activation_bytes(task.graph))))
    return [samples.batch(np.sort(order[start : start + size])) for start in range(0, count, size)]


def remembered_scores(task: Task, compute: Callable[[], Scores]) -> Scores:
    """Give the scores an earlier attempt recorded, or compute and record them. They serve every target of a job."""
    memo = task.run.journal.recall("score")
    if memo is not None:
        return Scores(values=memo.arrays["scores"].astype(np.float64), source=str(memo.state["source"]))
    scores = compute()
    task.run.journal.record("score", Memo(arrays={"scores": scores.values}, state={"source": scores.source}))
    return scores


def choose(task: Task, scores: Scores, alpha: float) -> Chosen:
    """Allocate, cut, and check that the cut network computes what the masked one does.

    Where the target is a latency, plans are measured on its devices until one holds it.

    Raises:
        TargetUnreachable: the floor is above the target.
        DeviceGone: a device whose latency is the target did not answer.
        SurgeryCheckFailed: cut and masked networks differ.
    """
    run = task.run
    run.report(Phase.ALLOCATE, 0.0)

    def plan(limits: Sequence[LatencyLimit], between: Between | None = None) -> Keep:
        known = scores, task.grouping, task.cost_model, task.budgets
        if between is not None:
            return allocate_between(*known, limits, alpha=alpha, between=between)
        return allocate(*known, alpha=alpha, round_to=task.round_to, min_keep=task.min_keep, limits=limits)

    facts: dict[str, Json] = {}
    if task.latency_budgets:
        settled = latency_loop.settle(task, plan)
        keep, facts = settled.keep, {"latency": settled.facts}
    else:
        keep = plan(())
    run.report(Phase.CUT, 0.0)
    smaller = cut(task.graph, task.grouping, keep)
    run.report(Phase.CUT, 0.5, "comparing the cut with the masked network")
    difference = largest_difference(mask(task.graph, task.grouping, keep), smaller, seed=run.seed)
    return Chosen(keep=keep, graph=smaller, masked_vs_cut=difference, facts=facts)


def repair(
    task: Task,
    chosen: Chosen,
    batches: Batches,
    *,
    compensated: bool,
    merged: bool = False,
    uncut: ir.Model | None = None,
) -> ir.Model:
    """Let the kept channels take over what they can: least squares, or BatchNormalization statistics alone.

    They follow `uncut`, the network that `chosen` was cut from, where that is no longer the original. With `merged`,
    what is cut first leaves its readers to the channel that is most like it; least squares, if any, pull towards that.
    """
    task.run.report(Phase.COMPENSATE, 0.0)
    task = task if uncut is None else replace(task, graph=uncut)

    def compute() -> ir.Model:
        start = chosen.graph
        if merged:
            start = cut(merge(task.graph, task.grouping, chosen.keep), task.grouping, chosen.keep)
        if compensated:
            return compensate(task.graph, start, task.grouping, chosen.keep, batches, run=task.run)
        return start if merged else _recalibrated(task, chosen, batches)

    return _remembered_graph(task, "compensate", compute)


def train(task: Task, repaired: ir.Model, batches: Batches) -> tuple[ir.Model, Finetuned | None]:
    """Fine-tune, with BatchNormalization put back behind folded convolutions and folded away again afterwards.

    Training that sees less than the whole data leaves out what pays little in it (`recipe.choose`, `hastened`).

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    if task.finetune.steps == 0:
        return repaired, None
    trainable, _ = ready_to_train(task, repaired, batches)
    task.run.report(Phase.FINETUNE, 0.0)
    finetuned = finetune(
        trainable,
        task.graph,
        task.data,
        replace(task.finetune, hastened=True),
        task.run,
        head=task.head,
        step_name=f"{task.step_prefix}finetune",
    )
    if not finetuned.improved:
        return repaired, finetuned
    return renormalise.fold(finetuned.graph), finetuned


def ready_to_train(task: Task, graph: ir.Model, batches: Batches) -> tuple[ir.Model, tuple[str, ...]]:
    """Give a graph that computes the same and trains well, and the convolutions that got a BatchNormalization.

    Folded convolutions get theirs back, and all of them hold the statistics of the data: training begins where the
    network is, and not where its stored statistics would have been right.
    """
    folded, read = renormalise.to_insert(graph), to_rebase(graph)
    names = tuple(dict.fromkeys((*folded, *read.values())))
    if not names:
        return graph, ()
    found = channel_statistics(graph, names, batches, task.run)
    rebased = rebase(graph, {name: found[source] for name, source in read.items()})
    return renormalise.insert(rebased, {name: found[name] for name in folded}), folded


def recover(
    task: Task,
    chosen: Chosen,
    batches: Batches,
    *,
    compensated: bool,
    merged: bool = False,
    score_source: str,
    uncut: ir.Model | None = None,
    repaired_on: Batches | None = None,
) -> Outcome:
    """Repair and train the cut network, stating after each stage how good it is on held-out samples.

    `merged` and `uncut` as in `repair`, which looks at `repaired_on` where that is given; training always follows the
    original.
    """
    stages = [stage(task, "raw", chosen.graph, Phase.CUT)]
    looked_at = batches if repaired_on is None else repaired_on
    repaired = repair(task, chosen, looked_at, compensated=compensated, merged=merged, uncut=uncut)
    stages.append(stage(task, "compensated" if compensated else "recalibrated", repaired, Phase.COMPENSATE))
    final, finetuned = train(task, repaired, batches)
    if finetuned is not None:
        stages.append(stage(task, "finetuned", final, Phase.FINETUNE))
    return Outcome(
        graph=final,
        keep=chosen.keep,
        masked_vs_cut=chosen.masked_vs_cut,
        stages=tuple(stages),
        finetuned=finetuned,
        score_source=score_source,
        warnings=training_warnings(finetuned),
        facts=chosen.facts,
    )


def _recalibrated(task: Task, chosen: Chosen, batches: Batches) -> ir.Model:
    """Give each channel the mean and variance that it had in the original, by BatchNormalization alone.

    Folded convolutions get the original's statistics as a BatchNormalization, which is re-estimated on the cut network
    and folded away.
    """
    names = renormalise.to_insert(chosen.graph)
    graph = chosen.graph
    if names:
        original = channel_statistics(task.graph, names, batches, task.run)
        graph = renormalise.insert(graph, kept_statistics(task.graph, task.grouping, chosen.keep, original))
    return renormalise.fold(reestimate(graph, batches, task.run))


def kept_statistics(
    graph: ir.Model, grouping: Grouping, keep: Keep, statistics: dict[str, tuple[FloatArray, FloatArray]]
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Slice per-channel statistics of the original to the channels that stay."""
    outputs = {node.name: node.outputs[0].name for node in graph.graph}
    kept = {}
    for name, (mean, variance) in statistics.items():
        found = grouping.kept(outputs[name] or "", 1, keep)
        stays = np.ones(len(mean), np.bool_) if found is None else found
        kept[name] = (mean[stays], variance[stays])
    return kept


def _remembered_graph(task: Task, step: str, compute: Callable[[], ir.Model]) -> ir.Model:
    """Give the graph an earlier attempt recorded, or compute it; it always comes from its bytes, so both are equal."""
    name = f"{task.step_prefix}{step}"
    memo = task.run.journal.recall(name)
    if memo is None:
        content = save.to_bytes(compute())
        memo = Memo(arrays={"graph": np.frombuffer(content, np.uint8)})
        task.run.journal.record(name, memo)
    return load.load(np.ascontiguousarray(memo.arrays["graph"]).tobytes())


def stage(task: Task, name: str, graph: ir.Model, phase: Phase) -> Stage:
    """State how good the network is on held-out samples now."""
    evaluation = evaluate(
        graph,
        task.data.validation,
        reference=task.reference,
        threads=task.run.num_threads,
        progress=lambda _: task.run.report(phase, 1.0, "held-out samples"),
    )
    return Stage(name=name, evaluation=evaluation)


def training_warnings(finetuned: Finetuned | None) -> tuple[str, ...]:
    """Say so where fine-tuning was undone, or had to be done otherwise."""
    if finetuned is None or finetuned.improved:
        return () if finetuned is None else finetuned.notes
    before, after = finetuned.loss_before, finetuned.loss_after
    undone = f"Fine-tuning was undone: the loss on stored training samples went from {before:.4g} to {after:.4g}."
    return (*finetuned.notes, undone)
