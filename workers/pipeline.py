"""What an attempt does: describe a network, describe a dataset, or prune.

The stages and their order are the engine's. Here is what surrounds them: the target in absolute figures, the data, the
proof of what was reached, and the files that the job leaves.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir as ir
import torch

from workers import analysis, result
from workers.aim import Aimed, aim
from workers.network_files import Source, ship
from workers.phase_times import PhaseTimes
from workers.predicted import around, lowered, predict
from workers.progress import Part
from workers.prune_spec import LATENCY, PruneSpec, Target, budgets, latency_budgets
from workers.pruning.allocation.budget import require_reachable
from workers.pruning.graph import cost, head, load, twin
from workers.pruning.graph.open_batch import open_batch
from workers.pruning.graph.second_stage import fed_rows
from workers.pruning.graph.shapes import known_shapes
from workers.pruning.groups.find import find, require_prunable
from workers.pruning.methods import transfer
from workers.pruning.methods.task import Task
from workers.pruning.training.classes import match_classes
from workers.pruning.training.data import Dataset, describe_dataset, open_dataset, require_match, synthetic
from workers.pruning.training.evaluate import Answers, Evaluation, answer, judge
from workers.pruning.training.picked import with_picked_rows
from workers.pruning.types import Budget, Cost, Frozen, Json, Metric, Phase, Run
from workers.report.page import render
from workers.stops import origin_notes, stop_notes, tail_cost, tail_frozen, trunk_of, with_tail
from workers.timed import Timed, Timer, in_lengths

VERSION: Final = "0.1.0"
REPORT_NAME: Final = "report.json"
PAGE_NAME: Final = "report.html"
_ANY_DIGEST: Final = "0" * 64
METADATA_PREFIX: Final = "espalier."


def analyse_network(path: Path) -> dict[str, Json]:
    """Describe a network: what it costs, what may be cut, how small it can become.

    Raises:
        InvalidGraph: the file is not a network that this engine reads.
    """
    return analysis.analyse(load.load(path))


def analyse_dataset(path: Path) -> dict[str, Json]:
    """Describe an archive of samples: kind, counts, shape.

    Raises:
        InvalidDataset: the file is not a dataset that this engine reads.
    """
    return describe_dataset(path)


def prune(spec: PruneSpec, *, network: Path, dataset: Path | None, out: Path, run: Run) -> dict[str, Json]:
    """Prune a network to every target of `spec`; writes the artifacts into `out` and gives the result of the API.

    The first target's result is at the top; where there are several targets, `variants` holds the result of each.

    Raises:
        PruningError: whatever a stage refuses, each by its own class.
    """
    torch.set_num_threads(run.num_threads)
    times = PhaseTimes(report=run.report, clock=run.clock)
    run = replace(run, report=times)
    source = Source.of(network)
    # Weights that lie beside the network are in its content already; a single file is mapped rather than copied.
    task = in_lengths(prepare(spec, network if source.companion_sha256 is None else source.content, dataset, run))
    out.mkdir(parents=True, exist_ok=True)
    before = _original(task)
    times.lap()
    variants, timer = [], Timer(spec=spec, task=task)
    for number, targets in enumerate(spec.target_sets):
        prefix = f"{number}-" if len(spec.target_sets) > 1 else ""
        aimed = _aimed(task, number, targets, prefix)
        part = Part(run.report, number / len(spec.target_sets), (number + 1) / len(spec.target_sets))
        aimed = replace(aimed, run=replace(run, report=part))
        shipped = aim(spec, aimed, before, _metadata(spec, targets, source.sha256, run.seed))
        of_variant = shipped.pruned.before or before
        content = shipped.pruned.content
        files = ship(content, out / f"{prefix}pruned.onnx", apart=source.companion_sha256 is not None)
        timed = timer.time(source.content, content)
        variant = _result(aimed, targets, of_variant, shipped, timed, size_bytes=int(str(files["size_bytes"]))) | files
        variant |= {
            "target": _in_words(spec, targets),
            "latency": timed.comparison(),
            "devices": timed.devices(),
            "timing": times.lap(),
        }
        variants.append(variant | _asked(spec, task) | {"warnings": _warnings(task, shipped, timed)})
    stated = dict(variants[0]) if len(variants) == 1 else {**variants[0], "variants": variants}
    stated |= result.provenance(task.uploaded, source, version=VERSION)
    stated["timing"] = times.finish()
    stated["artifacts"] = [entry for variant in variants for entry in _entries(variant)] + _report_entries()
    _write_reports(stated, out)
    return stated


def _aimed(task: Task, number: int, targets: tuple[Target, ...], prefix: str) -> Task:
    """Give the task of one set of targets."""
    exact, latencies = task.job_budgets[number], latency_budgets(targets)
    return replace(task, budgets=exact, latency_budgets=latencies, step_prefix=prefix)


def _write_reports(stated: Mapping[str, Json], out: Path) -> None:
    (out / REPORT_NAME).write_text(json.dumps(stated, indent=2, sort_keys=True, allow_nan=False) + "\n")
    (out / PAGE_NAME).write_text(render(stated), "utf-8")


def prepare(spec: PruneSpec, network: Path | bytes, dataset: Path | None, run: Run) -> Task:
    """Load and group the network and open the data; refuses what cannot be reached before any costly work.

    Raises:
        InvalidGraph: the network cannot be read.
        NothingToPrune: no channel may be removed.
        TargetUnreachable: a target is below the floor; the message states the smallest reachable figure.
        InvalidDataset: the data do not fit the network.
    """
    run.report(Phase.INSPECT, 0.0)
    run.report(Phase.LOAD, 0.0)
    whole = load.load(network)
    head.declare(whole, spec.head)
    part = trunk_of(whole)
    uploaded, tail = part.graph, tail_cost(part)
    graph = open_batch(uploaded)
    run.report(Phase.GROUP, 0.0)
    shapes = known_shapes(graph)
    grouping = find(graph, include=spec.include, exclude=spec.exclude, shapes=shapes.at_one)
    require_prunable(grouping)
    before = cost.count(graph, shapes.nominal)
    model = with_tail(predict(graph, grouping, shapes=shapes.nominal, before=before), tail)
    job_budgets = _job_budgets(spec, (uploaded, graph), before + tail, run.seed, apart=isinstance(network, bytes))
    for exact in job_budgets:
        require_reachable(model, exact, min_keep=spec.min_keep, round_to=spec.round_to)
    data = with_picked_rows(_data(spec, graph, dataset, run), part.whole, uploaded, seed=run.seed)
    outputs = head.find(graph)
    is_classifier = outputs.is_classification
    return Task(
        uploaded=uploaded,
        graph=graph,
        head=outputs,
        data=data,
        reference=answer(graph, data.validation, threads=run.num_threads) if is_classifier else graph,
        grouping=grouping,
        cost_model=model,
        budgets=(),
        job_budgets=job_budgets,
        finetune=spec.finetune,
        run=run,
        round_to=spec.round_to,
        min_keep=spec.min_keep,
        trunk=part if part.stops else None,
        tail=tail,
    )


def _warnings(task: Task, shipped: Aimed, timed: Timed) -> list[Json]:
    return [
        *twin.notes(task.uploaded),
        *origin_notes(task.uploaded if task.trunk is None else task.trunk.whole),
        *(() if task.trunk is None else stop_notes(task.trunk)),
        *shipped.pruned.outcome.warnings,
        *task.data.notes,
        *shipped.warnings,
        *timed.warnings(),
    ]


def _job_budgets(
    spec: PruneSpec, graphs: tuple[ir.Model, ir.Model], before: Cost, seed: int, *, apart: bool
) -> tuple[tuple[Budget, ...], ...]:
    """Limits of what is counted, for each set of targets; that of the file keeps room for what is around the graph."""
    exact = [budgets(targets, before) for targets in spec.target_sets]
    if not any(budget.metric is Metric.SIZE_BYTES for limits in exact for budget in limits):
        return tuple(exact)
    uploaded, graph = graphs
    metadata = [_metadata(spec, targets, _ANY_DIGEST, seed) for targets in spec.target_sets]
    rooms = around(graph, uploaded, metadata, apart=apart)
    return tuple(lowered(limits, room) for limits, room in zip(exact, rooms, strict=True))


def _data(spec: PruneSpec, graph: ir.Model, dataset: Path | None, run: Run) -> Dataset:
    computed = fed_rows(graph)
    inputs = tuple(each for each in twin.fed_specs(graph) if each.name not in computed)
    if dataset is None:
        return synthetic(graph, inputs, seed=run.seed)
    data = open_dataset(dataset, inputs, preprocessing=spec.preprocessing, seed=run.seed)
    if spec.method == "taylor" and spec.options.get("transfer") != "never" and transfer.differs(data, graph):
        return data  # the method gives the network an output for each class
    require_match(data, load.output_specs(graph), head.find(graph))
    return match_classes(data, graph)


def _original(task: Task) -> Evaluation:
    if isinstance(task.reference, Answers):
        return judge(task.reference, task.data.validation, reference=task.reference)
    return Evaluation(num_samples=len(task.data.validation))


def _metadata(spec: PruneSpec, targets: tuple[Target, ...], sha256: str, seed: int) -> dict[str, str]:
    return {
        f"{METADATA_PREFIX}source_sha256": sha256,
        f"{METADATA_PREFIX}method": spec.method,
        f"{METADATA_PREFIX}target": _in_words(spec, targets),
        f"{METADATA_PREFIX}seed": str(seed),
        f"{METADATA_PREFIX}version": VERSION,
    }


def _in_words(spec: PruneSpec, targets: tuple[Target, ...]) -> str:
    """The target in the short form of the API; without one it is the drop that is allowed."""
    allowed = "" if spec.max_accuracy_drop is None else f"max_accuracy_drop={spec.max_accuracy_drop:.6g}"
    return ",".join(target.text() for target in targets) or allowed


def _asked(spec: PruneSpec, task: Task) -> dict[str, Json]:
    return {"method": spec.method, "options": dict(spec.options), "seed": task.run.seed}


def _result(
    task: Task, targets: tuple[Target, ...], before: Evaluation, shipped: Aimed, timed: Timed, *, size_bytes: int
) -> dict[str, Json]:
    outcome, latency = shipped.pruned.outcome, timed.local
    full = cost.count(task.graph) + task.tail
    reached = replace(cost.count(outcome.graph) + task.tail, size_bytes=size_bytes)
    limits = [_limit(target, full, reached, timed) for target in targets]
    return {
        "before": result.side(full, before, latency.get("before")),
        "after": result.side(reached, shipped.pruned.evaluation, latency.get("after")),
        "targets": list(limits),
        "target_met": all(limit["met"] for limit in limits) if limits else shipped.drop is None or shipped.drop.held,
        "stopped_by": shipped.stopped_by,
        "accuracy_drop": None if shipped.drop is None else shipped.drop.to_json(),
        "tries": [each.to_json() for each in shipped.tries],
        "verified": task.data.kind != "synthetic",
        "layers": result.layers(task.graph, outcome.graph),
        "curve": result.curve(outcome),
        "facts": dict(outcome.facts),
        "finetune": result.finetune_json(outcome),
        "data": task.data.to_json(),
        "frozen": [{"node": entry.node, "reason": entry.reason} for entry in _frozen(task)],
        "parity": {
            "torch_vs_runtime_max_abs": shipped.pruned.parity,
            "masked_vs_cut_max_abs": outcome.masked_vs_cut,
        },
        "measurements": [result.measurement_json(of, measured) for of, measured in latency.items()],
    }


def _frozen(task: Task) -> tuple[Frozen, ...]:
    return task.grouping.frozen + (() if task.trunk is None else tail_frozen(task.trunk))


def _limit(target: Target, full: Cost, reached: Cost, timed: Timed) -> dict[str, Json]:
    if target.metric != LATENCY:
        return result.target_json(target, full, reached)
    pair = timed.pairs.get(target.device)
    return result.latency_target_json(target, {name: pair[name] for name in ("before", "after")} if pair else {})


def _entries(variant: Mapping[str, Json]) -> list[Json]:
    network: dict[str, Json] = {
        "file": variant["file"],
        "kind": "onnx",
        "target": variant["target"],
        "sha256": variant["sha256"],
        "size_bytes": variant["size_bytes"],
        "summary": variant["after"],
    }
    companion = variant.get("external_data")
    if not isinstance(companion, Mapping):
        return [network]
    return [network, {**companion, "kind": "external_data", "target": variant["target"], "summary": {}}]


def _report_entries() -> list[Json]:
    return [{"file": name, "kind": "report", "target": None, "summary": {}} for name in (REPORT_NAME, PAGE_NAME)]
