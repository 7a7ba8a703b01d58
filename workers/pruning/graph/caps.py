"""Static caps: what a graph may ask for, judged on the parsed file before anything runs or allocates."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import onnx

from workers.pruning.errors import ExternalData, GraphTooLarge, InvalidGraph, UnsupportedOpset
from workers.pruning.graph.domains import check_domains

OLDEST_OPSET: Final = 7
NEWEST_OPSET: Final = int(onnx.defs.onnx_opset_version())
_MAX_RANK_OF_NUMPY: Final = 64
_TYPES: Final = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The largest graph that is read. Elements are numbers of scalars, symbolic axes counted as one."""

    file_bytes: int = (2 << 30) - 1  # of one file: what a protobuf message can hold
    content_bytes: int = 16 << 30  # of a network with the weights of its companion in place
    nodes: int = 50_000
    initializers: int = 50_000
    depth: int = 8  # subgraphs within subgraphs
    rank: int = 8
    tensor_elements: int = 1 << 29  # 2 GiB of float32
    total_elements: int = 1 << 33
    weight_elements: int = 1 << 31  # all initializers together, after un-sharing and folding
    made_elements: int = 1 << 29  # constants that folding makes out of nothing


DEFAULT_CAPS: Final = Caps()


def check_file_size(num_bytes: int, caps: Caps) -> None:
    """Return when a file of `num_bytes` may be read.

    Raises:
        GraphTooLarge: the file is larger than the cap.
    """
    advice = "Save it with external data in one file, and upload that as the part `external_data`."
    _check_bytes("The file is too large", num_bytes, caps.file_bytes, advice)


def check_content_size(num_bytes: int, caps: Caps) -> None:
    """Return when a network of `num_bytes`, weights in place, may be read.

    Raises:
        GraphTooLarge: the network is larger than the cap.
    """
    _check_bytes("The network is too large", num_bytes, caps.content_bytes, "Prune a smaller network.")


def _check_bytes(what: str, actual: int, allowed: int, advice: str) -> None:
    if actual > allowed:
        raise GraphTooLarge(what, actual=f"{actual:,} bytes", allowed=f"{allowed:,} bytes", advice=advice)


def check_static(proto: onnx.ModelProto, caps: Caps) -> None:
    """Return when the parsed file stays within the caps and contains nothing that is refused by principle.

    Nothing is executed, inferred or opened here; the cost is linear in the number of nodes.

    Raises:
        UnsupportedOpset: the default domain is missing or its version is outside 7..newest.
        GraphTooLarge: too many nodes or initializers, too deep, or a tensor of too many elements or axes.
        ExternalData: a tensor keeps its data in another file.
        InvalidGraph: a node is of a domain that neither ONNX, nor the file, nor ONNX Runtime knows.
    """
    _check_opset(proto)
    check_domains(proto, _nodes(proto))
    _check_counts(proto, caps)
    for tensor in _tensors(proto):
        _check_tensor(tensor, caps)
    _check_weights(proto, caps)


def check_elements(shapes: Iterator[tuple[str, tuple[int, ...]]], caps: Caps) -> None:
    """Return when no value is larger than a tensor may be and all together are below the total.

    Args:
        shapes: Name and inferred shape of every value; symbolic axes given as one.
        caps: The limits.

    Raises:
        GraphTooLarge: a value has too many axes or elements, or all values together have; the message names it.
        InvalidGraph: an axis has a negative length.
    """
    total = 0
    for name, shape in shapes:
        _check_rank(name, len(shape), caps)
        _check_lengths(name, shape)
        elements = _product(shape)
        total += elements
        if elements > caps.tensor_elements:
            raise GraphTooLarge(
                "A value of the graph is too large",
                where=f"value {name!r} of shape {list(shape)}",
                actual=f"{elements:,} elements",
                allowed=f"{caps.tensor_elements:,}",
            )
    if total > caps.total_elements:
        raise GraphTooLarge(
            "The values of the graph are too large together",
            actual=f"{total:,} elements",
            allowed=f"{caps.total_elements:,}",
        )


def check_weight_total(elements: int, caps: Caps) -> None:
    """Return when all initializers together stay within the cap.

    Raises:
        GraphTooLarge: they do not.
    """
    if elements > caps.weight_elements:
        raise GraphTooLarge(
            "The weights are too large together",
            actual=f"{elements:,} elements",
            allowed=f"{caps.weight_elements:,}",
            advice="A weight that many nodes share counts once for each of them.",
        )


def graphs(proto: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, int]]:
    """Every graph of the file with its depth: the main graph 0, bodies of If, Loop and Scan deeper."""
    stack = [(proto.graph, 0)]
    while stack:
        graph, depth = stack.pop()
        yield graph, depth
        stack.extend((body, depth + 1) for node in graph.node for body in _bodies(node))


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph, _ in graphs(proto):
        yield from graph.node
    for function in proto.functions:
        stack = list(function.node)
        while stack:
            node = stack.pop()
            yield node
            stack.extend(inner for body in _bodies(node) for inner in body.node)


def _check_opset(proto: onnx.ModelProto) -> None:
    versions = [entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}]
    allowed = f"{OLDEST_OPSET} to {NEWEST_OPSET}"
    advice = "Export again with a supported opset_version."
    if not versions:
        raise UnsupportedOpset("The file names no opset of the standard domain", allowed=allowed, advice=advice)
    for version in versions:
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise UnsupportedOpset("The opset is not supported", actual=version, allowed=allowed, advice=advice)


def _check_counts(proto: onnx.ModelProto, caps: Caps) -> None:
    num_nodes = sum(len(function.node) for function in proto.functions)
    num_initializers = 0
    for graph, depth in graphs(proto):
        num_nodes += len(graph.node)
        num_initializers += len(graph.initializer) + len(graph.sparse_initializer)
        if depth > caps.depth:
            raise GraphTooLarge("Subgraphs are nested too deeply", actual=depth, allowed=caps.depth)
    _check_count("nodes", num_nodes + _inlined_nodes(proto, caps), caps.nodes)
    _check_count("initializers", num_initializers, caps.initializers)


def _inlined_nodes(proto: onnx.ModelProto, caps: Caps) -> int:
    """Number of nodes that the file's own functions expand to, without expanding them."""
    if not proto.functions:
        return 0
    bodies = {(function.domain, function.name): function for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], path: tuple[tuple[str, str], ...]) -> int:
        if key in path or len(path) > caps.depth:
            raise GraphTooLarge(
                "Functions call each other too deeply", where=f"function {key[1]!r}", allowed=caps.depth
            )
        if key not in sizes:
            calls = [(node.domain, node.op_type) for node in bodies[key].node]
            sizes[key] = len(calls) + sum(size(call, (*path, key)) for call in calls if call in bodies)
        return sizes[key]

    called = ((node.domain, node.op_type) for graph, _ in graphs(proto) for node in graph.node)
    return sum(size(call, ()) for call in called if call in bodies)


def _check_count(what: str, actual: int, allowed: int) -> None:
    if actual > allowed:
        raise GraphTooLarge(f"The graph has too many {what}", actual=f"{actual:,}", allowed=f"{allowed:,}")


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph, _ in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices


def _check_tensor(tensor: onnx.TensorProto, caps: Caps) -> None:
    name = tensor.name or "(unnamed)"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "(no location)")
        raise ExternalData(
            "A tensor keeps its data in another file, which is never opened",
            where=f"tensor {name!r}",
            actual=f"location {location!r}",
            allowed="weights inside the ONNX file, or initializers of its graph in one companion file",
            advice=(
                "Save with onnx.save_model(..., save_as_external_data=False), or upload the companion as the part "
                "`external_data`."
            ),
        )
    if tensor.data_type not in _TYPES:
        raise InvalidGraph("A tensor has no valid type", where=f"tensor {name!r}", actual=tensor.data_type)
    _check_rank(name, len(tensor.dims), caps)
    check_elements(iter([(name, tuple(tensor.dims))]), caps)


def _check_lengths(name: str, shape: tuple[int, ...]) -> None:
    if any(length < 0 for length in shape):
        raise InvalidGraph(
            "A tensor has a negative length",
            where=f"value {name!r}",
            actual=list(shape),
            advice="A kernel or crop is larger than what it is applied to; export with larger inputs.",
        )


def _check_rank(name: str, rank: int, caps: Caps) -> None:
    if rank > min(caps.rank, _MAX_RANK_OF_NUMPY):
        raise GraphTooLarge("A tensor has too many axes", where=f"value {name!r}", actual=rank, allowed=caps.rank)


def _check_weights(proto: onnx.ModelProto, caps: Caps) -> None:
    check_weight_total(
        sum(_product(tuple(tensor.dims)) for graph, _ in graphs(proto) for tensor in graph.initializer), caps
    )


def _product(shape: tuple[int, ...]) -> int:
    elements = 1
    for length in shape:
        elements *= length
    return elements
