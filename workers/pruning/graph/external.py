"""Weights in a file of their own: what a network of more than 2 GiB needs, because one protobuf message holds no more.

Inside, every network is one run of bytes with its weights in place, however long: our own reader (`wire`) and writer
(`save`) know no limit. At the door the uploaded companion is put in place of the references to it; `split` is the way
out.

Source: ONNX, docs/ExternalData.md. Where we differ: one companion only, and the path that a tensor names is never
opened: whatever it says, the bytes come from the companion that was uploaded.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from workers.pruning.errors import ExternalData
from workers.pruning.graph.save import assembled
from workers.pruning.graph.split import companion_of

_KNOWN_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
_ONE_FILE: Final = "Save with onnx.save_model(..., save_as_external_data=True, all_tensors_to_one_file=True)."


def content_of(network: Path) -> bytes:
    """Read a network, with the weights of its companion in place where it has one.

    Raises:
        ExternalData: what `inlined` refuses.
    """
    companion = companion_of(network)
    if companion is None:
        return network.read_bytes()
    with companion.open("rb") as file:
        if companion.stat().st_size == 0:
            return inlined(network.read_bytes(), memoryview(b""))
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            return inlined(network.read_bytes(), view)


def inlined(network: bytes, companion: memoryview) -> bytes:
    """Put the bytes of the companion in place of the references to it.

    What cannot be read as ONNX is given back as it is, for `load` to refuse; so are references outside the graph's own
    initializers.

    Raises:
        ExternalData: more than one companion is named, or a reference is unknown, negative, of another length than its
            tensor, or outside the companion; names the tensor.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(network)
    except Exception:  # noqa: BLE001  # protobuf's implementations differ in what they raise
        return network
    tensors = [tensor for tensor in proto.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    _require_one_companion(tensors)
    parts: dict[str, memoryview] = {}
    taken = 0
    for tensor in tensors:
        parts[tensor.name] = _referenced(tensor, companion)
        taken += len(parts[tensor.name])
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    if taken > len(companion):
        raise ExternalData(
            "The weights overlap in the companion file",
            actual=f"{taken:,} bytes are referred to",
            allowed=f"{len(companion):,}, as many as it has",
            advice=_ONE_FILE,
        )
    return b"".join(assembled(proto, parts))


def _require_one_companion(tensors: Sequence[onnx.TensorProto]) -> None:
    named = sorted({_entries(tensor).get("location", "") for tensor in tensors})
    if len(named) > 1:
        raise ExternalData(
            "The weights lie in several files",
            where=f"tensor {tensors[0].name!r} and others",
            actual=", ".join(repr(name) for name in named[:4]) + (f" and {len(named) - 4} more" if named[4:] else ""),
            allowed="one companion file",
            advice=_ONE_FILE,
        )


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _referenced(tensor: onnx.TensorProto, companion: memoryview) -> memoryview:
    entries = _entries(tensor)
    if unknown := sorted(set(entries) - _KNOWN_KEYS):
        raise _refused(tensor, "A weight refers to its file in an unknown way", unknown, sorted(_KNOWN_KEYS))
    expected = _expected_bytes(tensor)
    offset, length = _number(tensor, "offset", entries, 0), _number(tensor, "length", entries, expected)
    if length != expected:
        raise _refused(tensor, "A weight has the wrong number of bytes", f"length {length:,}", f"{expected:,}")
    if offset + length > len(companion):
        actual = f"bytes {offset:,} to {offset + length:,}"
        raise _refused(tensor, "A weight lies outside the companion file", actual, f"up to {len(companion):,}")
    return companion[offset : offset + length]


def _number(tensor: onnx.TensorProto, key: str, entries: dict[str, str], default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _refused(tensor, f"The {key} of a weight is no number", repr(text[:40]), "a whole number of bytes")
    return int(text)


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError) as error:
        raise _refused(tensor, "A weight of this type cannot lie in a file", tensor.data_type, "numbers") from error
    if any(length < 0 for length in tensor.dims):
        raise _refused(tensor, "A weight has a negative length", list(tensor.dims), "lengths of 0 or more")
    return -(-int(np.prod(np.array(tensor.dims, dtype=object), initial=1)) * bits // 8)


def _refused(tensor: onnx.TensorProto, what: str, actual: object, allowed: object) -> ExternalData:
    return ExternalData(what, where=f"tensor {tensor.name!r}", actual=actual, allowed=allowed, advice=_ONE_FILE)
