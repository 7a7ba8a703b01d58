"""Operators that sum, average or normalise over channels: which they are, and over which axes."""

from typing import Final

import onnx_ir as ir

from workers.pruning.graph.values import constant, integer, integers

SUMS: Final = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})  # to which zeros add nothing
MEANS: Final = frozenset({"ReduceMean"})
NORMALISATIONS: Final = frozenset({"LayerNormalization", "RMSNormalization"})  # over trailing axes
_ONE_AXIS: Final = frozenset({"LpNormalization"})


def summed_axes(node: ir.Node, rank: int) -> list[int]:
    """Axes of its first input, of so many axes, that a node of one of these kinds takes together."""
    if node.op_type in NORMALISATIONS:
        return list(range(integer(node, "axis", -1) % rank, rank))
    if node.op_type in _ONE_AXIS:
        return [integer(node, "axis", -1) % rank]
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    listed = integers(node, "axes") if given is None else [int(axis) for axis in given.reshape(-1)]
    if listed:
        return [axis % rank for axis in listed]
    return [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))
