"""Files that ONNX Runtime's optimiser saved: its own operators rewritten into the standard, or told about and left.

What has no rewrite is run by ONNX Runtime alone later on (`foreign`). Its types and shapes, which onnx cannot infer,
are asked of ONNX Runtime and written into the file, so that inference goes on behind it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import onnx
import onnx.inliner
import onnxruntime as ort

from workers.pruning.errors import InvalidGraph, UnsupportedOperator
from workers.pruning.graph.domains import beyond_standard, named, standard_opset
from workers.pruning.graph.providers import CPU
from workers.pruning.graph.rewrites import REWRITES
from workers.pruning.graph.rewriting import FLOATS, NotKnownYet, Place, Surroundings

_MAX_ROUNDS: Final = 8  # of rewriting and inference, which make each other possible
_FATAL: Final = 4
_LISTED: Final = 3  # operators that a message lists
_MALFORMED: Final = (LookupError, StopIteration, TypeError, ValueError)  # what a node raises that is not what it says
_TYPES: Final = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(bfloat16)": onnx.TensorProto.BFLOAT16,
    "tensor(double)": onnx.TensorProto.DOUBLE,
    "tensor(int8)": onnx.TensorProto.INT8,
    "tensor(int16)": onnx.TensorProto.INT16,
    "tensor(int32)": onnx.TensorProto.INT32,
    "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(uint8)": onnx.TensorProto.UINT8,
    "tensor(uint16)": onnx.TensorProto.UINT16,
    "tensor(uint32)": onnx.TensorProto.UINT32,
    "tensor(uint64)": onnx.TensorProto.UINT64,
    "tensor(bool)": onnx.TensorProto.BOOL,
    "tensor(string)": onnx.TensorProto.STRING,
}

Infer = Callable[[onnx.ModelProto], onnx.ModelProto]
Content = Callable[[bool], bytes]  # of the file as it is by now, with its weights or with inputs in their place


def adopt(proto: onnx.ModelProto, infer: Infer, content: Content) -> Mapping[str, int]:
    """Rewrite in place what can be, and write down what the rest gives; tells how many nodes of which operator.

    Args:
        proto: The file; large weights may be left out of it.
        infer: Gives the same with the shapes of values, as far as they can be known.
        content: Serialises it for ONNX Runtime.

    Raises:
        UnsupportedOperator: ONNX Runtime does not run what is left; carries its reason.
        InvalidGraph: a function of the file cannot be put in place of its calls.
    """
    if not beyond_standard(proto) and not _in_functions(proto):
        return {}
    if _in_functions(proto):
        _inline(proto)
    rewritten: Counter[str] = Counter()
    told = False
    for _ in range(_MAX_ROUNDS):
        before = rewritten.total()
        rewritten += _rewrite(proto, _surroundings(proto, infer(proto)))
        left = beyond_standard(proto)
        if not left:
            break
        if rewritten.total() == before:
            if told:
                break
            _tell(proto, left, content)
            told = True
    return dict(sorted(rewritten.items()))


def _in_functions(proto: onnx.ModelProto) -> bool:
    standard = {"", "ai.onnx", "ai.onnx.ml"} | {function.domain for function in proto.functions}
    return any(node.domain not in standard for function in proto.functions for node in function.node)


def _inline(proto: onnx.ModelProto) -> None:
    try:
        proto.CopyFrom(onnx.inliner.inline_local_functions(proto))
    except (RuntimeError, ValueError) as error:
        raise InvalidGraph("The functions of the file cannot be put in place", actual=str(error)) from error


def _surroundings(proto: onnx.ModelProto, inferred: onnx.ModelProto) -> Surroundings:
    types: dict[str, int] = {}
    shapes: dict[str, tuple[int | str | None, ...]] = {}
    for values in (inferred.graph.value_info, inferred.graph.output, inferred.graph.input):
        for value in values:
            tensor = value.type.tensor_type
            types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                shapes[value.name] = tuple(_length(axis) for axis in tensor.shape.dim)
    for weight in proto.graph.initializer:
        types[weight.name], shapes[weight.name] = weight.data_type, tuple(weight.dims)
    held = [weight.data_type for weight in proto.graph.initializer]
    fed = [value.type.tensor_type.elem_type for value in proto.graph.input]
    kinds = {kind for kind in (*held, *fed) if kind in FLOATS}
    return Surroundings(
        opset=standard_opset(proto),
        types=types,
        shapes=shapes,
        used=_read(proto.graph),
        only_type=kinds.pop() if len(kinds) == 1 else None,
    )


def _length(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return int(axis.dim_value) if axis.HasField("dim_value") else str(axis.dim_param) or None


def _read(graph: onnx.GraphProto) -> frozenset[str]:
    """Names that nodes read, those inside of bodies too, or that are outputs."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                names |= _read(body)
    return frozenset(names)


def _rewrite(proto: onnx.ModelProto, known: Surroundings) -> Counter[str]:
    """Put standard nodes in the place of each node that has a rewrite of which all is known."""
    counted: Counter[str] = Counter()
    waiting = {id(node) for node in beyond_standard(proto)}
    taken, named_nodes = _names(proto), {node.name for node in proto.graph.node}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        place = _rewritten(node, known, taken, named_nodes) if id(node) in waiting else None
        if place is None:
            nodes.append(_copied(node))
            continue
        nodes += place.nodes
        proto.graph.initializer.extend(place.constants)
        counted[named(node)] += 1
    if counted:
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    return counted


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _rewritten(node: onnx.NodeProto, known: Surroundings, taken: set[str], named_nodes: set[str]) -> Place | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    rewrite = REWRITES.get((domain, node.op_type))
    if rewrite is None:
        return None
    place = Place(node=node, known=known, taken=taken, named=named_nodes)
    try:
        rewrite(place)
    except (NotKnownYet, *_MALFORMED):
        return None
    return place


def _names(proto: onnx.ModelProto) -> set[str]:
    graph = proto.graph
    given = {name for node in graph.node for name in (*node.input, *node.output)}
    return given | {entry.name for entries in (graph.input, graph.output, graph.initializer) for entry in entries}


def _tell(proto: onnx.ModelProto, left: Sequence[onnx.NodeProto], content: Content) -> None:
    """Write down type and shape of what these nodes give, as ONNX Runtime infers them."""
    listed = {value.name for value in proto.graph.output}
    wanted = [name for node in left for name in node.output if name and name not in listed]
    symbols = {axis.dim_param for value in proto.graph.input for axis in value.type.tensor_type.shape.dim} - {""}
    asked = [onnx.ValueInfoProto(name=name) for name in wanted]
    proto.graph.output.extend(asked)
    try:
        session = _opened(left, content)
    finally:
        del proto.graph.output[len(proto.graph.output) - len(asked) :]
    kept = [value for value in proto.graph.value_info if value.name not in wanted]
    found = [_value(entry, symbols) for entry in session.get_outputs() if entry.name in wanted]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend([*kept, *(value for value in found if value is not None)])


def _opened(left: Sequence[onnx.NodeProto], content: Content) -> ort.InferenceSession:
    """Open the file in ONNX Runtime without its weights; with them where a kernel asks for one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    failure = ""
    for whole in (False, True):
        try:
            return ort.InferenceSession(content(whole), options, providers=[CPU])
        except Exception as error:  # noqa: BLE001  # its exceptions share no base of their own
            failure = str(error)
    operators = ", ".join(f"{named(node)} {node.name!r}" for node in left[:_LISTED])
    raise UnsupportedOperator(
        "ONNX Runtime does not run this network with operators of its own on a processor",
        where=f"{len(left)} nodes that have no form in the ONNX standard, such as {operators}",
        actual=failure,
        allowed="operators of ONNX Runtime that it has kernels for, in the type that the file uses",
        advice="Save the network without the optimisations that made these nodes, or in float32.",
    )


def _value(entry: ort.NodeArg, symbols: set[str]) -> onnx.ValueInfoProto | None:
    """Type and shape of a value; lengths that the inputs do not name are left open, an empty shape is none at all."""
    if entry.type not in _TYPES:
        return None
    made = onnx.ValueInfoProto(name=entry.name)
    made.type.tensor_type.elem_type = _TYPES[entry.type]
    for length in entry.shape:
        axis = made.type.tensor_type.shape.dim.add()
        if isinstance(length, int):
            axis.dim_value = length
        elif length in symbols:
            axis.dim_param = length
    return made
