"""Shape and Size of a tensor that became smaller: what is computed from them was computed for the whole tensor."""

from typing import Final, Protocol

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.sharing import value_names
from workers.pruning.graph.values import constant, fresh_name, integer, integers
from workers.pruning.surgery.plan import Plan
from workers.pruning.types import AnyArray


class Knife(Protocol):
    """What is needed of a graph under the knife."""

    graph: ir.Model
    plan: Plan

    def initializer(self, wanted: str, array: AnyArray) -> ir.Value:
        """Register a new initializer."""


def restore_shape(surgeon: Knife, node: ir.Node) -> None:
    """Let a Shape tell the length from before the cut.

    Label propagation takes what is computed from lengths as it is in the whole network: zeros of this shape keep all
    their channels. Targets of Reshape, Expand and Resize, which have to follow the cut, are set behind it.
    """
    kept = surgeon.plan.value(node.inputs[0])
    output = node.outputs[0]
    if kept is None or kept.axis not in _told(node):
        return
    entry = _told(node).index(kept.axis)
    if all(_leaves_out(use.node, use.idx, entry) for use in output.uses()):
        return
    here = np.arange(len(_told(node))) == entry
    whole = np.full(len(here), len(kept.mask), np.int64)
    chosen = surgeon.initializer(f"{node.name}_axis", here), surgeon.initializer(f"{node.name}_whole", whole)
    _insert_behind(surgeon, node, [("Where", [*chosen, output])], ir.Shape([len(here)]))


def restore_size(surgeon: Knife, node: ir.Node) -> None:
    """Let a Size tell the number of elements from before the cut."""
    kept = surgeon.plan.value(node.inputs[0])
    if kept is None:
        return
    whole, count = _scalar(surgeon, node, len(kept.mask), "whole"), _scalar(surgeon, node, kept.count, "kept")
    _insert_behind(surgeon, node, [("Mul", [node.outputs[0], whole]), ("Div", [None, count])], ir.Shape([]))


def _scalar(surgeon: Knife, node: ir.Node, number: int, word: str) -> ir.Value:
    return surgeon.initializer(f"{node.name}_{word}", np.asarray(number, np.int64))


def _told(node: ir.Node) -> list[int]:
    """The axes whose lengths a Shape gives."""
    source = node.inputs[0]
    axes = list(range(len(source.shape))) if source is not None and source.shape is not None else []
    return axes[integer(node, "start", 0) : integer(node, "end", len(axes))]


def _leaves_out(node: ir.Node, index: int, entry: int) -> bool:
    """Whether a reader of a list of lengths takes fixed entries of it, and not this one."""
    if index != 0 or node.domain:
        return False
    if node.op_type == "Gather":
        picked = constant(node.inputs[1])
        positions = [-1] if picked is None else [int(position) for position in picked.reshape(-1)]
        return entry not in positions and min(positions) >= 0
    if node.op_type == "Slice" and len(node.inputs) <= _STEPS:
        (start, end) = _bound(node, 1, "starts"), _bound(node, 2, "ends")
        return start is not None and end is not None and start >= 0 <= end and not start <= entry < end
    return False


_STEPS: Final = 4


def _bound(node: ir.Node, index: int, name: str) -> int | None:
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    listed = integers(node, name) if array is None else [int(number) for number in array.reshape(-1)]
    return listed[0] if listed is not None and len(listed) == 1 else None


def _insert_behind(
    surgeon: Knife, node: ir.Node, steps: list[tuple[str, list[ir.Value | None]]], shape: ir.Shape
) -> None:
    """Put nodes behind `node`, each reading the one before where its input is None; all that read `node` read them.

    A cut in two stages, inside of heads and whole heads, may do so twice for the same node.
    """
    told = node.outputs[0]
    taken = value_names(surgeon.graph) | {each.name for each in surgeon.graph.graph if each.name}
    readers = [(use.node, use.idx) for use in told.uses()]
    current: ir.Value = told
    place = node
    for op_type, inputs in steps:
        name = fresh_name(f"{current.name}_{op_type.lower()}", taken)
        made = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT64))
        given = [current if value is None else value for value in inputs]
        step = ir.node(op_type, given, name=name, outputs=[made])
        surgeon.graph.graph.insert_after(place, step)
        current, place = made, step
    for reader, index in readers:
        reader.replace_input_with(index, current)
