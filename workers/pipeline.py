"""What an attempt does: describe a network, describe a dataset, or prune.

The stages and their order are the engine's. Here is what surrounds them: the target in absolute figures, the data, the
proof of what was reached, and the files that the job leaves.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers import analysis, result
from workers.phase_times import PhaseTimes
from workers.prune_spec import PruneSpec, Target
from workers.pruning.allocation.budget import reachable
from workers.pruning.errors import TargetUnreachable, UnstableTiming
from workers.pruning.export.parity import parity
from workers.pruning.export.write import write
from workers.pruning.graph import cost, head, load
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find, require_prunable
from workers.pruning.measure.latency import measure
from workers.pruning.methods import METHODS
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.training.data import Dataset, describe_dataset, open_dataset, require_match, synthetic
from workers.pruning.training.evaluate import Evaluation, answer, evaluate
from workers.pruning.types import Budget, CostModel, Json, Measurement, Phase, Run

VERSION: Final = "0.1.0"
REPORT_NAME: Final = "report.json"
PARITY_SAMPLES: Final = 8
METADATA_PREFIX: Final = "espalier."


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One pruned network: its bytes, its proof, and what is said about it."""

    outcome: Outcome
    content: bytes
    parity: float
    evaluation: Evaluation
    latency: Mapping[str, Measurement]
    warnings: tuple[str, ...]


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
    source = network.read_bytes()
    task = prepare(spec, network, dataset, run)
    out.mkdir(parents=True, exist_ok=True)
    before = _judged(task.graph, task)
    variants = []
    for number, targets in enumerate(spec.target_sets):
        budgets = tuple(target.budget(cost.count(task.graph)) for target in targets)
        prefix = f"{number}-" if len(spec.target_sets) > 1 else ""
        aimed = replace(task, budgets=budgets, step_prefix=prefix)
        artifact = _artifact(spec, aimed, targets, source)
        (out / f"{prefix}pruned.onnx").write_bytes(artifact.content)
        variants.append(_result(spec, aimed, targets, before, artifact))
    stated = dict(variants[0]) if len(variants) == 1 else {**variants[0], "variants": variants}
    stated["timing"] = times.finish()
    stated["artifacts"] = [entry for variant in variants for entry in _entries(variant)] + [_report_entry()]
    (out / REPORT_NAME).write_text(json.dumps(stated, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return stated


def prepare(spec: PruneSpec, network: Path, dataset: Path | None, run: Run) -> Task:
    """Load and group the network and open the data; refuses what cannot be reached before any costly work.

    Raises:
        InvalidGraph: the network cannot be read.
        NothingToPrune: no channel may be removed.
        TargetUnreachable: a target is below the floor; the message states the smallest reachable figure.
        InvalidDataset: the data do not fit the network.
    """
    run.report(Phase.INSPECT, 0.0)
    run.report(Phase.LOAD, 0.0)
    graph = load.load(network)
    run.report(Phase.GROUP, 0.0)
    grouping = find(graph, include=spec.include, exclude=spec.exclude)
    require_prunable(grouping)
    model = cost_model(graph, grouping)
    before = cost.count(graph)
    for targets in spec.target_sets:
        require_reachable(model, [target.budget(before) for target in targets], spec)
    data = _data(spec, graph, dataset, run)
    outputs = head.find(graph)
    is_classifier = outputs.is_classification
    return Task(
        graph=graph,
        head=outputs,
        data=data,
        reference=answer(graph, data.validation, threads=run.num_threads) if is_classifier else graph,
        grouping=grouping,
        cost_model=model,
        budgets=(),
        finetune=spec.finetune,
        run=run,
        round_to=spec.round_to,
        min_keep=spec.min_keep,
    )


def require_reachable(model: CostModel, budgets: list[Budget], spec: PruneSpec) -> None:
    """Refuse a budget that even the narrowest network exceeds.

    Raises:
        TargetUnreachable: with the smallest reachable figure.
    """
    smallest = reachable(model, min_keep=spec.min_keep, round_to=spec.round_to)
    for budget in budgets:
        if smallest[budget.metric] > budget.limit:
            raise TargetUnreachable(
                "Even with every group at its floor the network costs more than the target",
                where=budget.metric.value,
                actual=f"{budget.limit:.6g} asked for",
                allowed=f"{smallest[budget.metric]:.6g} or more",
                advice="Raise the target, lower export.min_keep, or exclude fewer layers.",
            )


def _data(spec: PruneSpec, graph: ir.Model, dataset: Path | None, run: Run) -> Dataset:
    inputs = load.input_specs(graph)
    if dataset is None:
        return synthetic(graph, inputs, seed=run.seed)
    data = open_dataset(dataset, inputs, preprocessing=spec.preprocessing, seed=run.seed)
    require_match(data, load.output_specs(graph), head.find(graph))
    return data


def _judged(graph: ir.Model, task: Task) -> Evaluation:
    return evaluate(graph, task.data.validation, reference=task.reference, threads=task.run.num_threads)


def _artifact(spec: PruneSpec, task: Task, targets: tuple[Target, ...], source: bytes) -> Artifact:
    run = task.run
    outcome = METHODS[spec.method](task, **spec.options)
    run.report(Phase.EXPORT, 0.0)
    metadata = {
        f"{METADATA_PREFIX}source_sha256": hashlib.sha256(source).hexdigest(),
        f"{METADATA_PREFIX}method": spec.method,
        f"{METADATA_PREFIX}target": ",".join(target.text() for target in targets),
        f"{METADATA_PREFIX}seed": str(run.seed),
        f"{METADATA_PREFIX}version": VERSION,
    }
    content = write(outcome.graph, task.graph, metadata)
    run.report(Phase.VERIFY, 0.0)
    samples = task.data.validation
    inputs = samples.batch(np.arange(min(PARITY_SAMPLES, len(samples)), dtype=np.int64))
    difference = parity(content, outcome.graph, inputs, run)
    run.report(Phase.VERIFY, 0.3, "held-out samples")
    evaluation = _judged(load.load(content), task)
    run.report(Phase.MEASURE, 0.0)
    latency, doubts = _latency(spec, task, {"before": source, "after": content})
    run.report(Phase.MEASURE, 1.0)
    return Artifact(
        outcome=outcome, content=content, parity=difference, evaluation=evaluation, latency=latency, warnings=doubts
    )


def _latency(
    spec: PruneSpec, task: Task, networks: Mapping[str, bytes]
) -> tuple[Mapping[str, Measurement], tuple[str, ...]]:
    """Time both networks on one thread; a machine too busy to tell is a warning, never a failed job."""
    if not spec.measure:
        return {}, ()
    sample = task.data.validation.batch(np.zeros(1, np.int64))
    specs = load.input_specs(task.graph)
    shapes = {spec.name: array.shape for spec, array in zip(specs, sample, strict=True)}
    report = task.run.report
    try:
        return measure(networks, shapes=shapes, progress=lambda part: report(Phase.MEASURE, part)), ()
    except UnstableTiming as error:
        return {}, (f"Latency is not stated: {error.message}",)


def _result(
    spec: PruneSpec, task: Task, targets: tuple[Target, ...], before: Evaluation, artifact: Artifact
) -> dict[str, Json]:
    outcome = artifact.outcome
    reached = cost.count(outcome.graph)
    drop, warnings = _accuracy_drop(spec, before, artifact.evaluation)
    met = result.holds(reached, task.budgets)
    text = ",".join(target.text() for target in targets)
    return {
        "before": result.side(cost.count(task.graph), before, artifact.latency.get("before")),
        "after": result.side(reached, artifact.evaluation, artifact.latency.get("after")),
        "target": text,
        "targets": result.target_json(targets, task.budgets, reached),
        "target_met": met,
        "stopped_by": "target" if met else "floor",
        "accuracy_drop": drop,
        "verified": task.data.kind != "synthetic",
        "method": spec.method,
        "options": spec.options,
        "seed": task.run.seed,
        "layers": result.layers(task.graph, outcome.graph),
        "curve": result.curve(outcome),
        "finetune": result.finetune_json(outcome),
        "data": task.data.to_json(),
        "frozen": [{"node": entry.node, "reason": entry.reason} for entry in task.grouping.frozen],
        "parity": {
            "torch_vs_runtime_max_abs": artifact.parity,
            "masked_vs_cut_max_abs": outcome.masked_vs_cut,
        },
        "measurements": [result.measurement_json(of, measured) for of, measured in artifact.latency.items()],
        "sha256": hashlib.sha256(artifact.content).hexdigest(),
        "size_bytes": len(artifact.content),
        "file": f"{task.step_prefix}pruned.onnx",
        "warnings": [*outcome.warnings, *task.data.notes, *artifact.warnings, *warnings],
    }


def _accuracy_drop(spec: PruneSpec, before: Evaluation, after: Evaluation) -> tuple[Json, list[str]]:
    """Compare the fall of held-out accuracy with what the job allows; agreement stands in where there are no labels."""
    allowed = spec.max_accuracy_drop
    if before.accuracy is not None and after.accuracy is not None:
        measure_name, found = "accuracy", before.accuracy - after.accuracy
    elif after.agreement is not None:
        measure_name, found = "agreement", 1.0 - after.agreement
    else:
        return None, [] if allowed is None else ["max_accuracy_drop was not checked: there is no accuracy to compare."]
    held = None if allowed is None else found <= allowed
    warnings = []
    if held is False:
        warnings.append(
            f"Held-out {measure_name} fell by {found:.4f}, more than max_accuracy_drop allows ({allowed:.4f}). "
            "The target was given precedence; ask for a milder target or more fine-tuning steps."
        )
    return {"of": measure_name, "found": found, "allowed": allowed, "held": held}, warnings


def _entries(variant: Mapping[str, Json]) -> list[Json]:
    after = variant["after"]
    return [
        {
            "file": variant["file"],
            "kind": "onnx",
            "target": variant["target"],
            "sha256": variant["sha256"],
            "size_bytes": variant["size_bytes"],
            "summary": after,
        }
    ]


def _report_entry() -> Json:
    return {"file": REPORT_NAME, "kind": "report", "target": None, "summary": {}}
