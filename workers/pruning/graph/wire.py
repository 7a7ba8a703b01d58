"""Read an ONNX file without copying its weights: the parsed skeleton, and where each large weight lies in the bytes.

An ONNX file is a protobuf message: ModelProto.graph (field 7) holds GraphProto.initializer (field 5), whose bytes are
TensorProto.raw_data (field 9). The scan skips over every other field by its length, so its cost is the number of
initializers and nodes, not the number of bytes.

Source: protobuf encoding (protobuf.dev/programming-guides/encoding); field numbers from onnx.proto.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from workers.pruning.errors import InvalidGraph

_GRAPH: Final = 7
_INITIALIZER: Final = 5
_RAW_DATA: Final = 9
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10
_KEEP_BELOW_BYTES: Final = 1024  # small tensors stay in the skeleton: shape inference reads them


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Bytes `start <= i < stop` of the file."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    number: int
    wire_type: int
    begin: int  # of the key
    start: int  # of the content
    stop: int


def _nothing(_: Span) -> bytes:
    return b""


def skeleton(source: memoryview, *, instead: Callable[[Span], bytes] = _nothing) -> tuple[bytes, dict[int, Span]]:
    """Return the file without its large weights, and the span of each weight by initializer number.

    `instead` gives the fields that a tensor gets in place of its weight's bytes.

    Raises:
        InvalidGraph: the bytes are not a protobuf message, or end within a field.
    """
    parts: list[bytes] = []
    spans: dict[int, Span] = {}
    seen = 0
    for field in _fields(source, 0, len(source)):
        if field.number == _GRAPH and field.wire_type == _BYTES:
            body, seen = _graph(source, field, spans, seen, instead)
            parts.append(_message(_GRAPH, body))
        else:
            parts.append(bytes(source[field.begin : field.stop]))
    return b"".join(parts), spans


def reference(location: str, offset: int, length: int) -> bytes:
    """Return the fields by which a tensor refers to bytes of another file."""
    entries = (("location", location), ("offset", str(offset)), ("length", str(length)))
    texts = (_message(1, key.encode()) + _message(2, value.encode()) for key, value in entries)
    return b"".join(_message(_EXTERNAL_DATA, entry) for entry in texts) + bytes([_DATA_LOCATION << 3 | _VARINT, 1])


def locations(source: memoryview) -> set[str]:
    """Return the names of the files that the initializers of a network refer to.

    Raises:
        InvalidGraph: the bytes are not a protobuf message, or end within a field.
    """
    tensors = (
        tensor
        for graph in _fields(source, 0, len(source))
        if graph.number == _GRAPH and graph.wire_type == _BYTES
        for tensor in _fields(source, graph.start, graph.stop)
        if tensor.number == _INITIALIZER and tensor.wire_type == _BYTES
    )
    found = (_location(source, tensor) for tensor in tensors)
    return {name for name in found if name is not None}


def _location(source: memoryview, tensor: _Field) -> str | None:
    for entry in _fields(source, tensor.start, tensor.stop):
        if entry.number == _EXTERNAL_DATA and entry.wire_type == _BYTES:
            texts = {field.number: field for field in _fields(source, entry.start, entry.stop)}
            if set(texts) == {1, 2} and bytes(source[texts[1].start : texts[1].stop]) == b"location":
                return bytes(source[texts[2].start : texts[2].stop]).decode("utf-8", errors="replace")
    return None


def _graph(
    source: memoryview, graph: _Field, spans: dict[int, Span], seen: int, instead: Callable[[Span], bytes]
) -> tuple[bytes, int]:
    parts: list[bytes] = []
    for field in _fields(source, graph.start, graph.stop):
        if field.number == _INITIALIZER and field.wire_type == _BYTES:
            body = _tensor(source, field, spans, seen)
            if seen in spans:
                body += instead(spans[seen])
            parts.append(_message(_INITIALIZER, body))
            seen += 1
        else:
            parts.append(bytes(source[field.begin : field.stop]))
    return b"".join(parts), seen


def _tensor(source: memoryview, tensor: _Field, spans: dict[int, Span], index: int) -> bytes:
    parts: list[bytes] = []
    for field in _fields(source, tensor.start, tensor.stop):
        if field.number == _RAW_DATA and field.wire_type == _BYTES and field.stop - field.start >= _KEEP_BELOW_BYTES:
            spans[index] = Span(start=field.start, stop=field.stop)
        else:
            parts.append(bytes(source[field.begin : field.stop]))
    return b"".join(parts)


def _fields(source: memoryview, start: int, stop: int) -> Iterator[_Field]:
    position = start
    while position < stop:
        begin = position
        key, position = _varint(source, position, stop)
        number, wire_type = key >> 3, key & 7
        content = position
        if wire_type == _VARINT:
            _, position = _varint(source, position, stop)
        elif wire_type == _BYTES:
            length, content = _varint(source, position, stop)
            position = content + length
        elif wire_type in {_FIXED64, _FIXED32}:
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise _damaged(begin)
        if position > stop or number == 0:
            raise _damaged(begin)
        yield _Field(number=number, wire_type=wire_type, begin=begin, start=content, stop=position)


def _varint(source: memoryview, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MAX_VARINT_BYTES):
        if position >= stop:
            raise _damaged(position)
        byte = source[position]
        position += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position
    raise _damaged(position)


def _message(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | _BYTES]) + _encode(len(body)) + body


def _encode(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _damaged(position: int) -> InvalidGraph:
    return InvalidGraph(
        "The file is damaged, cut short or not ONNX",
        where=f"byte {position:,}",
        allowed="a complete ONNX file (protobuf)",
        advice="Compare its digest with the original and upload it again.",
    )
