"""Small questions about nodes and values of an onnx_ir graph that every module of this package asks."""

from collections.abc import Container, Iterable, Iterator
from math import prod

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.types import AnyArray

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def constant(value: ir.Value | None) -> AnyArray | None:
    """The array of an initializer, or None when the value is computed, fed or absent."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return np.asarray(value.const_value.numpy())


def attribute(node: ir.Node, name: str, default: object = None) -> object:
    """Value of an attribute in plain Python (tensors as arrays), or `default` where the node does not set it.

    Raises:
        InvalidGraph: a tensor does not hold the numbers that its shape promises.
    """
    found = node.attributes.get(name)
    if found is None:
        return default
    if found.type == ir.AttributeType.TENSOR:
        try:
            return np.asarray(found.as_tensor().numpy())
        except (ValueError, TypeError) as error:
            raise InvalidGraph(
                "A tensor does not fit its shape", where=f"node {node.name!r}", actual=str(error)
            ) from error
    value: object = found.value
    return list(value) if isinstance(value, (list, tuple)) else value


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or `default`."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def integers(node: ir.Node, name: str) -> list[int] | None:
    """A list of integers, or None where the node does not set it."""
    found = node.attributes.get(name)
    return None if found is None else list(found.as_ints())


def initializer(name: str, array: AnyArray) -> ir.Value:
    """A new value that holds `array`; the caller registers it with a graph."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def renamed(value: ir.Value, name: str) -> ir.TensorProtocol:
    """The tensor of an initializer under another name; the array is shared.

    Raises:
        ValueError: the value holds no tensor.
    """
    original = value.const_value
    if original is None:
        raise ValueError(f"{value.name!r} holds no tensor")
    array = np.asarray(original.numpy())
    return ir.Tensor(array, dtype=original.dtype, shape=ir.Shape(original.shape.numpy()), name=name)


def attributes(node: ir.Node) -> dict[str, object]:
    """All attributes of a node in plain Python."""
    return {name: attribute(node, name) for name in node.attributes}


def opset(graph: ir.Model) -> int:
    """Version of the standard operator set that the graph imports."""
    return int(graph.opset_imports[""])


def is_float(value: ir.Value) -> bool:
    """Whether a value holds floating point numbers."""
    return value.dtype in FLOATS


def operator(node: ir.Node) -> str:
    """What a node does, with the domain where it is not of the standard."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def reads(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """What a node reads: its inputs, then what its bodies take from around them, each once."""
    waiting = bodies(node)
    if not waiting:
        return tuple(node.inputs)
    inside: set[ir.Value] = set()
    named: list[ir.Value] = []
    while waiting:
        body = waiting.pop()
        inside.update(body.inputs, body.initializers.values())
        named.extend(body.outputs)
        for inner in body:
            inside.update(inner.outputs)
            named += [value for value in inner.inputs if value is not None]
            waiting += bodies(inner)
    around = (value for value in named if value not in inside and value not in node.inputs)
    return (*node.inputs, *dict.fromkeys(around))


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside of a node: branches of an If, the body of a Loop or Scan."""
    found: list[ir.Graph] = []
    for each in node.attributes.values():
        if each.type == ir.AttributeType.GRAPH:
            found.append(each.as_graph())
        elif each.type == ir.AttributeType.GRAPHS:
            found += each.as_graphs()
    return found


def all_values(graph: ir.Model) -> Iterator[ir.Value]:
    """Every value of the main graph: inputs, initializers, outputs of nodes."""
    yield from graph.graph.inputs
    yield from graph.graph.initializers.values()
    for node in graph.graph:
        yield from node.outputs


def set_outputs(graph: ir.Model, names: Iterable[str | None]) -> None:
    """Let a graph give the values of these names, in this order."""
    by_name = {value.name: value for value in all_values(graph)}
    graph.graph.outputs[:] = [by_name[name] for name in names]


def input_symbols(graph: ir.Graph) -> set[str]:
    """Lengths of the inputs, as text: what an axis may be called whose length is known once the inputs are."""
    return {str(length) for value in graph.inputs for length in value.shape or ()}


def has_open_length(value: ir.Value, symbols: Container[str]) -> bool:
    """Whether an axis has a length that is neither a number nor one of these; also where nothing is known of it."""
    return value.shape is None or any(not isinstance(n, int) and str(n) not in symbols for n in value.shape)


def sample_elements(value: ir.Value) -> int:
    """Numbers in a value for one sample; axes that are not known count as one, and a value without a shape as none."""
    return prod(n if isinstance(n, int) else 1 for n in value.shape) if value.shape is not None else 0


def fresh_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted_2`, `wanted_3`, ... where it is taken; the result is added to `taken`."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name
