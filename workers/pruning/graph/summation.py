"""Operators that sum, average, normalise or multiply over channels: which they are, and over which axes."""

from typing import Final

import onnx_ir as ir

from workers.pruning.graph.values import attribute, constant, integer, integers

SUMS: Final = frozenset({"ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare"})  # to which zeros add nothing
MEANS: Final = frozenset({"ReduceMean"})
NORMALISATIONS: Final = frozenset({"LayerNormalization", "RMSNormalization"})  # over trailing axes
_PRODUCTS: Final = frozenset({"Einsum", "Gemm", "MatMul"})
_NUM_FACTORS: Final = 2
_ONE_AXIS: Final = frozenset({"LpNormalization"})


def summed_axes(node: ir.Node, rank: int) -> list[int]:
    """Axes of its first input, of so many axes, that a node of one of these kinds takes together."""
    if node.op_type in NORMALISATIONS:
        return list(range(integer(node, "axis", -1) % rank, rank))
    if node.op_type == "InstanceNormalization":
        return list(range(2, rank))
    if node.op_type == "GroupNormalization":
        return list(range(1, rank)) if integer(node, "num_groups", 1) == 1 else []
    if node.op_type in _ONE_AXIS:
        return [integer(node, "axis", -1) % rank]
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    listed = integers(node, "axes") if given is None else [int(axis) for axis in given.reshape(-1)]
    if listed is None and node.op_type == "MeanVarianceNormalization":
        listed = [0, 2, 3]
    if listed:
        return [axis % rank for axis in listed]
    return [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))


def contracted_axis(node: ir.Node) -> int | None:
    """The axis of its first input that a product of two activations sums over; None for anything else."""
    if node.domain or len(node.inputs) < _NUM_FACTORS or node.op_type not in _PRODUCTS:
        return None
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None or left.shape is None or left.is_initializer() or right.is_initializer():
        return None
    if node.op_type == "MatMul":
        return len(left.shape) - 1
    if node.op_type == "Gemm":
        return 0 if integer(node, "transA", 0) else 1
    words = letters(node)
    shared = [] if words is None else [letter for letter in words[0] if letter in words[1] and letter not in words[2]]
    return words[0].index(shared[0]) if words is not None and len(shared) == 1 else None


def letters(node: ir.Node) -> tuple[str, str, str] | None:
    """The names of the axes of both operands and of the result of an Einsum; None where it is no plain product of two.

    A plain product has its result written out, a letter for every axis, and no letter twice in a word.
    """
    sides = str(attribute(node, "equation", "")).replace(" ", "").split("->")
    operands = sides[0].split(",")
    if len(sides) != _NUM_FACTORS or len(operands) != _NUM_FACTORS:
        return None
    words = (operands[0], operands[1], sides[1])
    return words if all(word.isalpha() and len(set(word)) == len(word) for word in words) else None
