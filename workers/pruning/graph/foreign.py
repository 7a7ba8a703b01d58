"""Nodes that torch has no function for, control flow among them: ONNX Runtime runs each as a network of one node."""

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from workers.pruning.errors import InvalidGraph, UnsupportedOperator
from workers.pruning.graph.ops.site import to_tensor
from workers.pruning.graph.runtime import PROVIDER
from workers.pruning.graph.values import constant, is_float, operator, reads
from workers.pruning.types import AnyArray

_FATAL: Final = 4  # what goes wrong is raised, with its reason
_OLDEST_IR: Final = 4  # that need not list initializers among the inputs
_RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def fed(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """What is fed to a node at each run: `values.reads`, with None for what is stored in its network.

    Weights are fed, since they may change; other constants, and text, which torch cannot hold, are stored. So is all
    that a node beyond the standard holds: it is never trained, and kernels may ask for constants.
    """
    return tuple(None if value is None or _is_stored(value, node) else value for value in reads(node))


class Foreign:
    """One node in ONNX Runtime, on the CPU and on one thread, as a kernel that no gradient passes.

    Half precision comes and goes as float32 and is rounded to its own type for the node. Sequences and text travel
    between such nodes as ONNX Runtime gives them. A draw of random numbers without a seed gets one.

    Raises:
        UnsupportedOperator: ONNX Runtime does not run the node either; carries its reason.
    """

    def __init__(self, graph: ir.Model, node: ir.Node) -> None:
        self._node, self._values = node, fed(node)
        self._outputs = [value.name or "" for value in node.outputs if value.name]
        self._places = [index for index, value in enumerate(node.outputs) if value.name]
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            content = _network(graph, node, self._values).SerializeToString(deterministic=True)
            self._session = ort.InferenceSession(content, options, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no base of their own
            raise _unsupported(node, str(error)) from error

    def __call__(self, *inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Run the node; gives its outputs without a gradient, on the device of what it reads."""
        feeds = {
            value.name or "": _to_array(given, value)
            for given, value in zip(inputs, self._values, strict=True)
            if given is not None and value is not None
        }
        try:
            found = self._session.run(self._outputs, feeds)
        except Exception as error:
            where = f"node {self._node.name!r} ({operator(self._node)})"
            raise InvalidGraph("A node fails in ONNX Runtime", where=where, actual=str(error)) from error
        device = next(
            (given.device for given in inputs if isinstance(given, Tensor) and given.device.type != "cpu"), None
        )
        results: list[Tensor | None] = [None] * (max(self._places, default=0) + 1)
        for place, output in zip(self._places, found, strict=True):
            results[place] = _to_tensor(output, device)
        outputs = cast("tuple[Tensor, ...]", tuple(results))
        return outputs if len(outputs) > 1 else outputs[0]


def _network(graph: ir.Model, node: ir.Node, values: Sequence[ir.Value | None]) -> onnx.ModelProto:
    """A network of one node and what it stores."""
    model = onnx.ModelProto(ir_version=max(graph.ir_version or 0, _OLDEST_IR))
    for domain, version in graph.opset_imports.items():
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = node.name or node.op_type
    model.graph.node.append(_bare(node))
    for value in dict.fromkeys(value for value in values if value is not None):
        model.graph.input.add(name=value.name or "").type.CopyFrom(_type(value))
    for value in dict.fromkeys(value for value in reads(node) if value is not None and _is_stored(value, node)):
        tensor = ir.serde.serialize_tensor(cast("ir.TensorProtocol", value.const_value))
        tensor.name = value.name or ""
        model.graph.initializer.append(tensor)
    model.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name)
    return model


def _bare(node: ir.Node) -> onnx.NodeProto:
    """The node without lengths in its bodies, which may remember another batch, and with a seed if it draws."""
    made = ir.serde.serialize_node(node)
    if node.op_type in _RANDOM and "seed" not in node.attributes:
        made.attribute.add(name="seed", type=onnx.AttributeProto.FLOAT, f=0.0)
    _forget_lengths(made)
    return made


def _type(value: ir.Value) -> onnx.TypeProto:
    """The type of a value without its shape; bfloat16, which ONNX Runtime has no kernels for, as float32."""
    if value.dtype == ir.DataType.BFLOAT16:
        return onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=onnx.TensorProto.FLOAT))
    if isinstance(value.type, ir.TensorType):
        return onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=int(value.type.dtype)))
    if value.type is None:
        raise ValueError(f"the type of {value.name!r} is not known")
    return ir.serde.serialize_type(value.type)


def _forget_lengths(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            del body.value_info[:]
            for value in (*body.input, *body.output):
                for axis in value.type.tensor_type.shape.dim:
                    axis.Clear()
            for inner in body.node:
                _forget_lengths(inner)


def _is_stored(value: ir.Value, node: ir.Node) -> bool:
    return constant(value) is not None and (not is_float(value) or bool(node.domain))


def _to_array(given: object, value: ir.Value) -> object:
    if not isinstance(given, Tensor):
        return given  # a sequence or text, from another such node
    tensor = given.detach().cpu()
    array: AnyArray = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    wanted = value.dtype
    if wanted is None or wanted in {ir.DataType.BFLOAT16, ir.DataType.UNDEFINED}:
        return np.ascontiguousarray(array)
    return np.asarray(array, wanted.numpy(), order="C")


def _to_tensor(output: object, device: torch.device | None) -> Tensor | None:
    if output is None or isinstance(output, list):
        return cast("Tensor | None", output)
    array = np.asarray(output)
    if array.dtype.kind in "OSU":
        return cast("Tensor", output)
    tensor = to_tensor(array)
    return tensor if device is None else tensor.to(device)


def _unsupported(node: ir.Node, reason: str) -> UnsupportedOperator:
    return UnsupportedOperator(
        "The graph has an operator that neither torch nor ONNX Runtime can run",
        where=f"node {node.name!r}",
        actual=f"{operator(node)}: {reason}",
        allowed="the operators listed in docs/operators.md, and those of ONNX Runtime",
        advice="Export the network without it, or prune a part of the network that does not contain it.",
    )
