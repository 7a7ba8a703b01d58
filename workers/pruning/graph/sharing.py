"""Weights that several nodes read: shared on purpose they stay one, stored once to save space they part.

Exporters store equal tensors once, so that a Reshape target or the bias of one layer would change with that of another.
A network that applies a layer several times (siamese branches, detector heads on several levels) means it: the layer is
cut once, trained as one with the gradients of all its uses, and written once. So does one that multiplies by the table
which it also picks rows from, as language models do.
"""

from collections import defaultdict
from typing import Final

import onnx_ir as ir

from workers.pruning.graph.caps import Caps, check_weight_total
from workers.pruning.graph.tables import is_table, is_turned_table, picks_rows
from workers.pruning.graph.values import constant, fresh_name, is_float, renamed

_MATRICES: Final = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1)}
_TABLES: Final = {"Einsum": (0, 1), "Gemm": (1,), "MatMul": (1,)}
_ORIENTATION: Final = ("group", "transA", "transB", "alpha", "beta")
_Use = tuple[ir.Node, int]


def unshare_initializers(graph: ir.Model, caps: Caps) -> None:
    """Give every (node, input) its own initializer, but for layers that are applied several times; in place.

    The first reader keeps the name. Arrays are not copied in memory.

    Source: rule of ours. A matrix or kernel that several products of one kind read at the same input is one layer,
    unless all of its numbers are equal, as before training. So is a table with all that picks rows from it, or
    multiplies by it, turned or not. Other parameters are shared on purpose where the nodes that read them are alike and
    stand at the same place behind such a layer, or behind nodes that do: its bias, the norm or slope behind it.

    Raises:
        GraphTooLarge: all copies together would exceed the cap.
    """
    kinds = _Kinds(graph)
    parts = {value: kinds.parts(value) for value in graph.graph.initializers.values()}
    check_weight_total(sum(_elements(value) * max(1, len(uses)) for value, uses in parts.items()), caps)
    taken = value_names(graph)
    for value, groups in parts.items():
        for uses in groups[0 if value.is_graph_output() else 1 :]:
            copied = _copy(graph, value, fresh_name(value.name or "constant", taken))
            for node, index in uses:
                node.replace_input_with(index, copied)


class _Kinds:
    """Nodes that are one and the same layer, applied several times, have one kind; all others have none."""

    def __init__(self, graph: ir.Model) -> None:
        self._kind: dict[ir.Node, int] = {}
        self._numbers: dict[object, int] = {}
        for node in graph.graph:
            described = self._described(node)
            if described is not None:
                self._kind[node] = self._numbers.setdefault(described, len(self._numbers))

    def _described(self, node: ir.Node) -> object | None:
        matrix = next((i for i in _MATRICES.get(node.op_type, ()) if not node.domain and _is_layer(node, i)), None)
        if matrix is not None:
            oriented = [repr(node.attributes[name].value) for name in _ORIENTATION if name in node.attributes]
            return node.op_type, matrix, node.inputs[matrix], *oriented
        table = next((value for index, value in enumerate(node.inputs) if _reads_table(node, index)), None)
        if table is not None:
            return node.op_type, table
        read = [value for value in node.inputs if value is not None]
        stored = [value for value in read if value.is_initializer() and is_float(value) and _elements(value) > 1]
        producers = [value.producer() for value in read if not value.is_initializer()]
        kinds = [None if producer is None else self._kind.get(producer) for producer in producers]
        if not kinds or None in kinds:
            return None
        attributes = sorted((name, repr(each.value)) for name, each in node.attributes.items())
        return node.op_type, node.domain, *kinds, *stored, *attributes

    def parts(self, value: ir.Value) -> list[list[_Use]]:
        """Uses that are to read the same initializer."""
        together: dict[object, list[_Use]] = defaultdict(list)
        for number, use in enumerate(value.uses()):
            kind = self._kind.get(use.node)
            apart = kind is None or not is_float(value) or _elements(value) == 1
            place = "table" if _reads_table(use.node, use.idx) else (kind, use.idx)
            together[number if apart else place].append((use.node, use.idx))
        return list(together.values())


def _reads_table(node: ir.Node, index: int) -> bool:
    """Whether a node picks rows from a table that several nodes read, or multiplies by it."""
    value = node.inputs[index]
    if value is None or len(value.uses()) == 1 or not is_table(value) or not _differ(value):
        return False
    multiplied = not node.domain and index in _TABLES.get(node.op_type, ())
    return multiplied or picks_rows(node, index) or is_turned_table(node)


def _is_layer(node: ir.Node, index: int) -> bool:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_initializer() or len(value.uses()) == 1 or not is_float(value):
        return False
    return value.shape is not None and len(value.shape) > 1 and _differ(value)


def _differ(value: ir.Value) -> bool:
    """Whether an initializer holds different numbers."""
    array = constant(value)
    return array is not None and array.size > 0 and not bool((array == array.flat[0]).all())


def _elements(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _copy(graph: ir.Model, value: ir.Value, name: str) -> ir.Value:
    copied = ir.Value(name=name, shape=value.shape, type=value.type, const_value=renamed(value, name))
    copied.metadata_props.update(value.metadata_props)
    graph.graph.register_initializer(copied)
    return copied


def value_names(graph: ir.Model) -> set[str]:
    """Names of all values and initializers, subgraphs included."""
    names = {value.name for body in graph.graphs() for node in body for value in node.outputs if value.name}
    names |= {value.name for body in graph.graphs() for value in body.inputs if value.name}
    return names | {name for body in graph.graphs() for name in body.initializers}
