"""Shapes of all values, inferred by onnx on a copy of the graph without its weights."""

import onnx
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph

_SMALL_BYTES = 1024  # weights up to this size are shown to shape inference: Reshape and Slice read them


def infer_shapes(graph: ir.Model) -> None:
    """Set shape and type of every value of `graph` in place; weights are not copied.

    Shapes that onnx cannot infer stay as they are.

    Raises:
        InvalidGraph: the shapes of two nodes contradict each other; the message is that of onnx.
    """
    inferred = _inferred(_proto_without_weights(graph))
    found: dict[str, ir.Value] = {}
    for body in ir.from_proto(inferred).graphs():
        for value in _values(body):
            if value.name:
                found[value.name] = value
    for body in graph.graphs():
        for value in _values(body):
            _take(value, found.get(value.name or ""))


def forget_shapes(graph: ir.Model) -> None:
    """Drop the shapes of all values between inputs and outputs in place, so that they are inferred anew after a cut."""
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidGraph("The shapes of the graph contradict each other", actual=_first_line(error)) from error


def _take(value: ir.Value, inferred: ir.Value | None) -> None:
    if inferred is None or value.const_value is not None or value.is_graph_input():
        return
    if inferred.shape is not None and (value.shape is None or not value.is_graph_output()):
        value.shape = inferred.shape.copy()
    if inferred.type is not None and value.type is None:
        value.type = inferred.type


def _values(graph: ir.Graph | ir.Function) -> list[ir.Value]:
    values = list(graph.inputs)
    for node in graph:
        values.extend(node.outputs)
    return values


def _proto_without_weights(graph: ir.Model) -> onnx.ModelProto:
    """Serialise `graph` with each large weight turned into an input of the same shape and type."""
    kept = {name: value.const_value for name, value in graph.graph.initializers.items()}
    large = [name for name, tensor in kept.items() if tensor is not None and tensor.nbytes > _SMALL_BYTES]
    for name in large:
        kept_value = graph.graph.initializers.pop(name)
        graph.graph.inputs.append(kept_value)
    try:
        return ir.to_proto(graph)
    finally:
        for _ in large:
            value = graph.graph.inputs.pop()
            graph.graph.register_initializer(value)
        _restore_order(graph, list(kept))


def _restore_order(graph: ir.Model, names: list[str]) -> None:
    values = [graph.graph.initializers.pop(name) for name in names]
    for value in values:
        graph.graph.register_initializer(value)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
