"""Bytes in, checked graph out. Every refusal says what is wrong, where, and what is allowed."""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from workers.pruning.errors import InvalidGraph, UnknownShape
from workers.pruning.graph.adopt import adopt
from workers.pruning.graph.caps import (
    DEFAULT_CAPS,
    Caps,
    check_content_size,
    check_elements,
    check_file_size,
    check_static,
)
from workers.pruning.graph.external import content_of
from workers.pruning.graph.finite import check_finite
from workers.pruning.graph.recognise import refuse_other_formats
from workers.pruning.graph.save import assembled
from workers.pruning.graph.simplify import simplify
from workers.pruning.graph.split import companion_of
from workers.pruning.graph.text import check_text
from workers.pruning.graph.widen import widen
from workers.pruning.graph.wire import Span, skeleton
from workers.pruning.types import TensorSpec

_HEAD_BYTES: Final = 64
_FREE_INITIALIZERS: Final = 4  # IR version from which initializers need not be inputs
_OPAQUE: Final = "opaque"
_REWRITTEN: Final = "rewritten"  # key of what is noted beside a graph, never in a file
_RE_EXPORT: Final = "Check the file with onnx.checker.check_model(path, full_check=True) and export it again."


def load(source: bytes | Path, caps: Caps = DEFAULT_CAPS) -> ir.Model:
    """Read an ONNX file into the graph that all stages work on.

    Static caps come first: nothing runs, no other file is opened and nothing is allocated for a value before the
    sizes of all values are known to be small enough. Weights are copied once, straight from the file. A file beside a
    path, of the same name and `.data` behind, is the companion that holds its external weights. What ONNX Runtime's
    optimiser put together is taken apart; how much of it is noted beside the graph (`rewritten`).

    Ensures: what `simplify` ensures. Name, inputs, outputs, dtypes, symbolic axes, opset, metadata and documentation of
    the file stay as they are.

    Raises:
        InvalidGraph: empty, damaged, another format, operators that nobody here runs, or refused by the ONNX checker.
        UnsupportedOperator: ONNX Runtime does not run its own operators in this file.
        GraphTooLarge: a cap is exceeded.
        UnsupportedOpset: outside 7..newest.
        ExternalData: a tensor lies in a file that is not there, or outside of it.
        UnknownShape: an input without a rank, or one that is not a tensor.
        NonFiniteScore: a weight is NaN or infinite.
    """
    if isinstance(source, Path):
        if companion_of(source) is not None:
            return load(content_of(source), caps)
        size = source.stat().st_size
        check_file_size(size, caps)
        if size == 0:
            refuse_other_formats(b"", 0)
        with (
            source.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            return _load(view, caps)
    check_content_size(len(source), caps)
    return _load(memoryview(source), caps)


def input_specs(graph: ir.Model) -> tuple[TensorSpec, ...]:
    """What a caller feeds, in order."""
    return tuple(_spec(value) for value in graph.graph.inputs)


def output_specs(graph: ir.Model) -> tuple[TensorSpec, ...]:
    """What a caller receives, in order."""
    return tuple(_spec(value) for value in graph.graph.outputs)


def rewritten(graph: ir.Model) -> Mapping[str, int]:
    """Tell which operators beyond the standard were rewritten when the file was read, and how many nodes of each."""
    return dict(graph.graph.meta.get(_REWRITTEN, {}))


def _load(view: memoryview, caps: Caps) -> ir.Model:
    head = bytes(view[:_HEAD_BYTES])
    refuse_other_formats(head, len(view), bytes(view) if head.startswith(b"PK") else b"")
    bare, spans = skeleton(view)
    proto = _parse(bare)
    check_text(proto)
    _forget_negative_axes(proto)
    _free_initializers(proto)
    check_static(proto, caps)
    _check_spans(proto, spans)
    adopted = _adopted(proto, spans, view, caps)
    _check_inferred(proto, spans, caps)
    graph = _to_ir(proto)
    graph.graph.meta[_REWRITTEN] = adopted
    _attach_weights(graph, proto, spans, view)
    _check_inputs(graph)
    simplify(graph, caps)
    check_finite(graph)
    return graph


def _adopted(proto: onnx.ModelProto, spans: dict[int, Span], view: memoryview, caps: Caps) -> Mapping[str, int]:
    """Bring what only ONNX Runtime knows into the standard as far as it goes; see `adopt`."""

    def infer(given: onnx.ModelProto) -> onnx.ModelProto:
        bare = _without_large_weights(given, spans)
        try:
            check_elements(_shapes(_inferred_without_slices(bare)), caps)
            return onnx.shape_inference.infer_shapes(bare, check_type=False, strict_mode=False, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            raise InvalidGraph("The shapes of the graph cannot be inferred", actual=_summary(error)) from error

    def content(whole: bool) -> bytes:  # noqa: FBT001
        if not whole:
            return bytes(_without_large_weights(proto, spans).SerializeToString(deterministic=True))
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)
        weights = {proto.graph.initializer[i].name: view[span.start : span.stop] for i, span in spans.items()}
        return b"".join(assembled(copied, weights))

    return adopt(proto, infer, content)


def _parse(bare: bytes) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(bare)
    except DecodeError as error:
        raise InvalidGraph(
            "The file is damaged, cut short or not ONNX", actual=str(error), advice=_RE_EXPORT
        ) from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise InvalidGraph("The file is not ONNX, or its graph has no nodes", advice=_RE_EXPORT)
    return proto


def _forget_negative_axes(proto: onnx.ModelProto) -> None:
    """Some exporters write an unknown axis as -1, which ONNX does not know; make it unknown."""
    for values in (proto.graph.input, proto.graph.output, proto.graph.value_info):
        for value in values:
            for axis in value.type.tensor_type.shape.dim:
                if axis.dim_value < 0:
                    axis.ClearField("dim_value")


def _free_initializers(proto: onnx.ModelProto) -> None:
    """Raise an IR version that wants all initializers among the inputs; ONNX Runtime saves such files without."""
    listed = {value.name for value in proto.graph.input}
    if proto.ir_version < _FREE_INITIALIZERS and any(held.name not in listed for held in proto.graph.initializer):
        proto.ir_version = _FREE_INITIALIZERS


def _check_spans(proto: onnx.ModelProto, spans: dict[int, Span]) -> None:
    """Each weight has as many bytes as its shape and type ask for; proves later views safe."""
    for index, span in spans.items():
        tensor = proto.graph.initializer[index]
        dtype = ir.DataType(tensor.data_type)
        expected = -(-int(np.prod(tensor.dims, dtype=np.int64)) * dtype.bitwidth // 8)
        if dtype == ir.DataType.STRING or expected != span.stop - span.start:
            raise _wrong_size(tensor.name, tensor.dims, span.stop - span.start, expected)


def _wrong_size(name: str, shape: Sequence[int], actual: object, allowed: object) -> InvalidGraph:
    return InvalidGraph(
        "A weight has the wrong number of bytes",
        where=f"initializer {name!r} of shape {list(shape)}",
        actual=actual,
        allowed=allowed,
        advice=_RE_EXPORT,
    )


def _check_inferred(proto: onnx.ModelProto, spans: dict[int, Span], caps: Caps) -> None:
    """Run the full checker and shape inference on the skeleton, then the caps on every inferred shape."""
    bare = _without_large_weights(proto, spans)
    try:
        _check_bare(bare, caps)
    except InvalidGraph:
        if not widen(bare):
            raise
        _check_bare(bare, caps)  # as exporters write bfloat16 under opsets that do not know it


def _check_bare(bare: onnx.ModelProto, caps: Caps) -> None:
    try:
        check_elements(_shapes(_inferred_without_slices(bare)), caps)
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=False, data_prop=True)
        check_elements(_shapes(inferred), caps)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise InvalidGraph("The ONNX checker refuses the file", actual=_summary(error), advice=_RE_EXPORT) from error


def _inferred_without_slices(bare: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes as far as they can be inferred when no Slice is looked at.

    onnx 1.23 ends the process at a Slice of an axis of negative length, as a kernel larger than its input leaves
    behind; such lengths are to be found before.
    """
    if not any(node.op_type == "Slice" for node in bare.graph.node):
        return bare
    opaque = onnx.ModelProto()
    opaque.CopyFrom(bare)
    opaque.opset_import.add(domain=_OPAQUE, version=1)
    for node in opaque.graph.node:
        if node.op_type == "Slice":
            node.domain = _OPAQUE
    return onnx.shape_inference.infer_shapes(opaque, check_type=False, strict_mode=False, data_prop=False)


def _without_large_weights(proto: onnx.ModelProto, spans: dict[int, Span]) -> onnx.ModelProto:
    """A copy whose stripped weights are inputs of the same type and shape."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    listed = {value.name for value in bare.graph.input}
    for index in sorted(spans, reverse=True):
        tensor = bare.graph.initializer[index]
        if tensor.name not in listed:
            entry = bare.graph.input.add(name=tensor.name)
            entry.type.tensor_type.elem_type = tensor.data_type
            entry.type.tensor_type.shape.SetInParent()
            for length in tensor.dims:
                entry.type.tensor_type.shape.dim.add(dim_value=length)
        del bare.graph.initializer[index]
    return bare


def _shapes(proto: onnx.ModelProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for values in (proto.graph.input, proto.graph.value_info, proto.graph.output):
        for value in values:
            dims = value.type.tensor_type.shape.dim
            yield value.name, tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in dims)


def _to_ir(proto: onnx.ModelProto) -> ir.Model:
    try:
        return ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise InvalidGraph("The graph cannot be read", actual=_summary(error), advice=_RE_EXPORT) from error


def _attach_weights(graph: ir.Model, proto: onnx.ModelProto, spans: dict[int, Span], view: memoryview) -> None:
    """Copy each large weight once from the file into an array of its own; small ones are copied from the skeleton."""
    for index, tensor in enumerate(proto.graph.initializer):
        value = graph.graph.initializers[tensor.name]
        span = spans.get(index)
        if span is not None:
            value.const_value = _copied(view[span.start : span.stop], tensor)
        elif value.const_value is not None and value.dtype != ir.DataType.STRING:
            value.const_value = _copied_small(value.const_value)


def _copied_small(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    try:
        array = np.array(tensor.numpy())
    except (ValueError, TypeError) as error:
        raise _wrong_size(tensor.name or "", tensor.shape.numpy(), str(error), None) from error
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)


def _copied(content: memoryview, tensor: onnx.TensorProto) -> ir.TensorProtocol:
    dtype = ir.DataType(tensor.data_type)
    if dtype.bitwidth % 8:  # several numbers per byte
        filled = onnx.TensorProto()
        filled.CopyFrom(tensor)
        filled.raw_data = bytes(content)
        return ir.serde.deserialize_tensor(filled)
    array = np.frombuffer(content, dtype.numpy().newbyteorder("<")).reshape(tuple(tensor.dims))
    return ir.Tensor(np.array(array, dtype.numpy()), dtype=dtype, name=tensor.name)


def _check_inputs(graph: ir.Model) -> None:
    for value in graph.graph.inputs:
        if value.shape is None or not isinstance(value.type, ir.TensorType):
            raise UnknownShape(
                "An input has no shape, or is not a tensor",
                where=f"input {value.name!r}",
                actual=str(value.type),
                allowed="a tensor of known rank",
                advice="Export with example inputs; only the batch axis should be dynamic.",
            )


def _spec(value: ir.Value) -> TensorSpec:
    dtype = "unknown" if value.dtype is None else str(value.dtype.numpy())
    lengths = () if value.shape is None else tuple(value.shape)
    shape = tuple(length if isinstance(length, int) else length.value for length in lengths)
    return TensorSpec(name=value.name or "", dtype=dtype, shape=shape)


def _summary(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:500] or type(error).__name__
