"""The result of a prune job in the words of the API."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version as installed

import onnx_ir as ir

from workers.analysis import figures
from workers.network_files import Source
from workers.prune_spec import Target
from workers.pruning.measure.host import host
from workers.pruning.measure.stats import Comparison
from workers.pruning.methods.in_turn import by_medians, by_ratio
from workers.pruning.methods.task import Outcome
from workers.pruning.training.evaluate import Evaluation
from workers.pruning.types import Cost, Json, Measurement


def side(counted: Cost, evaluation: Evaluation | None, latency: Measurement | None) -> dict[str, Json]:
    """Give `before` or `after`: costs, and what was measured of it."""
    stated: dict[str, Json] = figures(counted)
    if evaluation is not None:
        stated |= evaluation.to_json()
    if latency is not None:
        stated["latency_ms"] = latency.p50_ms
    return stated


def layers(before: ir.Model, after: ir.Model) -> list[Json]:
    """Give the output width of every layer with weights, before and after."""
    widths_after = {node.name: _width(node) for node in after.graph}
    rows: list[Json] = []
    for node in before.graph:
        width = _width(node)
        if width is not None:
            rows.append(
                {"name": node.name, "kind": node.op_type, "before": width, "after": widths_after.get(node.name)}
            )
    return rows


def curve(outcome: Outcome) -> list[Json]:
    """Give the way to the result: held-out quality after each stage, and the loss while training."""
    points: list[Json] = [{"stage": stage.name, **stage.evaluation.to_json()} for stage in outcome.stages]
    if outcome.finetuned is not None:
        points += [{"stage": "training", **asdict(point)} for point in outcome.finetuned.curve]
    return points


def finetune_json(outcome: Outcome) -> dict[str, Json]:
    """State every figure that fine-tuning used, and whether its result was kept."""
    if outcome.finetuned is None:
        return {"steps": 0}
    trained = outcome.finetuned
    return {
        **trained.recipe.as_json(),
        "loss_before": trained.loss_before,
        "loss_after": trained.loss_after,
        "kept": trained.improved,
    }


def target_json(target: Target, before: Cost, counted: Cost) -> dict[str, Json]:
    """State a target of what is counted: its limit in absolute figures, what was reached, whether it holds."""
    budget = target.budget(before)
    reached = getattr(counted, budget.metric.value)
    stated: dict[str, Json] = {"target": target.text(), "metric": budget.metric.value, "limit": budget.limit}
    return {**stated, "reached": reached, "met": float(reached) <= budget.limit}


def latency_target_json(target: Target, pair: Mapping[str, Measurement]) -> dict[str, Json]:
    """State a latency target in ms as its device measured "before" and "after" in turn; without these it is not met.

    It is judged as plans are. A share of the original is judged by the ratio of runs that lie side by side, which no
    drift of the clock changes: `reached` is that ratio of the original's median, `limit` the share that was asked for.
    Milliseconds are judged by medians, both of processor time where other programs disturbed either.
    """
    stated: dict[str, Json] = {"target": target.text(), "metric": target.metric, "device": target.device}
    if not pair:
        unknown = dict.fromkeys(("judged_by", "clock", "limit", "reached", "ratio", "ratio_interval"))
        return {**stated, **unknown, "met": False}
    judge = by_medians if target.ratio is None else by_ratio
    found = judge(pair["before"], pair["after"])
    limit = target.value if target.ratio is None else target.ratio * found.original_ms
    return {
        **stated,
        "judged_by": found.judged_by.value,
        "clock": found.clock,
        "limit": limit,
        "reached": found.reached_ms,
        "ratio": found.ratio,
        "ratio_interval": None if found.interval is None else [found.interval.low, found.interval.high],
        "met": limit is not None and found.reached_ms <= limit,
    }


def measurement_json(of: str, measured: Measurement) -> dict[str, Json]:
    """Give a latency measurement with every sample and the host."""
    return {"of": of, **_listed(asdict(measured))}


def comparison_json(compared: Comparison) -> dict[str, Json]:
    """State the latency ratio after / before with its interval, and why it may not be trusted."""
    return {
        "ratio": compared.ratio.value,
        "ratio_interval": [compared.ratio.low, compared.ratio.high],
        "is_real": compared.is_real,
        "on_cpu_ratio": compared.on_cpu_ratio,
        "doubts": list(compared.warnings),
    }


def provenance(uploaded: ir.Model, source: Source, *, version: str) -> dict[str, Json]:
    """State what was pruned, by which versions of what, on which machine."""
    machine = host()
    packages = ("onnx", "onnx-ir", "onnxruntime", "torch", "numpy")
    versions = {"espalier": version, "python": machine["python"]} | {name: installed(name) for name in packages}
    producer = " ".join(part for part in (uploaded.producer_name, uploaded.producer_version) if part)
    return {
        "source": {
            "graph": uploaded.graph.name,
            "producer": producer,
            "sha256": source.sha256,
            "size_bytes": source.size_bytes,
            "external_data_sha256": source.companion_sha256,
        },
        "versions": versions,
        "host": machine,
    }


def _listed(values: Mapping[str, Json]) -> dict[str, Json]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _width(node: ir.Node) -> int | None:
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"} or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if weight is None or weight.const_value is None or weight.shape is None:
        return None
    shape = [int(length) for length in weight.shape.numpy()]
    if node.op_type == "ConvTranspose":
        return shape[1] * node.attributes.get_int("group", 1)
    if node.op_type == "Gemm":
        return shape[0] if node.attributes.get_int("transB", 0) else shape[1]
    return shape[0] if node.op_type == "Conv" else shape[-1]
