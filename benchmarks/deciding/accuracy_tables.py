"""Tables of accuracy at equal MACs: without training, after training for equal steps, after long training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Final

import onnx_ir as ir

from benchmarks.deciding.ledger import Figures, Row
from benchmarks.deciding.ours import OURS, TRAINS
from benchmarks.deciding.peers import PEERS, TargetBeyondTool
from benchmarks.deciding.spending import SEARCH, Spending
from benchmarks.deciding.subjects import SUBJECTS
from benchmarks.deciding.wishes import Wishes
from benchmarks.deciding.workbench import NO_TRAINING, Bench, Pruned, cost_figures, trained, trained_with
from workers.prune_spec import Target
from workers.pruning.methods.task import Task
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Json

UNTRAINED_METHODS: Final = (
    "auto",
    "torch_pruning_l2",
    "magnitude",
    "torch_pruning_taylor",
    "easiedge",
    "onnxsim_l2",
    "random",
    "taylor",
    "onnxsim_wanda",
    "lcp",
    "legr",
)
TRAINED_METHODS: Final = ("auto", "torch_pruning_l2", "magnitude", "easiedge", "taylor", "dynhp", "lcp", "random")
WALKS: Final = ("easiedge", "taylor", "dynhp")  # train while they prune; the steps are divided among their rounds
TAYLOR_SHARE: Final = 0.04
EASIEDGE_ROUNDS: Final = 6
STEPS_PER_EPOCH_BATCH: Final = 128
ROUND_TO: Final = 1  # every contender may use every width: equal MACs, and the peers do not round either


def untrained(wishes: Wishes) -> Iterator[Row]:
    """Accuracy after the cut, after BN re-estimation and after compensation. No step of training."""
    for seed in wishes.of("seeds", (0, 1, 2)):
        for ratio in wishes.of("ratios", (0.5, 0.3)):
            for name in wishes.of("networks", ("resnet56",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for method in _possible(bench, wishes.of("methods", UNTRAINED_METHODS)):
                    if method in TRAINS:
                        continue
                    key = {"network": name, "method": method, "ratio": ratio, "seed": seed}
                    yield Row(table="untrained", key=key, compute=lambda c=Contest(bench, method, ratio): _untrained(c))


def trained_equally(wishes: Wishes) -> Iterator[Row]:
    """Accuracy after the same number of training steps, those within a method included, with our recipe for all."""
    for seed in wishes.of("seeds", (0,)):
        for ratio in wishes.of("ratios", (0.3, 0.5)):
            for name in wishes.of("networks", ("resnet56",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for method in _possible(bench, wishes.of("methods", TRAINED_METHODS)):
                    for count in wishes.of("steps", (400,)):
                        key = {"network": name, "method": method, "ratio": ratio, "seed": seed, "steps": count}
                        contest = Contest(bench, method, ratio)
                        yield Row(table="trained", key=key, compute=lambda c=contest, n=count: _trained(c, n))


def time_to_accuracy(wishes: Wishes) -> Iterator[Row]:
    """The peer with plain cross-entropy and with our recipe, and `auto` with a few short budgets."""
    plan: Mapping[tuple[str, str], tuple[int, ...]] = {
        ("torch_pruning_l2", "cross_entropy"): (400,),
        ("auto", "ours"): (0, 20, 40, 80, 120, 160, 200, 280),
        ("torch_pruning_l2", "ours"): (160,),
    }
    for seed in wishes.of("seeds", (0,)):
        for ratio in wishes.of("ratios", (0.3, 0.5)):
            for name in wishes.of("networks", ("resnet56",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for (method, recipe), budgets in plan.items():
                    if method not in wishes.of("methods", (method,)):
                        continue
                    contest = Contest(bench, method, ratio)
                    for count in sorted({min(most, max(wishes.of("steps", budgets))) for most in budgets}):
                        key = {"network": name, "method": method, "recipe": recipe}
                        key |= {"ratio": ratio, "seed": seed, "steps": count}
                        yield Row(table="time", key=key, compute=lambda c=contest, n=count, r=recipe: _timed(c, n, r))


def long_training(wishes: Wishes) -> Iterator[Row]:
    """Ten epochs of our recipe at half and at three tenths of the MACs."""
    return _trained_long(wishes, "long", ratios=(0.5, 0.3), seeds=(0,), epochs=10.0)


def full_budget(wishes: Wishes) -> Iterator[Row]:
    """A hundred epochs at 2.1 and 2.55 times fewer MACs, as the tables of the literature have it: for a GPU."""
    ratios = (round(1 / 2.1, 4), round(1 / 2.55, 4))
    return _trained_long(wishes, "full", ratios=ratios, seeds=(0, 1, 2), epochs=100.0)


def _trained_long(
    wishes: Wishes, table: str, *, ratios: tuple[float, ...], seeds: tuple[int, ...], epochs: float
) -> Iterator[Row]:
    for seed in wishes.of("seeds", seeds):
        for ratio in wishes.of("ratios", ratios):
            for name in wishes.of("networks", ("resnet56",)):
                bench = Bench(subject=SUBJECTS[name], seed=seed, means=wishes.means)
                for method in _possible(bench, wishes.of("methods", ("auto", "torch_pruning_l2"))):
                    for count in wishes.of("epochs", (epochs,)):
                        key = {"network": name, "method": method, "ratio": ratio, "seed": seed, "epochs": count}
                        contest = Contest(bench, method, ratio)
                        yield Row(
                            table=table,
                            key={**key, "device": wishes.means.device},
                            compute=lambda c=contest, e=count: _epochs(c, e),
                        )


@dataclass(frozen=True, slots=True)
class Contest:
    """A contender at a target."""

    bench: Bench
    method: str
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """What came of it: the task that was given, and the pruned network."""

    task: Task
    pruned: Pruned


@lru_cache(maxsize=2)
def contested(contest: Contest) -> Won:
    """Search and repair without training; the last two contests are kept, for rows that differ in training alone.

    Raises:
        TargetBeyondTool: a tool from outside cannot make the network that small.
    """
    spending, bench = Spending(), contest.bench
    with spending.on(SEARCH):
        task = bench.task((Target(metric="flops", ratio=contest.ratio),), spending, round_to=ROUND_TO)
    if contest.method in PEERS:
        return Won(task=task, pruned=PEERS[contest.method].find(task, bench.subject, bench.means, spending))
    return Won(task=task, pruned=OURS[contest.method].prune(task, spending, NO_TRAINING))


def _untrained(contest: Contest) -> Figures:
    bench, method = contest.bench, contest.method
    try:
        won = contested(contest)
    except TargetBeyondTool as beyond:
        return {"impossible": str(beyond)}
    stages: Mapping[str, ir.Model] = won.pruned.stages
    if method in OURS:
        stages = OURS[method].stages(won.task, won.pruned)
    accuracy: dict[str, Json] = {}
    for name, graph in stages.items():
        is_last = name == list(stages)[-1]
        if is_last or name == "recalibrated" or bench.seed == 0:
            accuracy[name] = bench.accuracies(graph, won.task, only=None if is_last else "test")
    figures = {"accuracy": accuracy, "final": list(stages)[-1], "facts": brief(won.pruned.facts)}
    return {**figures, **_told(bench, won, list(stages.values())[-1], with_latency=bench.seed == 0)}


def _trained(contest: Contest, num_steps: int) -> Figures:
    bench, method = contest.bench, contest.method
    if method in WALKS:
        won = _walked(contest, num_steps)
        final = won.pruned.final
    else:
        contested.cache_clear()  # this row trains within its own time
        won = contested(contest)
        final = trained(won.task, won.pruned.final, num_steps, "ours", won.pruned.spending)
    figures: dict[str, Json] = {"accuracy": {"trained": bench.accuracies(final, won.task)}}
    figures["facts"] = brief(won.pruned.facts)
    return {**figures, "final": "trained", **_told(bench, won, final, with_latency=False)}


def _walked(contest: Contest, num_steps: int) -> Won:
    """Methods that train between rounds: about half of the steps within them, the rest at the end."""
    spending, bench = Spending(), contest.bench
    with spending.on(SEARCH):
        task = bench.task((Target(metric="flops", ratio=contest.ratio),), spending, round_to=ROUND_TO)
    inside = num_steps // 2
    options: dict[str, Json] = dict(OURS[contest.method].options)
    last = num_steps
    if contest.method == "easiedge":
        options["steps_per_round"], last = max(1, inside // EASIEDGE_ROUNDS), num_steps - inside
    elif contest.method == "taylor":
        rounds = max(1, round((1 - contest.ratio) / 2 / TAYLOR_SHARE))  # MACs fall about twice as fast as channels
        per_epoch = max(1, len(task.data.train) // STEPS_PER_EPOCH_BATCH)
        options["epochs_per_round"], last = inside / rounds / per_epoch, num_steps - inside
    method = OURS[contest.method].method
    from benchmarks.deciding.ours import Ours

    pruned = Ours(method=method, options=options).prune(task, spending, FinetuneSettings(steps=last))
    return Won(task=task, pruned=pruned)


def _timed(contest: Contest, num_steps: int, recipe: str) -> Figures:
    won = contested(contest)
    spending = Spending(wall=dict(won.pruned.spending.wall), cpu=dict(won.pruned.spending.cpu))
    final = trained(won.task, won.pruned.final, num_steps, recipe, spending)
    accuracy: dict[str, Json] = {"trained": contest.bench.accuracies(final, won.task)}
    return {"accuracy": accuracy, "final": "trained", **_told(contest.bench, won, final, spending=spending)}


def _epochs(contest: Contest, epochs: float) -> Figures:
    won = contested(contest)
    spending = Spending(wall=dict(won.pruned.spending.wall), cpu=dict(won.pruned.spending.cpu))
    final = trained_with(won.task, won.pruned.final, FinetuneSettings(epochs=epochs), spending)
    bench = contest.bench
    accuracy: dict[str, Json] = {"trained": bench.accuracies(final, won.task), "original": base(bench, won.task)}
    return {"accuracy": accuracy, "final": "trained", **_told(bench, won, final, spending=spending, with_latency=True)}


def base(bench: Bench, task: Task) -> dict[str, Json]:
    """What the original has on the same images."""
    return bench.accuracies(task.uploaded, task)


def originals(wishes: Wishes) -> Iterator[Row]:
    """The accuracy of every original, so that each table can say what was lost."""
    for name in wishes.of("networks", ("resnet56", "resnet20", "crackcnn")):
        bench = Bench(subject=SUBJECTS[name], seed=0, means=wishes.means)
        yield Row(table="originals", key={"network": name}, compute=lambda b=bench: _original(b))


def _original(bench: Bench) -> Figures:
    task = bench.task((Target(metric="flops", ratio=0.9),), Spending())
    return {"accuracy": {"original": base(bench, task)}, "final": "original"}


def _told(
    bench: Bench, won: Won, graph: ir.Model, *, spending: Spending | None = None, with_latency: bool = False
) -> dict[str, Json]:
    figures = {"seconds": (spending or won.pruned.spending).to_json(), **cost_figures(won.task, graph)}
    return figures | bench.latency(graph) if with_latency else figures


def _possible(bench: Bench, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out tools that are not installed, and those that need a torch module where there is none."""
    return tuple(
        method
        for method in methods
        if method not in PEERS
        or (find_spec(PEERS[method].package) and (bench.subject.module or not PEERS[method].needs_module))
    )


def brief(facts: Mapping[str, Json]) -> dict[str, Json]:
    """Facts that are figures; long lists belong to reports of jobs."""
    return {
        name: value for name, value in facts.items() if value is None or isinstance(value, bool | int | float | str)
    }
