"""How well the latency model predicts what it has not seen, and what the steps that it learns are worth. One thread.

    python -m benchmarks.latency_model [--networks resnet56 ...] [--shares 0.75 0.5 0.3] [--seconds 20] [--into FILE]

Part 1, prediction. The rows of every network are timed as a job does it: each layer at a few widths, interleaved. Then
every network is timed at widths that no row was asked for: random shares of every group, in the steps that were
learned, and once for each share without regard to steps. Errors are relative, of the median of a run. *new network*:
the sum of rows, as nothing was timed as a whole, neither of it nor of another. *new widths*: corrected by the original
alone, which is what a job knows when it makes its first plan. The bound: a median of at most 10 % in both.

Part 2, steps. At half the MACs, magnitude per MAC: widths in multiples of 8 by hand, and widths in the learned steps
that the model plans with at most the same MACs and predicted time. All timed in turn; the ratio of the second over the
first with its 95 % interval. The bound: the interval does not lie above 1.

Every network that is done is a line of FILE; the same command goes on behind the last one, and prints all of them. What
the device timed is in its lines too, so that a network finds the rows of those before it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks.latency_subjects import SUBJECTS, at_widths, random_widths
from benchmarks.resumed import Resumed
from benchmarks.setting import host_line, table
from workers.pruning.allocation.budget import cost
from workers.pruning.allocation.rank import allocate
from workers.pruning.errors import TargetUnreachable
from workers.pruning.graph import load, save
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.groups.lengths import Lengths
from workers.pruning.latency import correction, layers
from workers.pruning.latency.micro_graph import micro_graph
from workers.pruning.latency.model import LatencyModel
from workers.pruning.latency.table import PACE, on_one_clock
from workers.pruning.measure.latency import measure
from workers.pruning.measure.stats import compare
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Budget, CostModel, Grouping, Keep, LatencyLimit, Metric

ORIGINAL = "original"
BY_EIGHT, PLANNED = "multiples of 8", "planned"


@dataclass(slots=True, kw_only=True)
class Subject:
    """A network, its model on this machine, and what it took at several widths."""

    name: str
    graph: ir.Model
    grouping: Grouping
    costs: CostModel
    latency: LatencyModel
    seconds: float
    kept: dict[str, list[int]]
    measured: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.75, 0.5, 0.3])
    parser.add_argument("--seconds", type=float, default=20.0, help="per network, for its variants")
    parser.add_argument("--layer-seconds", type=float, default=4.0, help="per 64 rows of the table")
    parser.add_argument("--into", type=Path, default=Path(tempfile.gettempdir()) / "latency_model.jsonl")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread, batch 1\n")
    watch = LocalStopwatch(layer_seconds=arguments.layer_seconds)
    settings = f"{arguments.shares} {arguments.seconds} {arguments.layer_seconds} {arguments.seeds}"
    done = Resumed(path=arguments.into, settings=settings)
    subjects = []
    for name in arguments.networks:
        if (found := done.found(name)) is None:
            found = _found(_subject(name, watch, arguments), arguments.seconds)
            done.keep(name, found)
        watch.rows.update(found["rows"])
        subjects.append(found)
        print(f"{name}: {found['asked']} rows asked, off by {_signed(found['signed'])}", flush=True)
    print()
    _print_predictions(subjects)
    print()
    _print_steps(subjects)


def _found(subject: Subject, seconds: float) -> dict[str, Any]:
    """All that the tables say of a network."""
    own = [_observed(subject)]
    errors = [
        _errors(subject, correction.Correction(), aligned=True),
        _errors(subject, correction.learned(own), aligned=True),
        _errors(subject, correction.learned(own), aligned=False),
    ]
    return {
        "name": subject.name,
        "original": subject.measured[ORIGINAL],
        "asked": len(subject.latency.table.asked),
        "reused": len(subject.latency.table.reused),
        "seconds": subject.seconds,
        "steps": ", ".join(f"{kind.split()[0]} {step}" for kind, step in subject.latency.steps.items()),
        "fits": ", ".join(f"{kind.split()[0]} {fit.read}, {fit.written}" for kind, fit in subject.latency.fits.items()),
        "signed": errors,
        "at equal MACs": _at_equal_macs(subject, seconds),
        "rows": subject.latency.table.timings(),
    }


def _signed(errors: Sequence[Sequence[float]]) -> str:
    """Medians with their signs: a prediction above what was measured is positive."""
    return ", ".join(f"{statistics.median(each):+.1%}" for each in errors)


def _subject(name: str, watch: LocalStopwatch, arguments: argparse.Namespace) -> Subject:
    graph = load.load(SUBJECTS[name]())
    grouping = find(graph)
    costs = cost_model(graph, grouping)
    latency = LatencyModel(layers.find(graph, Lengths(graph, grouping).of), costs.widths, watch)
    started = time.perf_counter()
    latency.learn()
    seconds = time.perf_counter() - started
    steps = latency.group_steps(None)
    kept = {ORIGINAL: list(costs.widths)}
    for share in arguments.shares:
        for seed in arguments.seeds:
            kept[f"{share} in steps, {seed}"] = random_widths(costs.widths, steps, share, seed)
        kept[f"{share} any"] = random_widths(costs.widths, [1] * len(steps), share, arguments.seeds[0])
    contents = {variant: at_widths(graph, grouping, widths) for variant, widths in kept.items()}
    beside = {row.key: micro_graph(row) for row in PACE}
    timed = on_one_clock(measure({**contents, **beside}, budget_seconds=arguments.seconds))
    # A machine that is slower or faster than when it timed the rows is so on those beside the networks, too.
    pace = latency.table.pace({key: timed[key] for key in beside})
    measured = {variant: timed[variant] / pace for variant in contents}
    return Subject(
        name=name,
        graph=graph,
        grouping=grouping,
        costs=costs,
        latency=latency,
        seconds=seconds,
        kept=kept,
        measured=measured,
    )


def _observed(subject: Subject) -> correction.Observed:
    parts = subject.latency.parts(subject.kept[ORIGINAL])
    return correction.Observed(name=subject.name, parts_ms=parts, measured_ms=subject.measured[ORIGINAL])


def _errors(subject: Subject, factors: correction.Correction, *, aligned: bool) -> list[float]:
    """Relative errors at widths whose rows were not asked for; positive where too much is predicted."""
    return [
        factors.apply(subject.latency.parts(kept)) / subject.measured[variant] - 1
        for variant, kept in subject.kept.items()
        if variant != ORIGINAL and variant.endswith("any") != aligned
    ]


def _print_predictions(subjects: Sequence[dict[str, Any]]) -> None:
    rows: list[list[object]] = []
    pooled: list[list[float]] = [[], [], []]
    for subject in subjects:
        found = [[abs(error) for error in errors] for errors in subject["signed"]]
        for errors, pool in zip(found, pooled, strict=True):
            pool.extend(errors)
        about = [subject[key] for key in ("name", "original", "asked", "reused", "seconds", "steps", "fits")]
        rows.append([*about, *map(_in_words, found)])
    rows.append(["all", "", "", "", "", "", "", *map(_in_words, pooled)])
    header = ["network", "original, ms", "rows asked", "reused", "seconds", "steps", "must divide widths read, written"]
    table([*header, "new network: median, worst", "new widths in steps", "new widths, any"], rows)


def _in_words(errors: Sequence[float]) -> str:
    return f"{statistics.median(errors):.1%}, {max(errors):.1%}" if errors else "-"


def _print_steps(subjects: Sequence[dict[str, Any]]) -> None:
    header = ["network", "MACs, by 8", "MACs, planned", "latency, by 8", "latency, planned"]
    rows = [subject["at equal MACs"] for subject in subjects if subject["at equal MACs"]]
    table([*header, "planned over by 8", "interval", "not slower"], rows)


def _at_equal_macs(subject: Subject, seconds: float) -> list[object]:
    """The learned steps beside multiples of 8; nothing where the network is too narrow for those."""
    try:
        keeps = {BY_EIGHT: _by_eight(subject), PLANNED: _planned(subject)}
    except TargetUnreachable:
        return []
    contents = {name: save.to_bytes(cut(subject.graph, subject.grouping, keep)) for name, keep in keeps.items()}
    timed = measure({ORIGINAL: SUBJECTS[subject.name](), **contents}, budget_seconds=seconds)
    compared = compare(timed[BY_EIGHT], timed[PLANNED])
    full = cost(subject.costs, subject.costs.widths).macs
    shares = [cost(subject.costs, subject.grouping.widths(keep)).macs / full for keep in keeps.values()]
    interval = f"{compared.ratio.low:.3f} to {compared.ratio.high:.3f}"
    clock = on_one_clock(timed)
    over = [clock[name] / clock[ORIGINAL] for name in keeps]
    held = "yes" if compared.ratio.low <= 1 else "no"
    return [subject.name, *shares, *over, compared.ratio.value, interval, held]


def _by_eight(subject: Subject) -> Keep:
    full = cost(subject.costs, subject.costs.widths).macs
    budget = Budget(metric=Metric.MACS, limit=full / 2)
    scores = magnitude(subject.graph, subject.grouping)
    return allocate(scores, subject.grouping, subject.costs, [budget], alpha=1.0, round_to=8)


def _planned(subject: Subject) -> Keep:
    """At most the MACs and the predicted time of the widths by hand."""
    by_hand = subject.grouping.widths(_by_eight(subject))
    budget = Budget(metric=Metric.MACS, limit=float(cost(subject.costs, by_hand).macs))
    subject.latency.time(by_hand)
    subject.latency.observe(ORIGINAL, subject.costs.widths, subject.measured[ORIGINAL])
    predicted = subject.latency.predict(by_hand)
    limit = LatencyLimit(
        device="dev_local",
        limit_ms=predicted,
        layers=subject.latency.timed_layers(predicted),
        steps=subject.latency.group_steps(None),
        finer=False,
    )
    scores = magnitude(subject.graph, subject.grouping)
    return allocate(scores, subject.grouping, subject.costs, [budget], alpha=1.0, limits=[limit])


if __name__ == "__main__":
    main()
