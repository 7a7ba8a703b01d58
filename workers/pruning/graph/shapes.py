"""Shapes of all values, inferred by onnx on a copy of the graph without its weights."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.caps import DEFAULT_CAPS
from workers.pruning.graph.constants import UNKNOWN_NAME, fold_constants

OBSERVED: Final = "espalier.shapes"  # key of the metadata: shapes that were seen, as `observed` notes them
ROWS: Final = "espalier.rows"  # the same, for inputs of which an image has several rows: how many of each
BATCH: Final = "batch"  # there, the first length of the first input

NO_LENGTHS: Final[Mapping[str, int]] = {}

Shapes = Mapping[str, tuple[int | None, ...]]

NOMINAL_SIDE: Final = 224
NOMINAL_LENGTH: Final = 64
_IMAGE_RANK: Final = 4
_MAX_ROUNDS: Final = 4
_UNSUPPORTED: Final = "bfloat16"  # what onnx says of an opset that lacks it; `load` checked such a file in float32
_SAME_SHAPE: Final = frozenset({"GroupNormalization"})
_SMALL_BYTES = 1024  # weights up to this size are shown to shape inference: Reshape and Slice read them


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownShapes:
    """Shapes of a graph as it is, inferred once for all who read them; whoever changes the graph infers them anew."""

    at_one: Shapes  # as `shapes_at_batch` gives them for one sample
    nominal: Shapes  # as `nominal_shapes` gives them


def known_shapes(graph: ir.Model) -> KnownShapes:
    """Infer the shapes that finding groups and counting costs ask for.

    Raises:
        InvalidGraph: the shapes contradict each other at batch 1.
    """
    at_one = shapes_at_batch(graph)
    return KnownShapes(at_one=at_one, nominal=_with_nominal_lengths(graph, at_one))


def infer_shapes(graph: ir.Model) -> None:
    """Set shape and type of every value of `graph` in place; weights are not copied.

    Shapes that onnx cannot infer stay as they are.

    Raises:
        InvalidGraph: the shapes of two nodes contradict each other; the message is that of onnx.
    """
    proto = proto_without_weights(graph)
    _forget_unknown(proto)
    outer, *inner = _bodies(_inferred(proto).graph)
    found, inside = _entries([outer]), _entries(inner)  # a name inside of a body may be another value's outside
    for body in graph.graphs():
        known = found if body is graph.graph else inside
        for value in _values(body):
            _take(value, known.get(value.name or ""))


def _entries(bodies: Sequence[onnx.GraphProto]) -> dict[str, onnx.ValueInfoProto]:
    return {
        entry.name: entry
        for body in bodies
        for entries in (body.input, body.value_info, body.output)
        for entry in entries
    }


def forget_shapes(graph: ir.Model) -> None:
    """Drop the shapes of all values between inputs and outputs in place, so that they are inferred anew after a cut.

    What nodes give that onnx does not know keeps its shape, since it could not be inferred again.
    """
    for node in graph.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output() and not node.domain:
                value.shape = None


def shapes_at_batch(graph: ir.Model, batch: int = 1) -> dict[str, tuple[int | None, ...]]:
    """Shape of every value of the main graph when the symbolic first axis of each input has the length `batch`.

    Lengths that then still depend on something (a dynamic image size) are None.

    Raises:
        InvalidGraph: the shapes contradict each other at this batch.
    """
    return _shapes_at(graph, lambda axis, _: batch if axis == 0 else None)


def nominal_shapes(graph: ir.Model) -> dict[str, tuple[int | None, ...]]:
    """Shapes at batch 1, with a stated length for all other axes that the file leaves open.

    Open axes of inputs with four or more axes (images, volumes) count as 224, those of other inputs (sequences) as 64.
    Where these lengths do not suit the network, its open axes are None.

    Raises:
        InvalidGraph: the shapes contradict each other at batch 1.
    """
    return _with_nominal_lengths(graph, shapes_at_batch(graph))


def _with_nominal_lengths(
    graph: ir.Model, shapes: dict[str, tuple[int | None, ...]]
) -> dict[str, tuple[int | None, ...]]:
    def length(axis: int, rank: int) -> int:
        return 1 if axis == 0 else (NOMINAL_SIDE if rank >= _IMAGE_RANK else NOMINAL_LENGTH)

    if all(None not in shapes.get(value.name or "", ()) for value in graph.graph.inputs):
        return shapes
    try:
        return _shapes_at(graph, length)
    except InvalidGraph:
        return shapes


def _shapes_at(graph: ir.Model, length: Callable[[int, int], int | None]) -> dict[str, tuple[int | None, ...]]:
    proto = proto_without_weights(graph)
    feeds = {value.name for value in graph.graph.inputs}
    named: dict[str, int] = {}
    rows: dict[str, int] = json.loads(graph.metadata_props.get(ROWS, "{}"))
    for value in proto.graph.input:
        axes = value.type.tensor_type.shape.dim
        for axis, dimension in enumerate(axes):
            chosen = None if dimension.HasField("dim_value") else length(axis, len(axes))
            if value.name in feeds and chosen is not None:
                named.setdefault(dimension.dim_param, chosen)
                dimension.dim_value = chosen
        if value.name in rows and axes:
            axes[0].dim_value = rows[value.name] * (length(0, len(axes)) or 1)
    _forget_inferred(proto, named)
    inferred = _inferred(proto)
    found = _found(inferred)
    if any(None in found.get(name, (None,)) for node in graph.graph for name in _named(node)):
        found = _found(_with_arithmetic(inferred)) | {k: v for k, v in found.items() if None not in v}
    unread = {name: () for node in graph.graph for name in _unread(node)}  # onnx infers no shape for a mask of Dropout
    return unread | found | {name: tuple(tensor.shape.numpy()) for name, tensor in _held(graph)}


def _unread(node: ir.Node) -> list[str]:
    return [value.name for value in node.outputs if value.name and not value.uses() and not value.is_graph_output()]


def _named(node: ir.Node) -> list[str]:
    return [value.name for value in node.outputs if value.name and (value.uses() or value.is_graph_output())]


def _forget_inferred(proto: onnx.ModelProto, named: Mapping[str, int] = NO_LENGTHS) -> None:
    """Drop all shapes but those of inputs and of what nodes give that onnx does not know, with named lengths put in."""
    beyond = {name for node in proto.graph.node if node.domain not in {"", "ai.onnx"} for name in node.output}
    kept = [value for value in proto.graph.value_info if value.name in beyond]
    for value in kept:
        for axis in _axes(value):
            if axis.dim_param in named:
                axis.dim_value = named[axis.dim_param]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    for value in proto.graph.output:
        if value.name not in beyond:
            value.type.tensor_type.ClearField("shape")


def _forget_unknown(proto: onnx.ModelProto) -> None:
    """Drop the names that onnx gave to lengths it did not know; it keeps what is there, and may know them by now."""
    for value in proto.graph.value_info:
        for axis in _axes(value):
            if axis.dim_param.startswith(UNKNOWN_NAME):
                axis.Clear()


def _with_arithmetic(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Infer again after the arithmetic on shapes has been worked out, which onnx follows only in part.

    Exporters compute the targets of Expand and Resize from Shape of a tensor whose axes are all known by now.
    """
    for _ in range(_MAX_ROUNDS):
        graph = ir.from_proto(proto)
        if not fold_constants(graph, DEFAULT_CAPS):
            break
        folded = {value.name: tuple(value.shape or ()) for value in graph.graph.initializers.values()}
        proto = ir.to_proto(graph)
        _forget_inferred(proto)
        proto = _inferred(proto)
        _mention(proto, folded)
    return proto


def _mention(proto: onnx.ModelProto, folded: Mapping[str | None, Sequence[int | ir.SymbolicDim]]) -> None:
    """Keep the shapes of values that became initializers."""
    listed = {value.name for value in proto.graph.value_info}
    for name, shape in folded.items():
        if name and name not in listed:
            entry = proto.graph.value_info.add(name=name)
            entry.type.tensor_type.shape.SetInParent()
            for length in shape:
                entry.type.tensor_type.shape.dim.add(dim_value=int(length))  # type: ignore[arg-type]


def _mention_observed(proto: onnx.ModelProto) -> None:
    """Say the shapes that were seen of values of which onnx cannot know them."""
    noted = next((entry.value for entry in proto.metadata_props if entry.key == OBSERVED), "")
    listed = {value.name: value for value in proto.graph.value_info}
    given = {name for node in proto.graph.node for name in node.output} - {value.name for value in proto.graph.output}
    for name, lengths in json.loads(noted).items() if noted else ():
        if name in given:
            entry = listed[name] if name in listed else proto.graph.value_info.add(name=name)
            entry.type.tensor_type.shape.Clear()
            for length in lengths:
                axis = entry.type.tensor_type.shape.dim.add()
                if length == BATCH:
                    axis.CopyFrom(next(_axes(proto.graph.input[0])))
                elif length is not None:
                    axis.dim_value = length


def _found(proto: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    return {
        value.name: tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in _axes(value))
        for values in (proto.graph.input, proto.graph.value_info, proto.graph.output)
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


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
    for node in proto.graph.node:
        if node.op_type in _SAME_SHAPE and node.domain in {"", "ai.onnx"}:  # of which onnx infers nothing
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    _mention_observed(proto)
    try:
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            if _UNSUPPORTED not in str(error):
                raise
            return onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidGraph("The shapes of the graph contradict each other", actual=_first_line(error)) from error


def _take(value: ir.Value, inferred: onnx.ValueInfoProto | None) -> None:
    if inferred is None or value.const_value is not None or value.is_graph_input():
        return
    if value.type is None or not inferred.type.HasField("tensor_type"):
        read = ir.serde.deserialize_value_info_proto(inferred, None)
        shape, value.type = read.shape, read.type if value.type is None else value.type
    else:
        shape = _shape(inferred)
    if shape is not None and (value.shape is None or not value.is_graph_output()):
        value.shape = shape


def _shape(inferred: onnx.ValueInfoProto) -> ir.Shape | None:
    """Shape of a tensor, or None where not even its rank is known."""
    if not inferred.type.tensor_type.HasField("shape"):
        return None
    axes = _axes(inferred)
    return ir.Shape([axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in axes])


def _values(graph: ir.Graph | ir.Function) -> list[ir.Value]:
    values = list(graph.inputs)
    for node in graph:
        values.extend(node.outputs)
    return values


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that lie in attributes of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _bodies(body)


def _restore_order(graph: ir.Model, names: list[str]) -> None:
    values = [graph.graph.initializers.pop(name) for name in names]
    for value in values:
        graph.graph.register_initializer(value)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
