"""Tables of what single methods promise: the time of a search, the stop rule, filters gone, memory while training."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

import onnx_ir as ir

from benchmarks.deciding.accuracy_tables import ROUND_TO, base, brief
from benchmarks.deciding.ledger import Figures, Row
from benchmarks.deciding.ours import OURS, Ours
from benchmarks.deciding.spending import SEARCH, Spending
from benchmarks.deciding.subjects import SUBJECTS
from benchmarks.deciding.wishes import Wishes
from benchmarks.deciding.workbench import NO_TRAINING, Bench, Pruned, cost_figures
from workers import result
from workers.prune_spec import Target
from workers.pruning.allocation.budget import reachable
from workers.pruning.allocation.rank import allocate
from workers.pruning.graph import cost
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.surgery.cut import cut
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Json, Metric

AUTHORS_EVALUATIONS: Final = 400
MEASURED_EVALUATIONS: Final = (8, 32)  # two searches, so that what comes before the first candidate cancels out
FILTERS_LEFT: Final = 0.2
FILTERS_STEPS: Final = 1500  # of training in all, for 15 million weights; a third of them within EasiEdge's rounds
HALVINGS: Final = 14
FOLDS: Final = 5
ROUND_FACTS: Final = ("rounds", "folds", "rounds_over_folds")
PER_ROUND: Final = 0.12  # of all filters: 512 of the 4,224 of VGG-16, as the slides have it
SMALLER: Final = 0.1  # ten times smaller
# Of what: the memory of training falls far only where MACs do; where it is reused it need not.
MODES: Final[Mapping[str, tuple[Mapping[str, float], Mapping[str, Json]]]] = {
    "dense": ({"params": 1.0}, {"marginal": 0.0}),
    "freed": ({"params": SMALLER, "flops": SMALLER}, {"reuse_memory": False}),
    "small": ({"params": SMALLER}, {"reuse_memory": False}),
    "reused": ({"params": SMALLER}, {"reuse_memory": True}),
}


def search_time(wishes: Wishes) -> Iterator[Row]:
    """Search and compensation of `auto` beside LcP's search at its authors' settings."""
    plan: list[tuple[str, dict[str, Json]]] = [("auto", {})]
    counts = (AUTHORS_EVALUATIONS,) if wishes.full else wishes.of("steps", MEASURED_EVALUATIONS)
    plan += [("lcp_authors", {"evaluations": count}) for count in counts]
    for seed in wishes.of("seeds", (0,)):
        for ratio in wishes.of("ratios", (0.3,)):
            for name in wishes.of("networks", ("resnet56",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for method, extra in plan:
                    contender = replace(OURS[method], options={**OURS[method].options, **extra})
                    key = {"network": name, "method": method, "ratio": ratio, "seed": seed, **extra}
                    yield Row(table="search", key=key, compute=lambda b=bench, c=contender, r=ratio: _searched(b, c, r))


def rounds(wishes: Wishes) -> Iterator[Row]:
    """Purdue's loop on the crack images: its stop rule, and what an epoch or ten per round cost and save."""
    for seed in wishes.of("seeds", (0, 1, 2)):
        for ratio in wishes.of("ratios", (0.1,)):
            for name in wishes.of("networks", ("crackcnn",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for epochs in wishes.of("epochs", (1.0, 10.0)):
                    options: dict[str, Json] = {"epochs_per_round": epochs, "share_per_round": PER_ROUND}
                    options |= {"max_accuracy_drop": 0.03}
                    contender = Ours(method="taylor", options=options, compensates=False)
                    key = {"network": name, "method": "taylor", "ratio": ratio, "seed": seed, "epochs": epochs}
                    yield Row(
                        table="rounds",
                        key=key,
                        compute=lambda b=bench, c=contender, r=ratio, e=epochs: _in_rounds(b, c, r, e),
                    )


def folds(wishes: Wishes) -> Iterator[Row]:
    """The same loop with one epoch a round, repeated with each fifth of the training images deciding.

    The network given has seen all of these images, so the spread counts here and not the level.
    """
    for seed in wishes.of("seeds", (0,)):
        for ratio in wishes.of("ratios", (0.1,)):
            for name in wishes.of("networks", ("crackcnn",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for epochs in wishes.of("epochs", (1.0,)):
                    options: dict[str, Json] = {"epochs_per_round": epochs, "share_per_round": PER_ROUND}
                    contender = Ours(method="taylor", options={**options, "folds": FOLDS}, compensates=False)
                    key = {"network": name, "method": "taylor", "ratio": ratio, "seed": seed, "epochs": epochs}
                    yield Row(
                        table="folds",
                        key={**key, "folds": FOLDS},
                        compute=lambda b=bench, c=contender, r=ratio, e=epochs: _in_rounds(b, c, r, e),
                    )


def filters(wishes: Wishes) -> Iterator[Row]:
    """EasiEdge with four of five filters gone: accuracy lost and latency won; `auto` beside it at the same MACs.

    Widths are rounded as the product rounds them where nobody says otherwise: latency counts here.
    """
    for seed in wishes.of("seeds", (0,)):
        for name in wishes.of("networks", ("vgg16",)):
            bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
            for method in wishes.of("methods", ("easiedge", "auto")):
                for count in wishes.of("steps", (FILTERS_STEPS,)):
                    key = {
                        "network": name,
                        "method": method,
                        "seed": seed,
                        "steps": count,
                        "filters_left": FILTERS_LEFT,
                        "round_to": None,
                    }
                    yield Row(
                        table="filters", key=key, compute=lambda b=bench, m=method, n=count: _few_filters(b, m, n)
                    )


def dynamic(wishes: Wishes) -> Iterator[Row]:
    """DynHP from random weights: a tenth of the size, memory freed and memory reused, beside dense training."""
    for seed in wishes.of("seeds", (0,)):
        for name in wishes.of("networks", ("small_mnist", "small_cifar")):
            bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
            for mode in MODES:
                if mode not in wishes.of("methods", tuple(MODES)):
                    continue
                for epochs in wishes.of("epochs", (6.0,)):
                    key = {"network": name, "method": "dynhp", "mode": mode, "seed": seed, "epochs": epochs}
                    yield Row(
                        table="dynamic", key=key, compute=lambda b=bench, m=mode, e=epochs: _from_scratch(b, m, e)
                    )


def _searched(bench: Bench, contender: Ours, ratio: float) -> Figures:
    task, pruned = _pruned(bench, contender, (Target(metric="flops", ratio=ratio),), NO_TRAINING)
    figures = {"accuracy": {"untrained": bench.accuracies(pruned.final, task, only="test")}, "final": "untrained"}
    return {
        **figures,
        "facts": brief(pruned.facts),
        "seconds": pruned.spending.to_json(),
        **cost_figures(task, pruned.final),
    }


def _in_rounds(bench: Bench, contender: Ours, ratio: float, epochs: float) -> Figures:
    target = (Target(metric="flops", ratio=ratio),)
    task, pruned = _pruned(bench, contender, target, FinetuneSettings(epochs=epochs))
    figures = {"accuracy": {"original": base(bench, task), "trained": bench.accuracies(pruned.final, task)}}
    return {
        **figures,
        "final": "trained",
        "facts": {**brief(pruned.facts), **{name: pruned.facts[name] for name in ROUND_FACTS if name in pruned.facts}},
        "seconds": pruned.spending.to_json(),
        **cost_figures(task, pruned.final),
        **bench.latency(pruned.final),
    }


def _few_filters(bench: Bench, method: str, num_steps: int) -> Figures:
    """Prune to the target in MACs at which EasiEdge's ranking leaves so many filters."""
    ratio, spending = _ratio_for_filters(bench), Spending()
    with spending.on(SEARCH):
        task = bench.task((Target(metric="flops", ratio=ratio),), spending)
    options, last = dict(OURS[method].options), num_steps
    if method == "easiedge":
        inside = num_steps // 3
        options |= {"rounds": 3, "steps_per_round": max(1, inside // 3)}
        last = num_steps - inside
    pruned = Ours(method=method, options=options).prune(task, spending, FinetuneSettings(steps=last))
    return {
        "accuracy": {"original": base(bench, task), "trained": bench.accuracies(pruned.final, task)},
        "final": "trained",
        "facts": {**brief(pruned.facts), "filters_left": _filters_left(task.graph, pruned.final), "asked_macs": ratio},
        "seconds": spending.to_json(),
        **cost_figures(task, pruned.final),
        **bench.latency(pruned.final),
    }


@lru_cache(maxsize=1)
def _ratio_for_filters(bench: Bench) -> float:
    """The largest share of the MACs at which EasiEdge's ranking leaves no more than the wished share of filters."""
    task = bench.task((Target(metric="flops", ratio=1.0),), Spending())
    full = cost.count(task.graph).macs
    batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
    scores = information_gain(task.graph, task.grouping, batches, run=task.run, head=task.head)
    low = reachable(task.cost_model, min_keep=task.min_keep, round_to=task.round_to)[Metric.MACS] / full
    high = 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        keep = allocate(
            scores,
            task.grouping,
            task.cost_model,
            (Budget(metric=Metric.MACS, limit=middle * full),),
            alpha=0.0,
            round_to=task.round_to,
            min_keep=task.min_keep,
        )
        enough = _filters_left(task.graph, cut(task.graph, task.grouping, keep)) <= FILTERS_LEFT
        low, high = (middle, high) if enough else (low, middle)
    return low


def _filters_left(before: ir.Model, after: ir.Model) -> float:
    widths = [row for row in result.layers(before, after) if row["kind"] == "Conv"]
    return sum(int(row["after"] or 0) for row in widths) / sum(int(row["before"]) for row in widths)


def _from_scratch(bench: Bench, mode: str, epochs: float) -> Figures:
    ratios, options = MODES[mode]
    target = tuple(Target(metric=metric, ratio=ratio) for metric, ratio in ratios.items())
    contender = Ours(method="dynhp", options={"from_scratch": True, **options}, compensates=False)
    task, pruned = _pruned(bench, contender, target, FinetuneSettings(epochs=epochs), min_keep=0.02)
    facts = pruned.facts
    return {
        "accuracy": {"trained": bench.accuracies(pruned.final, task)},
        "final": "trained",
        "facts": {**brief(facts), "events": facts["events"]},
        "seconds": pruned.spending.to_json(),
        **cost_figures(task, pruned.final),
    }


def _pruned(
    bench: Bench, contender: Ours, target: tuple[Target, ...], settings: FinetuneSettings, **spec: Json
) -> tuple[Task, Pruned]:
    spending = Spending()
    with spending.on(SEARCH):
        task = bench.task(target, spending, **{"round_to": ROUND_TO, **spec})
    return task, contender.prune(task, spending, settings)
