"""The numbers of a graph: read them, replace them, tell trained parameters from constants."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.tables import is_turned_table
from workers.pruning.graph.values import constant, is_float
from workers.pruning.types import AnyArray

# Inputs that hold trained numbers. Running statistics of BatchNormalization are state, not parameters, but are numbers
# of the same kind.
PARAMETRIC: Final[Mapping[str, tuple[int, ...]]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Einsum": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "RNN": (1, 2, 3),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
}
_AFFINE: Final = frozenset({"Add", "Mul"})
_TRANSPARENT: Final = _AFFINE | {"Reshape"}


def weights(graph: ir.Model) -> dict[str, AnyArray]:
    """All float initializers of the main graph by name, in file order. The arrays are the graph's own: do not write."""
    return {
        name: np.asarray(value.const_value.numpy())
        for name, value in graph.graph.initializers.items()
        if value.const_value is not None and is_float(value)
    }


def replace_weights(graph: ir.Model, replaced: Mapping[str, AnyArray]) -> ir.Model:
    """Return a new graph with these initializers replaced; dtypes stay, shapes may change.

    Raises:
        KeyError: a name is not an initializer of the graph.
    """
    copied = clone(graph)
    for name, array in replaced.items():
        value = copied.graph.initializers[name]
        set_initializer(value, array)
    return copied


def set_initializer(value: ir.Value, array: AnyArray) -> None:
    """Replace the numbers of an initializer in place, in the type that it has.

    Raises:
        ValueError: the value has no type.
    """
    if value.dtype is None:
        raise ValueError(f"{value.name!r} has no type")
    tensor = ir.Tensor(np.array(array, value.dtype.numpy(), order="C"), dtype=value.dtype, name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)


def clone(graph: ir.Model) -> ir.Model:
    """Return a graph that can be edited without touching `graph`; both share the arrays, which nobody writes to."""
    return graph.clone()


def is_parameter(value: ir.Value) -> bool:
    """Whether an initializer is a trained parameter rather than a constant.

    It is when an operator with weights reads it, or when it is the bias or scale of channels (an Add or Mul along one
    axis) behind such an operator or behind a normalisation, as MatMul layers, GroupNorm and LayerNorm are exported.
    Constants elsewhere (pixel means, priors, grids, scale factors, masks, positions) are left as they are.
    """
    return is_float(value) and any(_is_trained(use.node, use.idx) for use in value.uses())


def _is_trained(node: ir.Node, index: int) -> bool:
    if node.domain:
        return False
    if index in PARAMETRIC.get(node.op_type, ()):
        return True
    if is_turned_table(node):
        return all(_is_trained(use.node, use.idx) for use in node.outputs[0].uses())
    if node.op_type not in _AFFINE:
        return False
    other = node.inputs[1 - index]
    array = constant(node.inputs[index])
    along_one_axis = array is not None and array.size > 1 and max(array.shape) == array.size
    return other is not None and along_one_axis and _behind_weights(other)


def _behind_weights(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in _TRANSPARENT and not producer.domain:
        computed = [source for source in producer.inputs if source is not None and source.const_value is None]
        if len(computed) != 1:
            return False
        producer = computed[0].producer()
    if producer is None or producer.domain:
        return False
    return producer.op_type in PARAMETRIC or _divides_by_deviation(producer)


def _divides_by_deviation(node: ir.Node) -> bool:
    """The last step of a normalisation that is spelled out: a difference over a root."""
    if node.op_type != "Div" or node.inputs[1] is None:
        return False
    divisor = node.inputs[1].producer()
    return divisor is not None and divisor.op_type == "Sqrt"
