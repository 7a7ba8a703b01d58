"""The float32 twin of a file that computes in bfloat16: the same graph, every bfloat16 number as the float32 it equals.

ONNX allows bfloat16 in convolutions and pooling from opset 22 only, exporters write it under older opsets too, and ONNX
Runtime has next to no kernels for it on processors. What needs the checker or the runtime works on the twin; the file
that is shipped keeps bfloat16 throughout.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx

_BFLOAT16: Final = int(onnx.TensorProto.BFLOAT16)
_FLOAT: Final = int(onnx.TensorProto.FLOAT)
# Attributes that name a type: of Cast, EyeLike, RandomNormal, QuantizeLinear, LayerNormalization, Attention, windows.
_TYPE_ATTRIBUTES: Final = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"}
)


def widen(proto: onnx.ModelProto) -> bool:
    """Turn a parsed file into its float32 twin in place, bodies and functions too; tells whether anything changed."""
    changed = [_widen_graph(proto.graph)]
    for function in proto.functions:
        changed += [_widen_type(value.type) for value in function.value_info]
        changed += [_widen_node(node) for node in function.node]
    return any(changed)


def widened(stored: bytes | memoryview) -> memoryview:
    """Give the bytes of bfloat16 numbers as those of float32: the upper half of the same pattern."""
    return (np.frombuffer(stored, "<u2").astype("<u4") << 16).astype("<u4", copy=False).view(np.uint8).data


def _widen_graph(graph: onnx.GraphProto) -> bool:
    changed = [_widen_type(value.type) for values in (graph.input, graph.output, graph.value_info) for value in values]
    changed += [_widen_tensor(tensor) for tensor in graph.initializer]
    changed += [_widen_node(node) for node in graph.node]
    return any(changed)


def _widen_node(node: onnx.NodeProto) -> bool:
    changed = []
    for attribute in node.attribute:
        names_it = attribute.name in _TYPE_ATTRIBUTES and attribute.i == _BFLOAT16
        if names_it:
            attribute.i = _FLOAT
        changed.append(names_it)
        tensors = (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)
        bodies = (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
        kinds = (*([attribute.tp] if attribute.HasField("tp") else []), *attribute.type_protos)
        changed += [_widen_tensor(tensor) for tensor in tensors]
        changed += [_widen_graph(body) for body in bodies]
        changed += [_widen_type(kind) for kind in kinds]
    return any(changed)


def _widen_type(kind: onnx.TypeProto) -> bool:
    narrow = [inner for inner in _tensor_types(kind) if inner.elem_type == _BFLOAT16]
    for inner in narrow:
        inner.elem_type = _FLOAT
    return bool(narrow)


def _tensor_types(kind: onnx.TypeProto) -> Iterator[onnx.TypeProto.Tensor]:
    if kind.HasField("tensor_type"):
        yield kind.tensor_type
    elif kind.HasField("sequence_type"):
        yield from _tensor_types(kind.sequence_type.elem_type)
    elif kind.HasField("optional_type"):
        yield from _tensor_types(kind.optional_type.elem_type)


def _widen_tensor(tensor: onnx.TensorProto) -> bool:
    """Widen a tensor that holds its numbers itself; one that was stripped of them only changes its type."""
    if tensor.data_type != _BFLOAT16:
        return False
    tensor.data_type = _FLOAT
    held = tensor.raw_data or np.array(tensor.int32_data, "<u2").tobytes()
    tensor.ClearField("int32_data")
    if held:
        tensor.raw_data = bytes(widened(held))
    return True
