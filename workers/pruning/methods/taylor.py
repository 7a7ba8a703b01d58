"""`taylor`: rank, remove a few, fine-tune a little, again, until accuracy has fallen by as much as is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from workers.pruning.allocation.budget import cost, figure, holds
from workers.pruning.allocation.fill import fill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.allocation.rank import allocate
from workers.pruning.graph.load import output_specs
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.methods import lessons, steps, studies
from workers.pruning.methods import transfer as transferring
from workers.pruning.methods.labels import Divided, divided, ranking_batches
from workers.pruning.methods.rounds import ACCURACY, FLOOR, RANK_FIRST, Course, Rule, Within, rounds_from, run_rounds
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.methods.transfer import Transfer
from workers.pruning.scores import taylor as ranking
from workers.pruning.surgery.check import largest_difference
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.graft import graft, narrowed
from workers.pruning.surgery.mask import mask
from workers.pruning.training.data import require_match
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.recipe import Recipe
from workers.pruning.types import BoolArray, FloatArray, Grouping, IntArray, Json, Keep, Memo, Phase, Scores

Criterion = Literal["gate", "activation"]
STEP: Final = "taylor"
RANKING_SHARE: Final = 0.5  # of the samples to learn from: a ranking costs as much as half an epoch
LEAST_RANKED: Final = 256  # samples, where there are as many


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a job chose; see `taylor`."""

    criterion: Criterion
    share_per_round: float
    epochs_per_round: float
    learning_rate: float
    max_accuracy_drop: float
    alpha: float
    ranking_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Slimmed:
    """A network on its way: all weights at full size, those of the units that stay trained, and which these are."""

    graph: ir.Model
    keep: Keep


def taylor(  # noqa: PLR0913  # the options of a job
    task: Task,
    *,
    criterion: Criterion = "gate",
    share_per_round: float = 0.04,
    epochs_per_round: float = 1.0,
    learning_rate: float = 0.001,
    max_accuracy_drop: float = 0.03,
    alpha: float = 0.0,
    ranking_samples: int = 4096,
    transfer: Transfer = "auto",
    transfer_epochs: float = 5.0,
    transfer_learning_rate: float = 0.01,
    sensitivity_epochs: Sequence[float] = (),
    folds: int = 0,
) -> Outcome:
    """Prune in rounds: rank all units by Taylor scores, remove the lowest, fine-tune, stop at the accuracy drop.

    Source: the loop and its stop rule are of Wu, Singla, Jahanshahi, Bertino, "Deep Neural Network Pruning for
    Efficient Edge Computing in IoT" (2019); the scores of Molchanov et al. 2019 (`gate`) and 2017 (`activation`, which
    they used). Differs: scores take each sample's square or absolute value; a round removes a share of all units, not
    512 filters, and the last one just what the target needs; the samples that decide are held out of the training data;
    a ranking looks at no more than half of the others; fine-tuning within a round lets its rate fall to zero; the last
    fine-tuning is that of every method.

    `sensitivity_epochs` and `folds` repeat the rounds, with other lengths of fine-tuning and with each part of the
    samples deciding, and only report; what is shipped comes from the rounds that were asked for.
    `transfer` comes first where the dataset has other classes than the network, or always, or never.

    Raises:
        InvalidDataset: the network is no classifier, or has other classes than the labels and may not be trained.
        InvalidGraph: the last layer cannot be replaced.
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    options = Options(
        criterion=criterion,
        share_per_round=share_per_round,
        epochs_per_round=epochs_per_round,
        learning_rate=learning_rate,
        max_accuracy_drop=max_accuracy_drop,
        alpha=alpha,
        ranking_samples=ranking_samples,
    )
    task.run.report(Phase.SCORE, 0.0)
    given = task
    if _needs_classes(task, transfer):
        task = transferring.transferred(task, epochs=transfer_epochs, learning_rate=transfer_learning_rate)
    data = divided(task)
    count = 1 + len(sensitivity_epochs) + folds
    course = _rounds(studies.within(task, 0, count), options, data)
    outcome = _finished(task, options, data, course)
    studied = _studied(task, options, data, sensitivity_epochs, folds)
    outcome = replace(outcome, facts={**outcome.facts, **studied})
    return outcome if task is given else replace(outcome, pruned_task=task)


def _studied(
    task: Task, options: Options, data: Divided, sensitivity_epochs: Sequence[float], folds: int
) -> dict[str, Json]:
    """Repeat the rounds as asked, and state how each repetition went."""

    def course(inner: Task, epochs: float, part: Divided) -> studies.Ran:
        inner_options = replace(options, epochs_per_round=epochs)
        found = _rounds(inner, inner_options, part)
        return studies.Ran(rounds=found.rounds, stopped_by=found.stopped_by, base=_accuracy(inner, part, _whole(inner)))

    count = 1 + len(sensitivity_epochs) + folds
    stated: dict[str, Json] = {}
    if sensitivity_epochs:
        share = studies.Share(first=1, count=count)
        stated["epochs_sensitivity"] = studies.sensitivity(task, data, course, sensitivity_epochs, share)
    if folds:
        share = studies.Share(first=1 + len(sensitivity_epochs), count=count)
        parts = studies.parted(data, folds, task.run.seed)
        found = studies.cross_validated(task, parts, course, options.epochs_per_round, share)
        stated |= {"folds": studies.by_fold(found), "rounds_over_folds": studies.by_round(found)}
    return stated


def _needs_classes(task: Task, transfer: Transfer) -> bool:
    """Whether the network is to learn the dataset's classes first; refuses other classes where it may not."""
    wanted = transfer == "always" or (transfer == "auto" and transferring.differs(task.data, task.graph))
    if wanted and task.finetune.steps != 0 and task.data.train.labels is not None:
        return True
    require_match(task.data, output_specs(task.graph), task.head)
    return False


def rank(task: Task, options: Options, data: Divided, state: Slimmed, number: int) -> Scores:
    """Score every unit that is left, on the network as it is now; units that are gone score nothing.

    Source: `gate` squares the gradient of a gate of one (Molchanov 2019, equation 8); `activation` takes its absolute
    value and divides the scores of each group by their norm (Molchanov 2017, section 2.2, "normalization"). The
    gradient of a gate is the sum over positions of activation times gradient, so both come from one backward pass.
    """
    grouping = narrowed(task.grouping, state.keep)
    most = max(LEAST_RANKED, round(RANKING_SHARE * len(data.learning.train)))
    batches, labels = ranking_batches(task, data.learning.train, min(options.ranking_samples, most), number)
    reduction: ranking.Criterion = "square" if options.criterion == "gate" else "absolute"
    smaller = cut(state.graph, task.grouping, state.keep)
    found = ranking.taylor(smaller, grouping, batches, labels, criterion=reduction, run=task.run).values
    if options.criterion == "activation":
        found = normalised(found, grouping)
    values = np.zeros(task.grouping.num_units)
    # What is gone must come first when the next units are chosen, also where a unit that is left scores zero.
    values[state.keep.mask] = found + np.finfo(np.float64).tiny
    return Scores(values=values, source=f"taylor_{options.criterion}")


def normalised(values: FloatArray, grouping: Grouping) -> FloatArray:
    """Divide the scores of each group by their Euclidean norm, so that layers of other scales compare."""
    result = np.array(values)
    for group in grouping.groups:
        part = result[group.start : group.stop]
        norm = float(np.linalg.norm(part))
        if norm > 0:
            result[group.start : group.stop] = part / norm
    return result


def lowest(task: Task, options: Options, scores: Scores, state: Slimmed) -> Keep:
    """Say what stays after this round: all but the lowest units, at most `share_per_round` of all that there were.

    The shared allocator says which units the target costs at these scores; of these the lowest go first.
    """
    kept = allocate(
        scores,
        task.grouping,
        task.cost_model,
        task.budgets,
        alpha=options.alpha,
        round_to=task.round_to,
        min_keep=task.min_keep,
    )
    doomed = np.flatnonzero(state.keep.mask & ~kept.mask)
    size = max(1, round(options.share_per_round * task.grouping.num_units))
    order = doomed[np.argsort(scores.values[doomed], kind="stable")]
    left: BoolArray = np.array(state.keep.mask)
    left[order[:size]] = False
    return Keep(mask=left) if len(order) > size else landed(task, Keep(mask=left), order)


def landed(task: Task, keep: Keep, gone: IntArray) -> Keep:
    """Let units of the last round stay as long as the target holds, where nobody asked for steps.

    Earlier rounds are final, so blocks that fit the whole network undershoot what rounds have left of it.
    `gone` are the units of the last round, the worst first.
    """
    if task.round_to not in {None, 1}:
        return keep
    groups, mask = task.grouping.groups, np.array(keep.mask)
    ledger = Ledger(task.cost_model, task.budgets)
    parts = [gone[(gone >= group.start) & (gone < group.stop)] for group in groups]
    for number, group in enumerate(groups):
        ledger.remove(number, group.width - int(mask[group.start : group.stop].sum()))
    if ledger.holds():
        for part, units in zip(parts, fill(ledger, [len(part) for part in parts]), strict=True):
            mask[part[len(part) - units :]] = True
    return Keep(mask=mask)


def _rounds(task: Task, options: Options, data: Divided) -> Course[Slimmed]:
    memo = task.run.journal.recall(f"{task.step_prefix}{STEP}")
    everything = _whole(task)
    recipe = None if task.finetune.steps == 0 else _recipe(task, options, data)
    rule = Rule(
        advance=partial(_advanced, task, options, data, recipe=recipe),
        accuracy=partial(_accuracy, task, data),
        meets_target=lambda state: holds(cost(task.cost_model, task.grouping.widths(state.keep)), task.budgets),
        size=lambda state: (int(state.keep.mask.sum()), cost(task.cost_model, task.grouping.widths(state.keep)).macs),
        base=_accuracy(task, data, everything),
        max_drop=options.max_accuracy_drop,
    )
    start = Course(state=everything) if memo is None else _recalled(task, memo)
    return run_rounds(start, rule, lambda course: _record(task, course))


def _whole(task: Task) -> Slimmed:
    """The network before the first round."""
    return Slimmed(graph=task.graph, keep=Keep(mask=np.ones(task.grouping.num_units, np.bool_)))


def _recipe(task: Task, options: Options, data: Divided) -> Recipe:
    learning = replace(task, data=data.learning)
    return lessons.recipe_of(learning, epochs=options.epochs_per_round, learning_rate=options.learning_rate)


def _advanced(
    task: Task, options: Options, data: Divided, state: Slimmed, number: int, *, recipe: Recipe | None
) -> Slimmed | None:
    """One round: rank, remove, fine-tune, where there is a recipe for it."""
    inner = _in_round(task, options, data, state, number)
    keep = lowest(task, options, rank(inner, options, data, state, number), state)
    if np.array_equal(keep.mask, state.keep.mask):
        return None
    smaller = cut(state.graph, task.grouping, keep)
    trained = smaller if recipe is None else lessons.learned(inner, smaller, recipe)
    return Slimmed(graph=graft(state.graph, trained, task.grouping, keep), keep=keep)


def _in_round(task: Task, options: Options, data: Divided, state: Slimmed, number: int) -> Task:
    """The task as the steps of one round see it: their data, their journal entries, their share of the progress."""
    start = _done(task, state)
    usual = start / (number - 1) if number > 1 and start > 0 else options.share_per_round
    report = Within(
        report=task.run.report,
        start=start,
        stop=min(1.0, start + usual),
        message=f"round {number} of pruning",
        shares=RANK_FIRST,
        phase=Phase.SCORE if task.finetune.steps == 0 else Phase.FINETUNE,
    )
    return replace(
        task,
        data=data.learning,
        run=replace(task.run, report=report),
        step_prefix=f"{task.step_prefix}{STEP}{number}-",
    )


def _done(task: Task, state: Slimmed) -> float:
    """How much of the way from the full cost to the target is behind: that of the budget that is furthest off."""
    full, now = cost(task.cost_model, task.cost_model.widths), cost(task.cost_model, task.grouping.widths(state.keep))
    ways = [
        (figure(full, budget.metric) - figure(now, budget.metric)) / (figure(full, budget.metric) - budget.limit)
        for budget in task.budgets
        if budget.limit < figure(full, budget.metric)
    ]
    return min(1.0, max(0.0, min(ways, default=1.0)))


def _accuracy(task: Task, data: Divided, state: Slimmed) -> float:
    smaller = cut(state.graph, task.grouping, state.keep)
    found = evaluate(smaller, data.deciding, threads=task.run.num_threads).accuracy
    return 0.0 if found is None else found


def _record(task: Task, course: Course[Slimmed]) -> None:
    """Keep the last accepted network and the course; the training record of the round makes room."""
    arrays = {f"weight/{name}": array for name, array in weights(course.state.graph).items()}
    state: dict[str, Json] = {
        "rounds": [entry.to_json() for entry in course.rounds],
        "stopped_by": course.stopped_by,
    }
    memo = Memo(arrays={**arrays, "keep": course.state.keep.mask}, state=state)
    task.run.journal.record(f"{task.step_prefix}{STEP}", memo)
    if course.rounds and task.finetune.steps != 0:
        task.run.journal.record(f"{task.step_prefix}{STEP}{len(course.rounds)}-finetune", Memo())


def _recalled(task: Task, memo: Memo) -> Course[Slimmed]:
    held = {name.removeprefix("weight/"): np.array(array) for name, array in memo.arrays.items() if name != "keep"}
    keep = Keep(mask=np.array(memo.arrays["keep"]).astype(np.bool_))
    return Course(
        state=Slimmed(graph=replace_weights(task.graph, held), keep=keep),
        rounds=rounds_from(memo.state["rounds"]),
        stopped_by=str(memo.state["stopped_by"]),
    )


def _finished(task: Task, options: Options, data: Divided, course: Course[Slimmed]) -> Outcome:
    """Cut, check, and fine-tune the last accepted network."""
    state = course.state
    smaller = cut(state.graph, task.grouping, state.keep)
    difference = largest_difference(mask(state.graph, task.grouping, state.keep), smaller, seed=task.run.seed)
    stages = [steps.stage(task, "rounds", smaller, Phase.CUT)]
    batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
    final, finetuned = steps.train(task, smaller, batches)
    if finetuned is not None:
        stages.append(steps.stage(task, "finetuned", final, Phase.FINETUNE))
    return Outcome(
        graph=final,
        keep=state.keep,
        masked_vs_cut=difference,
        stages=tuple(stages),
        finetuned=finetuned,
        score_source=f"taylor_{options.criterion}",
        warnings=(*data.warnings, *_stop_in_words(course, options), *steps.training_warnings(finetuned)),
        facts={
            "stopped_by": course.stopped_by,
            "rounds": [entry.to_json() for entry in course.rounds],
            "pruned_by_group": pruned_by_group(task.grouping, state.keep),
            "num_deciding_samples": len(data.deciding),
        },
    )


def pruned_by_group(grouping: Grouping, keep: Keep) -> list[Json]:
    """State for every group how many units it had and how many went."""
    return [
        {
            "group": group.id,
            "units": group.width,
            "pruned": int(group.width - keep.mask[group.start : group.stop].sum()),
        }
        for group in grouping.groups
    ]


def _stop_in_words(course: Course[Slimmed], options: Options) -> tuple[str, ...]:
    if course.stopped_by == ACCURACY:
        last = course.rounds[-1]
        found = f"in round {last.number} accuracy on training samples held back for this fell to {last.accuracy:.4f}"
        allowed = f"by more than the allowed {options.max_accuracy_drop:g}"
        return (f"Pruning stopped before the target: {found}, {allowed}; what the round before had is shipped.",)
    if course.stopped_by == FLOOR:
        return ("Pruning stopped before the target: no more channels may go.",)
    return ()
