"""A graph as bytes: the same graph always gives the same bytes, and weights are copied once."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from workers.pruning.graph.widen import widen, widened

_LARGE_BYTES: Final = 1024
_BITS_PER_BYTE: Final = 8
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers of ModelProto, GraphProto, TensorProto
_BEFORE_INITIALIZERS: Final = ("node", "name")

_Part = bytes | memoryview


def to_bytes(graph: ir.Model) -> bytes:
    """Serialise a graph; equal graphs give equal bytes on every machine.

    The bytes are those of protobuf's own deterministic serialisation, put together around the weights, so that the
    result is the only copy of them. Above 2 GiB they are what `load` reads and no protobuf library does: `external`
    gives the form that others take.
    """
    return b"".join(_parts(graph))


def twin_bytes(graph: ir.Model) -> bytes:
    """Serialise the float32 twin of a graph that computes in bfloat16; see `widen`."""
    weights = _large(graph)
    proto = _skeleton(graph, weights)
    narrow = {entry.name for entry in proto.graph.initializer if entry.data_type == onnx.TensorProto.BFLOAT16}
    widen(proto)
    wide = {name: widened(held) if name in narrow else held for name, held in weights.items()}
    return b"".join(assembled(proto, wide))


def size_bytes(graph: ir.Model) -> int:
    """Length of `to_bytes(graph)`, without putting it together."""
    return sum(len(part) for part in _parts(graph))


def _parts(graph: ir.Model) -> list[_Part]:
    """The file in pieces; pieces of large weights are views of the graph's own arrays."""
    weights = _large(graph)
    return assembled(_skeleton(graph, weights), weights)


def assembled(proto: onnx.ModelProto, weights: Mapping[str, memoryview]) -> list[_Part]:
    """Put a parsed file and the weights that were left out of it together, in pieces; uses up `proto`.

    `weights` are the raw bytes of initializers, by name.
    """
    initializers: list[_Part] = []
    for tensor in proto.graph.initializer:
        initializers.extend(_initializer(tensor, weights.get(tensor.name)))
    body = proto.graph
    head = onnx.GraphProto()
    for field in _BEFORE_INITIALIZERS:
        if body.HasField(field) if field == "name" else body.node:
            _move(body, head, field)
    del body.initializer[:]
    inner = [_serialised(head), *initializers, _serialised(body)]
    proto.ClearField("graph")
    return _model(proto, inner)


def _model(proto: onnx.ModelProto, graph: list[_Part]) -> list[_Part]:
    """Fields of the model in the order of their numbers, the graph among them."""
    before, after = onnx.ModelProto(), onnx.ModelProto()
    for descriptor, _ in proto.ListFields():
        _move(proto, before if descriptor.number < _GRAPH else after, descriptor.name)
    length = sum(len(part) for part in graph)
    return [_serialised(before), _key(_GRAPH, length), *graph, _serialised(after)]


def _move(source: onnx.ModelProto | onnx.GraphProto, target: onnx.ModelProto | onnx.GraphProto, field: str) -> None:
    content = getattr(source, field)
    if hasattr(content, "MergeFrom"):
        getattr(target, field).MergeFrom(content)
    elif isinstance(content, (str, int)):
        setattr(target, field, content)
    source.ClearField(field)


def _large(graph: ir.Model) -> dict[str, memoryview]:
    """Bytes of each weight that is worth not copying, as views."""
    found = {}
    for name, value in graph.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _LARGE_BYTES or tensor.dtype.bitwidth % _BITS_PER_BYTE:
            continue
        array = np.ascontiguousarray(tensor.numpy()).reshape(-1)
        found[name] = array.astype(array.dtype.newbyteorder("<"), copy=False).view(np.uint8).data
    return found


def _skeleton(graph: ir.Model, weights: dict[str, memoryview]) -> onnx.ModelProto:
    """The file as a message with large weights empty, and without shapes of initializers, which state their own."""
    held = {name: graph.graph.initializers[name].const_value for name in weights}
    try:
        for name in weights:
            graph.graph.initializers[name].const_value = ir.tensor(np.zeros(0, np.float32), name=name)
        proto: onnx.ModelProto = ir.to_proto(graph)
    finally:
        for name, tensor in held.items():
            graph.graph.initializers[name].const_value = tensor
    for entry in proto.graph.initializer:
        original = held.get(entry.name)
        if original is not None:
            entry.dims[:] = original.shape.numpy()
            entry.data_type = int(original.dtype)
            entry.ClearField("raw_data")
    computed = [value for value in proto.graph.value_info if value.name not in graph.graph.initializers]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(computed)
    return proto


def _initializer(tensor: onnx.TensorProto, weight: memoryview | None) -> list[_Part]:
    content = [_serialised(tensor)]
    parts: list[_Part] = list(content)
    if weight is not None:
        parts += [_key(_RAW_DATA, len(weight)), weight]
    return [_key(_INITIALIZER, sum(len(part) for part in parts)), *parts]


def _serialised(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _key(field: int, length: int) -> bytes:
    """Key and length of a length-delimited field."""
    encoded = bytearray([field << 3 | 2])
    while length >= 1 << 7:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
