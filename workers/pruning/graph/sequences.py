"""SplitToSequence and SequenceAt, as exports without optimisation write a chunk, become a Split."""

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.values import constant, fresh_name, initializer, integer, opset
from workers.pruning.types import AnyArray

_FIRST_OPSET_WITH_SPLIT_INPUT = 13


def split_without_sequences(graph: ir.Model) -> None:
    """Write each SplitToSequence as a Split where the lengths and all positions that are read are known.

    Ensures: the same function; sequences that are used in another way stay.
    """
    if opset(graph) < _FIRST_OPSET_WITH_SPLIT_INPUT:
        return
    for node in list(graph.graph):
        if node.op_type == "SplitToSequence" and not node.domain:
            lengths = _lengths(node)
            readers = _readers(node.outputs[0])
            if lengths is not None and readers is not None:
                _replace(graph, node, lengths, readers)


def _lengths(node: ir.Node) -> list[int] | None:
    source, given = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or given is None or not integer(node, "keepdims", 1):
        return None
    axis = integer(node, "axis", 0)
    length = source.shape[axis]
    if not isinstance(length, int):
        return None
    if given.ndim:
        return [int(part) for part in given]
    return [min(int(given), length - start) for start in range(0, length, max(int(given), 1))]


def _readers(sequence: ir.Value) -> list[tuple[ir.Node, AnyArray]] | None:
    """The SequenceAt nodes that read a sequence with their positions; None when it is read in another way."""
    found = []
    for use in sequence.uses():
        position = constant(use.node.inputs[1]) if use.node.op_type == "SequenceAt" else None
        if position is None:
            return None
        found.append((use.node, position))
    return None if sequence.is_graph_output() else found


def _replace(graph: ir.Model, node: ir.Node, lengths: list[int], readers: list[tuple[ir.Node, AnyArray]]) -> None:
    name = f"{node.name}_lengths"
    held = initializer(fresh_name(name, set(graph.graph.initializers)), np.asarray(lengths, np.int64))
    graph.graph.register_initializer(held)
    attributes = {"axis": integer(node, "axis", 0)}
    split = ir.node("Split", [node.inputs[0], held], attributes, num_outputs=len(lengths), name=node.name)
    for number, part in enumerate(split.outputs):
        part.name = f"{node.outputs[0].name}_{number}"
    graph.graph.insert_before(node, split)
    for reader, position in readers:
        part = split.outputs[int(position)]
        target = reader.outputs[0]
        part.type, part.shape = target.type, target.shape
        target.replace_all_uses_with(part, replace_graph_outputs=False)
