"""Embedding tables that serve twice: rows are picked from them, and the last layer multiplies by them (tied)."""

from typing import Final

import onnx_ir as ir

from workers.pruning.graph.values import constant, integer, is_float

_PRODUCTS: Final = frozenset({"Gemm", "MatMul"})
_MATRIX: Final = 2  # axes


def is_table(value: ir.Value | None) -> bool:
    """Whether rows of a stored matrix are picked by integers that the network computes or is fed."""
    return (
        value is not None
        and value.is_initializer()
        and is_float(value)
        and value.shape is not None
        and len(value.shape) == _MATRIX
        and any(picks_rows(use.node, use.idx) for use in value.uses())
    )


def picks_rows(node: ir.Node, index: int) -> bool:
    """Whether a node reads rows of its input `index`."""
    picked = node.op_type == "Gather" and not node.domain and index == 0
    return picked and integer(node, "axis", 0) == 0 and constant(node.inputs[1]) is None


def is_turned_table(node: ir.Node) -> bool:
    """Whether a Transpose turns a table for products that multiply by it, and for nothing else.

    Worked out in advance, it would be a second table: stored twice, and no longer trained or cut as one with the first.
    """
    if node.op_type != "Transpose" or node.domain or not is_table(node.inputs[0]):
        return False
    output = node.outputs[0]
    uses = list(output.uses())
    products = all(use.node.op_type in _PRODUCTS and not use.node.domain and use.idx == 1 for use in uses)
    return bool(uses) and products and not output.is_graph_output()
