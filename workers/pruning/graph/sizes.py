"""Values that are as long as the data make them: boxes that are left after a suppression, positions of what is set."""

from typing import Final

import onnx_ir as ir

from workers.pruning.graph.values import bodies, has_open_length, input_symbols, reads

_SIZED_BY_DATA: Final = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})


def sized_by_data(graph: ir.Model) -> set[ir.Value]:
    """Give the values that have a length which hangs on the data, directly or through what they are computed from."""
    symbols = input_symbols(graph.graph)
    sized: set[ir.Value] = set()
    for node in graph.graph:
        if _is_sized_by_data(node) or any(value in sized for value in reads(node)):
            sized.update(value for value in node.outputs if has_open_length(value, symbols))
    return sized


def _is_sized_by_data(node: ir.Node) -> bool:
    if node.op_type in _SIZED_BY_DATA and not node.domain:
        return True
    return any(_is_sized_by_data(inner) for body in bodies(node) for inner in body)
