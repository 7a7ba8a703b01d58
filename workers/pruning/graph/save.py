"""A graph as bytes: the same graph always gives the same bytes."""

import onnx
import onnx_ir as ir


def to_bytes(graph: ir.Model) -> bytes:
    """Serialise a graph; equal graphs give equal bytes on every machine."""
    proto: onnx.ModelProto = ir.to_proto(graph)
    return bytes(proto.SerializeToString(deterministic=True))
