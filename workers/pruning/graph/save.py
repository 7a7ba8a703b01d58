"""A graph as bytes: the same graph always gives the same bytes."""

import onnx
import onnx_ir as ir


def to_bytes(graph: ir.Model) -> bytes:
    """Serialise a graph; equal graphs give equal bytes on every machine."""
    return bytes(to_proto(graph).SerializeToString(deterministic=True))


def to_proto(graph: ir.Model) -> onnx.ModelProto:
    """The graph as a protobuf message; shapes are stated for computed values, not again for initializers."""
    proto: onnx.ModelProto = ir.to_proto(graph)
    computed = [value for value in proto.graph.value_info if value.name not in graph.graph.initializers]
    if len(computed) < len(proto.graph.value_info):
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(computed)
    return proto
