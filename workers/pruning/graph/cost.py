"""What one inference costs: multiply-adds, parameters, bytes of the file, bytes of live activations. Batch 1."""

from collections.abc import Callable
from math import prod
from typing import Final

import onnx_ir as ir

from workers.pruning.errors import UnknownShape
from workers.pruning.graph.shapes import Shapes, nominal_shapes
from workers.pruning.graph.storage import file_bytes
from workers.pruning.graph.tables import is_turned_table
from workers.pruning.graph.values import is_float
from workers.pruning.types import Cost

_FLAT_RANK: Final = 3


def count(graph: ir.Model, shapes: Shapes | None = None) -> Cost:
    """Count a graph at batch 1; axes that the file leaves open have the lengths of `nominal_shapes`.

    `shapes` are these, for a caller that knows them already.

    Source: one MAC is one multiply-add of Conv, ConvTranspose, Gemm, MatMul, Einsum and Attention, as in the tables of
    the literature; biases, normalisation, activation and pooling are not counted.

    Units: MACs; float initializer elements (running statistics of BatchNormalization included); bytes of the
    file; bytes of activations, see `peak_activation_bytes`.

    Raises:
        UnknownShape: a shape still depends on something when the batch is one; the message names the value.
    """
    shapes = nominal_shapes(graph) if shapes is None else shapes
    return Cost(
        macs=sum(_node_macs(graph, shapes).values()),
        params=num_params(graph),
        size_bytes=file_bytes(graph),
        peak_activation_bytes=_peak(graph, shapes),
    )


def node_macs(graph: ir.Model, shapes: Shapes | None = None) -> dict[str, int]:
    """Multiply-adds of each node that has any, by node name; `shapes` as in `count`.

    Raises:
        UnknownShape: as in `count`.
    """
    return _node_macs(graph, nominal_shapes(graph) if shapes is None else shapes)


def num_params(graph: ir.Model) -> int:
    """Number of float initializer elements."""
    return sum(
        value.const_value.size
        for value in graph.graph.initializers.values()
        if value.const_value is not None and is_float(value)
    )


def peak_activation_bytes(graph: ir.Model) -> int:
    """Largest sum of live tensors over the nodes in their order, at batch 1.

    A tensor is live from the node that computes it (inputs of the graph: from the beginning) up to the last node that
    reads it (outputs of the graph: to the end). While a node runs, its inputs and outputs are all live; nothing is
    computed in place. Initializers do not count.

    Raises:
        UnknownShape: as in `count`.
    """
    return _peak(graph, nominal_shapes(graph))


def live_values(graph: ir.Model) -> list[tuple[ir.Value, ...]]:
    """The tensors that are live while each node runs, in the order of the nodes.

    A table that is turned for the last layer is a weight in another order, which runtimes work out once: it is none.
    """
    nodes = list(graph.graph)
    last = {value: number for number, node in enumerate(nodes) for value in node.inputs if value is not None}
    for value in graph.graph.outputs:
        last[value] = len(nodes)
    live: dict[ir.Value, None] = dict.fromkeys(graph.graph.inputs)
    steps: list[tuple[ir.Value, ...]] = []
    for number, node in enumerate(nodes):
        live.update(dict.fromkeys(() if is_turned_table(node) else node.outputs))
        steps.append(tuple(live))
        for used in (*node.inputs, *node.outputs):
            if used is not None and used in live and last.get(used, number) <= number:
                del live[used]
    return steps


def _peak(graph: ir.Model, shapes: Shapes) -> int:
    sizes: dict[ir.Value, int] = {}
    largest = 0
    for step in live_values(graph):
        for value in step:
            if value not in sizes:
                sizes[value] = _elements(value, shapes) * _bits(value) // 8
        largest = max(largest, sum(sizes[value] for value in step))
    return largest


def _bits(value: ir.Value) -> int:
    return 32 if value.dtype is None or value.dtype == ir.DataType.STRING else value.dtype.bitwidth


def _node_macs(graph: ir.Model, shapes: Shapes) -> dict[str, int]:
    return {
        node.name or "": _MACS[node.op_type](node, shapes)
        for node in graph.graph
        if not node.domain and node.op_type in _MACS
    }


def _conv(node: ir.Node, shapes: Shapes) -> int:
    """Every output element takes one product per weight of its filter."""
    return _elements(node.outputs[0], shapes) * prod(_shape(node.inputs[1], shapes)[1:])


def _conv_transpose(node: ir.Node, shapes: Shapes) -> int:
    """Every input element is multiplied by every weight of its channel."""
    return _elements(node.inputs[0], shapes) * prod(_shape(node.inputs[1], shapes)[1:])


def _gemm(node: ir.Node, shapes: Shapes) -> int:
    transposed = node.attributes.get("transA")
    inner = _shape(node.inputs[0], shapes)[0 if transposed is not None and transposed.as_int() else 1]
    return _elements(node.outputs[0], shapes) * inner


def _matmul(node: ir.Node, shapes: Shapes) -> int:
    return _elements(node.outputs[0], shapes) * _shape(node.inputs[0], shapes)[-1]


def _attention(node: ir.Node, shapes: Shapes) -> int:
    """Every query is multiplied by every key, every weight by every value; axes are (batch, [heads], length, size)."""
    query, key, value = (_shape(entry, shapes) for entry in node.inputs[:3])
    pairs = prod(query[:-2]) * query[-2] * key[-2]
    if len(query) == _FLAT_RANK:
        heads = node.attributes["q_num_heads"].as_int()
        value_size = value[-1] // node.attributes["kv_num_heads"].as_int() * heads
        return pairs * (query[-1] + value_size)
    return pairs * (query[-1] + value[-1])


def _einsum(node: ir.Node, shapes: Shapes) -> int:
    """One product per combination of all indices; an ellipsis counts by the first operand that has it."""
    terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = _shape(value, shapes)
        named = term.replace("...", "")
        before = term.index("...") if "..." in term else len(named)
        hidden = len(shape) - len(named)
        axes = [*named[:before], *(f"...{number}" for number in range(hidden)), *named[before:]]
        for axis, length in zip(axes, shape, strict=True):
            lengths[axis] = max(lengths.get(axis, 1), length)
    return prod(lengths.values())


_MACS: Final[dict[str, Callable[[ir.Node, Shapes], int]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "Attention": _attention,
}


def _elements(value: ir.Value | None, shapes: Shapes) -> int:
    return prod(_shape(value, shapes))


def _shape(value: ir.Value | None, shapes: Shapes) -> tuple[int, ...]:
    name = "" if value is None else value.name or ""
    shape = shapes.get(name)
    if shape is None or None in shape:
        raise UnknownShape(
            "A shape depends on more than the batch, so the cost is not known",
            where=f"value {name!r}",
            actual="no shape" if shape is None else f"{list(shape)}",
            allowed="known lengths on every axis but the first of the inputs",
            advice="Export with a fixed image size or sequence length.",
        )
    return tuple(length for length in shape if length is not None)
