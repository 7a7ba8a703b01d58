"""A network in the words of the API: what it costs, what may be cut, and how small it can become."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import onnx_ir as ir

from workers.predicted import predict
from workers.pruning.allocation.budget import reachable
from workers.pruning.graph import cost, head, load
from workers.pruning.graph.shapes import known_shapes
from workers.pruning.graph.twin import notes
from workers.pruning.graph.values import operator
from workers.pruning.groups.cost_model import to_json
from workers.pruning.groups.explain import explain
from workers.pruning.groups.find import find
from workers.pruning.types import Cost, CostModel, Json, Metric, TensorSpec
from workers.rehearsal import rehearse
from workers.stops import origin_notes, stop_notes, tail_cost, tail_frozen, trunk_of, with_tail

DEFAULT_MIN_KEEP: Final = 0.1


def analyse(graph: ir.Model) -> dict[str, Json]:
    """Give the `analysis` of the API, and under `cost_model` what the web process predicts costs with."""
    whole, part = graph, trunk_of(graph)
    graph, tail = part.graph, tail_cost(part)
    shapes = known_shapes(graph)
    grouping = find(graph, shapes=shapes.at_one)
    before = cost.count(graph, shapes.nominal)
    model = with_tail(predict(graph, grouping, shapes=shapes.nominal, before=before), tail)
    outputs = head.find(graph)
    groups = explain(graph, grouping, model)
    said = [*notes(graph), *origin_notes(whole), *stop_notes(part)]
    rehearsal = rehearse(graph, grouping, [_share(group) for group in groups], macs=before.macs)
    return {
        "opset": graph.opset_imports.get("", 0),
        "producer": " ".join(part for part in (graph.producer_name, graph.producer_version) if part),
        "inputs": tensors(load.input_specs(whole)),
        "outputs": tensors(load.output_specs(whole)),
        **figures(before + tail),
        "num_nodes": len(list(whole.graph)),
        "op_types": dict(sorted(Counter(operator(node) for node in whole.graph).items())),
        "prunable_groups": [{**group, "sensitivity": rehearsal.changes.get(str(group["id"]))} for group in groups],
        "frozen": [{"node": entry.node, "reason": entry.reason} for entry in (*grouping.frozen, *tail_frozen(part))],
        "reachable": smallest_ratios(model, before + tail),
        "head": "classification" if outputs.is_classification else "other",
        "speed": rehearsal.speed,
        "warnings": [*said, *([rehearsal.note] if rehearsal.note else [])],
        "cost_model": to_json(model, grouping),
    }


def _share(group: Mapping[str, Json]) -> float:
    share = group["share_of_macs"]
    return share if isinstance(share, float) else 0.0


def figures(counted: Cost) -> dict[str, Json]:
    """Give a cost in the words of the API."""
    return {
        "macs": counted.macs,
        "flops": 2 * counted.macs,
        "params": counted.params,
        "size_bytes": counted.size_bytes,
        "peak_activation_bytes": counted.peak_activation_bytes,
    }


def tensors(specs: Sequence[TensorSpec]) -> list[Json]:
    """Give inputs or outputs in the words of the API."""
    return [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs]


def smallest_ratios(model: CostModel, before: Cost) -> dict[str, Json]:
    """Give the smallest share of each cost that remains with every group at its floor."""
    smallest = reachable(model, min_keep=DEFAULT_MIN_KEEP, round_to=1)
    names = {"macs": Metric.MACS, "params": Metric.PARAMS, "size": Metric.SIZE_BYTES}
    return {
        f"{name}_min_ratio": smallest[metric] / max(1, getattr(before, metric.value)) for name, metric in names.items()
    }
