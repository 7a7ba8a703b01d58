"""The two subproblems of EasiEdge on a network: training towards a pruned copy, and choosing what is pruned."""

from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from workers.pruning.allocation.rank import allocate
from workers.pruning.compensation.batch_statistics import reestimate
from workers.pruning.graph import cost
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.methods import steps
from workers.pruning.methods.admm import Iterate, Point, cubic
from workers.pruning.methods.renormalised import extended
from workers.pruning.methods.rounds import TRAIN_FIRST, Within
from workers.pruning.methods.steps import Batches
from workers.pruning.methods.task import Task
from workers.pruning.scores.gain_variants import entropy_gain, exact_gain, linearised_gain
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.surgery.cut import cut
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.loop import Pull, finetune
from workers.pruning.training.samples import Samples, hold_out
from workers.pruning.types import BoolArray, Budget, Grouping, Keep, Role, Scores

Gain = Literal["half_fisher", "exact", "linearised", "entropy"]
STEP: Final = "easiedge"
DECISION_STREAM: Final = 207  # keeps these draws apart from others of the same seed
MOST_DECIDING: Final = 1000  # samples that choose among the rounds
MOST_STEPS: Final = 400  # a round is an epoch, or as many steps as this
TRAINED_ROLES: Final = frozenset({Role.PRODUCE, Role.THROUGH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a job chose; see `easiedge`."""

    gain: Gain
    probes: int
    rounds: int
    steps_per_round: int | None
    rho: float
    rho_growth: float
    rho_max: float
    learning_rate: float
    alpha: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasible:
    """A network and what it may keep so that all budgets hold, and how far its cut is from the original."""

    graph: ir.Model
    keep: Keep
    distance: float  # on samples that only decide: mean KL in nats, or relative squared error


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The state that ADMM carries: the trained network, and the best feasible one so far."""

    graph: ir.Model
    best: Feasible | None = None
    best_round: int = 0
    distances: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What stays the same over all rounds."""

    task: Task  # its data without the samples that decide
    grouping: Grouping  # of the renormalised network
    trained: tuple[str, ...]  # the tensors that W, Z and U consist of
    batches: Batches
    deciding: Samples
    options: Options


def score(task: Task, graph: ir.Model, grouping: Grouping, batches: Batches, options: Options) -> Scores:
    """Give the information gain of every unit in the reading that was asked for."""
    if options.gain == "half_fisher":
        return information_gain(graph, grouping, batches, probes=options.probes, run=task.run, head=task.head)
    variants = {"exact": exact_gain, "linearised": linearised_gain, "entropy": entropy_gain}
    return variants[options.gain](graph, grouping, batches, run=task.run, head=task.head)


def prepared(task: Task, options: Options, batches: Batches) -> tuple[Setting, Walk]:
    """Put BatchNormalization back where it was folded, and set samples for decisions apart."""
    graph, names = steps.ready_to_train(task, task.graph, batches)
    grouping = extended(task.grouping, task.graph, names)
    seed = int(np.random.default_rng([task.run.seed, DECISION_STREAM]).integers(2**31))
    learning, deciding = hold_out(task.data.train, seed)
    deciding = replace(deciding, index=deciding.index[:MOST_DECIDING], labels=None)
    setting = Setting(
        task=replace(task, data=replace(task.data, train=learning)),
        grouping=grouping,
        trained=_trained_tensors(graph, grouping),
        batches=batches,
        deciding=deciding,
        options=options,
    )
    return setting, Walk(graph=graph)


def _trained_tensors(graph: ir.Model, grouping: Grouping) -> tuple[str, ...]:
    """Name what makes units: filters, biases, scales and shifts; not running statistics, which nothing pulls."""
    states = {
        value.name
        for node in graph.graph
        if node.op_type == "BatchNormalization"
        for value in node.inputs[3:5]
        if value is not None
    }
    made = {axis.initializer for axis in grouping.initializer_axes if axis.role in TRAINED_ROLES}
    return tuple(name for name in weights(graph) if name in made - states)


def point(graph: ir.Model, names: tuple[str, ...]) -> Point:
    """Give W: the tensors of a network that ADMM is about."""
    held = weights(graph)
    return {name: held[name].astype(np.float32) for name in names}


def improved(setting: Setting, walk: Walk, anchors: Point, rho: float) -> Walk:
    """The performance-improving subproblem: steps on the loss of fine-tuning with W pulled to Z - U."""
    task, options = setting.task, setting.options
    number = len(walk.distances)
    batch_size = min(task.finetune.batch_size or 128, len(task.data.train))
    num_steps = options.steps_per_round or min(MOST_STEPS, max(1, len(task.data.train) // batch_size))
    settings = replace(
        task.finetune, steps=num_steps, epochs=None, learning_rate=options.learning_rate, batch_size=batch_size
    )
    done = finetune(
        walk.graph,
        task.graph,
        task.data,
        settings,
        replace(task.run, report=within(setting, number)),
        head=task.head,
        step_name=f"{task.step_prefix}{STEP}{number + 1}",
        pull=Pull(anchors=anchors, strength=rho, part=(number, options.rounds)),
    )
    return replace(walk, graph=done.graph)


def projected(setting: Setting, walk: Walk, v: Point) -> tuple[Point, BoolArray]:
    """The global pruning subproblem: units by information gain on the network with V, the round's budget, zeros."""
    number = len(walk.distances)
    task = replace(setting.task, run=replace(setting.task.run, report=within(setting, number)))
    carrying = replace_weights(walk.graph, v)
    scores = score(task, carrying, setting.grouping, setting.batches, setting.options)
    keep = _allocated(task, scores, setting.options, cubic(number + 1, setting.options.rounds))
    return _zeroed(v, setting.grouping, keep), keep.mask


def judged(setting: Setting, iterate: Iterate[Walk]) -> Iterate[Walk]:
    """Cut the trained network to the whole target by its own gain, and remember it where it is the best so far."""
    walk, number = iterate.state, len(iterate.residuals)
    task = replace(setting.task, run=replace(setting.task.run, report=within(setting, number - 1)))
    scores = score(task, walk.graph, setting.grouping, setting.batches, setting.options)
    keep = _allocated(task, scores, setting.options, 1.0)
    smaller = reestimate(cut(walk.graph, setting.grouping, keep), setting.batches, task.run)
    found = evaluate(smaller, setting.deciding, reference=task.graph, threads=task.run.num_threads)
    distance = next((each for each in (found.mean_kl, found.relative_mse) if each is not None), inf)
    best, best_round = walk.best, walk.best_round
    if best is None or distance <= best.distance:
        best, best_round = Feasible(graph=walk.graph, keep=keep, distance=distance), number
    judged = replace(walk, best=best, best_round=best_round, distances=(*walk.distances, distance))
    return replace(iterate, state=judged)


def _allocated(task: Task, scores: Scores, options: Options, share: float) -> Keep:
    """Allocate within budgets that lie `share` of the way from the whole network to the target."""
    full = cost.count(task.graph)
    budgets = []
    for budget in task.budgets:
        whole = float(getattr(full, budget.metric.value))
        budgets.append(Budget(metric=budget.metric, limit=whole - share * max(0.0, whole - budget.limit)))
    return allocate(
        scores,
        task.grouping,
        task.cost_model,
        budgets if share < 1.0 else task.budgets,
        alpha=options.alpha,
        round_to=task.round_to,
        min_keep=task.min_keep,
    )


def _zeroed(v: Point, grouping: Grouping, keep: Keep) -> Point:
    """Z: V with the slices of everything that goes set to zero."""
    z = {name: np.array(array) for name, array in v.items()}
    for axis in grouping.initializer_axes:
        if axis.initializer in z and axis.role in TRAINED_ROLES:
            gone = (axis.units >= 0) & ~keep.mask[axis.units]
            z[axis.initializer][(slice(None),) * axis.axis + (gone,)] = 0
    return z


def within(setting: Setting, number: int) -> Within:
    """Give the report of a round: its part of the way through all rounds."""
    rounds = setting.options.rounds
    return Within(
        report=setting.task.run.report,
        start=number / rounds,
        stop=(number + 1) / rounds,
        message=f"ADMM round {number + 1} of {rounds}",
        shares=TRAIN_FIRST,
    )
