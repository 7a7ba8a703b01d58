"""Shapes of all values, inferred by onnx on a copy of the graph without its weights."""

from collections.abc import Iterator

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
    inferred = _inferred(proto_without_weights(graph))
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


def shapes_at_batch(graph: ir.Model, batch: int = 1) -> dict[str, tuple[int | None, ...]]:
    """Shape of every value of the main graph when the symbolic first axis of each input has the length `batch`.

    Lengths that then still depend on something (a dynamic image size) are None.

    Raises:
        InvalidGraph: the shapes contradict each other at this batch.
    """
    proto = proto_without_weights(graph)
    feeds = {value.name for value in graph.graph.inputs}
    for value in proto.graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name in feeds and axes and not axes[0].HasField("dim_value"):
            axes[0].dim_value = batch
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = _inferred(proto).graph
    return {
        value.name: tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in _axes(value))
        for values in (inferred.input, inferred.value_info, inferred.output)
        for value in values
    } | {name: tuple(tensor.shape.numpy()) for name, tensor in _held(graph)}


def proto_without_weights(graph: ir.Model) -> onnx.ModelProto:
    """`graph` as a protobuf message in which each large weight is an input of the same shape and type."""
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


def _axes(value: onnx.ValueInfoProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    return iter(value.type.tensor_type.shape.dim)


def _held(graph: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in graph.graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value


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


def _restore_order(graph: ir.Model, names: list[str]) -> None:
    values = [graph.graph.initializers.pop(name) for name in names]
    for value in values:
        graph.graph.register_initializer(value)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
