"""Silence units without removing them: what `cut` has to equal."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.summation import contracted_axis
from workers.pruning.graph.weights import clone
from workers.pruning.surgery.constants import Surgeon
from workers.pruning.surgery.plan import Plan, numbers, plan, positions_kept, replaced
from workers.pruning.surgery.statistics import gate, leave_out
from workers.pruning.types import BoolArray, Grouping, Keep, Role


def mask(graph: ir.Model, grouping: Grouping, keep: Keep) -> ir.Model:
    """Return a new graph in which nothing reads the units that `keep` leaves out.

    The weights that read such units are zero there, which is exactly removal whatever lies between producer and reader.
    Where two activations are multiplied over an axis with such units, or such an axis is summed up, no weight reads
    them; a product with zeros and ones is put in front. Means and normalisations are taken over the channels that stay.

    Raises:
        InconsistentGroup: the Keep is of another Grouping, or would empty a tensor.
    """
    planned = plan(grouping, keep)
    result = clone(graph)
    zeroed: dict[str, dict[int, BoolArray]] = {}
    for entry in grouping.initializer_axes:
        if entry.role is Role.CONSUME:
            masks = zeroed.setdefault(entry.initializer, {})
            masks[entry.axis] = masks.get(entry.axis, np.True_) & positions_kept(entry.units, keep)
    for name, masks in zeroed.items():
        if not all(each.all() for each in masks.values()):
            _zero(result.graph.initializers[name], masks)
    surgeon = Surgeon(result, planned)
    for node in list(result.graph):
        _gate_contraction(surgeon, node, planned)
        leave_out(surgeon, node, grouping, keep)
    return result


def _zero(value: ir.Value, masks: Mapping[int, BoolArray]) -> None:
    array = np.array(numbers(value))
    for axis, kept in masks.items():
        array[(slice(None),) * axis + (~kept,)] = 0
    replaced(value, array)


def _gate_contraction(surgeon: Surgeon, node: ir.Node, planned: Plan) -> None:
    axis = contracted_axis(node)
    kept = None if axis is None else planned.value(node.inputs[0])
    if kept is not None and kept.axis == axis:
        gate(surgeon, node, kept.axis, kept.mask)
