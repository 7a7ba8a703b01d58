"""Cut units out of a graph: smaller weights, smaller activations, the same function as with these units zeroed."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.weights import clone
from workers.pruning.surgery.constants import Surgeon, rewrite_constants
from workers.pruning.surgery.plan import Plan, numbers, replaced, stages
from workers.pruning.types import BoolArray, Grouping, Keep


def cut(graph: ir.Model, grouping: Grouping, keep: Keep) -> ir.Model:
    """Return a new graph without the units that `keep` leaves out; weights that stay whole are shared with `graph`.

    Requires: `grouping` was found on `graph`.
    Ensures: names, inputs, outputs and node order stay; shapes of all values are those of the smaller network; the
    result equals `mask(graph, grouping, keep)` up to the order of floating point sums.

    Raises:
        InconsistentGroup: the Keep is of another Grouping, or would empty a tensor.
    """
    planned = stages(grouping, keep)
    result = clone(graph)
    for stage in planned:
        rewrite_constants(Surgeon(result, stage))
        for name, masks in stage.weights.items():
            _slice_weight(result.graph.initializers[name], masks)
        _refresh_shapes(result, stage)
    _drop_unused(result)
    return result


def _slice_weight(value: ir.Value, masks: Mapping[int, BoolArray]) -> None:
    array = numbers(value)
    chosen = [np.flatnonzero(masks[axis]) if axis in masks else np.arange(n) for axis, n in enumerate(array.shape)]
    array = array[np.ix_(*chosen[: max(masks) + 1])]
    replaced(value, array)


def _refresh_shapes(graph: ir.Model, planned: Plan) -> None:
    for node in graph.graph:
        for value in node.outputs:
            kept = planned.value(value)
            if kept is not None and value.shape is not None:
                lengths = list(value.shape)
                lengths[kept.axis] = kept.count if isinstance(lengths[kept.axis], int) else ir.SymbolicDim(None)
                value.shape = ir.Shape(lengths)


def _drop_unused(graph: ir.Model) -> None:
    for name, value in list(graph.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.graph.initializers[name]
