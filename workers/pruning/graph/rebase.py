"""Store in each BatchNormalization the statistics of the data at hand; what the network computes stays as it was."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import NonFiniteScore
from workers.pruning.graph.values import constant
from workers.pruning.types import AnyArray, FloatArray

EPSILON: Final = 1e-5  # ONNX's default


def to_rebase(graph: ir.Model) -> dict[str, str]:
    """Name the nodes whose first output each BatchNormalization reads: its name -> theirs, in graph order.

    Left out are those that read an input of the graph, and those with computed or shared parameters.
    """
    found: dict[str, str] = {}
    for node in graph.graph:
        if node.op_type != "BatchNormalization" or not _own_parameters(node):
            continue
        source = node.inputs[0]
        producer = source.producer() if source is not None else None
        if producer is not None and producer.outputs[0] is source and producer.name:
            found[node.name or ""] = producer.name
    return found


def rebase(graph: ir.Model, statistics: Mapping[str, tuple[AnyArray, AnyArray]]) -> ir.Model:
    """Return a graph whose BatchNormalization holds `statistics` and computes what it computed before.

    Source: derivation. scale (x - mean) / std + shift is the same function for any mean and std, where the scale is
    multiplied by std' / std and the shift gets scale (mean' - mean) / std. In training mode a batch is normalised by
    its own statistics: only where the stored ones are those of the data does training begin at what the network
    computes. Networks trained on few images store others: they lag behind the last steps, or come from other views.

    Shapes: statistics[name of a BatchNormalization] = (mean (C,), variance (C,)) of what it reads.

    Raises:
        NonFiniteScore: a statistic is NaN, infinite or a negative variance.
    """
    result = graph.clone()
    for node in result.graph:
        if (name := node.name or "") in statistics:
            mean, variance = (np.asarray(array, np.float64) for array in statistics[name])
            _rebase_one(node, mean, variance)
    return result


def _rebase_one(node: ir.Node, mean: FloatArray, variance: FloatArray) -> None:
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()) or (variance < 0).any():
        raise NonFiniteScore(
            "channel statistics are not finite",
            where=node.name or "",
            advice="Check the calibration data for NaN and infinite values.",
        )
    epsilon = node.attributes.get_float("epsilon", EPSILON)
    scale, shift, old_mean, old_variance = (_array(value) for value in node.inputs[1:5])
    ratio = scale / np.sqrt(old_variance + epsilon)
    fresh = (ratio * np.sqrt(variance + epsilon), shift + ratio * (mean - old_mean), mean, variance)
    for value, array in zip(node.inputs[1:5], fresh, strict=True):
        _store(value, array)


def _own_parameters(node: ir.Node) -> bool:
    parameters = node.inputs[1:5]
    return all(
        constant(value) is not None and value is not None and len(list(value.uses())) == 1 for value in parameters
    )


def _array(value: ir.Value | None) -> FloatArray:
    found = constant(value)
    if found is None:
        raise ValueError("the parameters of a normalisation that is rebased are stored")
    return found.astype(np.float64)


def _store(value: ir.Value | None, array: FloatArray) -> None:
    found = constant(value)
    if value is not None and found is not None:
        value.const_value = ir.tensor(np.ascontiguousarray(array.astype(found.dtype)), name=value.name)
