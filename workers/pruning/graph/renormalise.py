"""Give folded convolutions their BatchNormalization back for training, and fold it away again afterwards.

Exporters fold BatchNormalization into the convolution before it. Trained that way a network is unstable at useful
rates, so `insert` puts one that computes the identity behind each such convolution, and `fold` removes exactly those:
they are known by the suffix of their names.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph, NonFiniteScore
from workers.pruning.types import AnyArray, FloatArray

SUFFIX: Final = "/renormalised"
EPSILON: Final = 1e-5
HE_NORM: Final = float(np.sqrt(2.0))
_DEAD: Final = 1e-6
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_WEIGHTED: Final = _CONVOLUTIONS | {"Gemm", "MatMul"}
_NORMALISATIONS: Final = frozenset(
    {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization"}
)


def to_insert(graph: ir.Model) -> tuple[str, ...]:
    """Name the convolutions that had their BatchNormalization folded in, in graph order.

    These have a bias, no normalisation behind them, and a layer with weights after them. Heads stay as they are: what
    they compute is the answer, on its own scale. Convolutions without a bias stay too, because folding would give them
    one and the network would grow. So do those whose weights several nodes read: one kernel cannot take up several.
    """
    before_weights = _before_weights(graph)
    return tuple(
        _name(node)
        for node in graph.graph
        if node.op_type in _CONVOLUTIONS
        and _bias(node) is not None
        and node.outputs[0].name in before_weights
        and not node.outputs[0].is_graph_output()
        and not any(value is not None and len(value.uses()) > 1 for value in node.inputs[1:])
        and not any(use.op_type in _NORMALISATIONS for use in node.outputs[0].consumers())
    )


def insert(
    graph: ir.Model,
    statistics: Mapping[str, tuple[AnyArray, AnyArray]],
    *,
    reference_norms: Mapping[str, AnyArray] | None = None,
) -> ir.Model:
    """Return a graph with an identity BatchNormalization behind each convolution that `statistics` names.

    Source: derivation. With z the convolution without its bias, BatchNormalization with mean(z), var(z),
    scale sqrt(var + eps) and shift mean(z) + bias gives z + bias, what the convolution gave before.
    Every filter is also brought to a reference norm r: weights, mean and standard deviation are multiplied by
    q = r / norm and the scale is divided by q, which leaves the function as it is. Behind a BatchNormalization the step
    that a filter really makes goes with 1 / norm^2, and folded filters have norms that are off by a factor of five
    either way, so without this one learning rate does not suit all of them.

    Shapes: statistics[name] = (mean (C,), variance (C,)) of the convolution's output, its bias included;
    reference_norms[name] (C,), where absent sqrt(2), the norm of a filter of He initialisation.

    Raises:
        InvalidGraph: `statistics` names a node that is no convolution, or has the wrong length.
        NonFiniteScore: a statistic is NaN, infinite or a negative variance.
    """
    result = graph.clone()
    nodes = {_name(node): node for node in result.graph}
    for name, (mean, variance) in statistics.items():
        node = nodes.get(name)
        if node is None or node.op_type not in _CONVOLUTIONS:
            raise InvalidGraph("BatchNormalization can only follow a convolution", where=name)
        _check(node, mean, variance)
        _insert_one(result, node, (mean, variance), (reference_norms or {}).get(name))
    return result


def fold(graph: ir.Model) -> ir.Model:
    """Return a graph in which every BatchNormalization that `insert` added is part of its convolution again.

    Source: W' = W s, b' = shift + (b - mean) s with s = scale / sqrt(var + eps). Others stay untouched.
    """
    result = graph.clone()
    for node in list(result.graph):
        if node.op_type == "BatchNormalization" and _name(node).endswith(SUFFIX):
            _fold_one(result, node)
    return result


def fold_all(graph: ir.Model, *, within: Container[str] | None = None) -> ir.Model:
    """Return a graph that computes the same with fewer nodes, to be run and not to be trained.

    Every BatchNormalization with stored statistics that alone reads a convolution becomes part of it, of the nodes
    named in `within` or of all; weights that several nodes read stay as they are.
    """
    result = graph.clone()
    for node in list(result.graph):
        chosen = within is None or _name(node) in within
        if chosen and node.op_type == "BatchNormalization" and _is_foldable(node):
            _fold_one(result, node)
    return result


def filter_norms(graph: ir.Model) -> dict[str, FloatArray]:
    """Return the Euclidean norm of every filter of every convolution: node name -> (C,)."""
    return {
        _name(node): np.sqrt(np.square(_by_filter(node)).sum(axis=1))
        for node in graph.graph
        if node.op_type in _CONVOLUTIONS and _has_weight(node)
    }


def _before_weights(graph: ir.Model) -> set[str]:
    """Name the values from which some node with weights is still reached."""
    reached: set[str] = set()
    for node in reversed(list(graph.graph)):
        weighted = node.op_type in _WEIGHTED and any(_constant(value) for value in node.inputs)
        if weighted or any(value.name in reached for value in node.outputs):
            reached |= {value.name for value in node.inputs if value is not None and value.name}
    return reached


def _insert_one(
    graph: ir.Model, node: ir.Node, statistics: tuple[AnyArray, AnyArray], reference: AnyArray | None
) -> None:
    bias = _array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    norm = np.sqrt(np.square(_by_filter(node)).sum(axis=1))
    target = np.full(len(norm), HE_NORM) if reference is None else np.asarray(reference, np.float64)
    factor = np.divide(target, norm, out=np.ones_like(norm), where=(norm > _DEAD) & (target > _DEAD))
    mean = np.asarray(statistics[0], np.float64)
    variance = np.asarray(statistics[1], np.float64) * factor**2
    scale = np.sqrt(variance + EPSILON) / factor
    _scale_filters(node, factor)
    shift = _take_bias(graph, node, mean)
    raw_mean = (mean if bias is None else mean - bias) * factor
    parameters = {"scale": scale, "mean": raw_mean, "variance": variance}
    name = _name(node) + SUFFIX
    dtype = _dtype(node.inputs[1])
    added = {key: _register(graph, f"{name}/{key}", array.astype(dtype)) for key, array in parameters.items()}
    _append(graph, node, [added["scale"], shift, added["mean"], added["variance"]])


def _take_bias(graph: ir.Model, node: ir.Node, shift: FloatArray) -> ir.Value:
    """Turn the convolution's bias into the shift of its normalisation: one name before, between and after."""
    value = _bias(node)
    if value is None:
        array = shift.astype(_dtype(node.inputs[1]))
        return _register(graph, f"{_name(node)}{SUFFIX}/shift", array)
    _store(value, shift)
    node.replace_input_with(2, None)
    node.resize_inputs(2)
    return value


def _append(graph: ir.Model, node: ir.Node, inputs: Sequence[ir.Value]) -> None:
    output = node.outputs[0]
    uses = list(output.uses())  # taken before the new node uses the value too, or the graph would be cyclic
    name = _name(node) + SUFFIX
    value = ir.Value(name=f"{output.name}{SUFFIX}", shape=output.shape, type=output.type)
    attributes = [ir.AttrFloat32("epsilon", EPSILON), ir.AttrFloat32("momentum", 0.9)]
    added = ir.Node("", "BatchNormalization", [output, *inputs], attributes, outputs=[value], name=name)
    for use in uses:
        use.node.replace_input_with(use.idx, value)
    graph.graph.insert_after(node, added)


def _is_foldable(node: ir.Node) -> bool:
    source = node.inputs[0]
    convolution = source.producer() if source is not None else None
    if source is None or convolution is None or convolution.op_type not in _CONVOLUTIONS:
        return False
    bias = convolution.inputs[2] if len(convolution.inputs) > 2 else None
    own = (convolution.inputs[1], *node.inputs[1:5])
    return (
        len(source.uses()) == 1
        and not source.is_graph_output()
        and not node.outputs[0].is_graph_output()
        and not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
        and not node.attributes.get_int("training_mode", 0)
        and node.attributes.get_int("spatial", 1) == 1
        and all(value is not None and _constant(value) and len(value.uses()) == 1 for value in own)
        and (bias is None or _constant(bias))
    )


def _fold_one(graph: ir.Model, node: ir.Node) -> None:
    source = node.inputs[0]
    convolution = source.producer() if source is not None else None
    if source is None or convolution is None or convolution.op_type not in _CONVOLUTIONS:
        raise InvalidGraph("the inserted BatchNormalization has lost its convolution", where=_name(node))
    scale, shift, mean, variance = (_array(value) for value in node.inputs[1:5])
    ratio = scale / np.sqrt(variance + node.attributes.get_float("epsilon", EPSILON))
    own = _bias(convolution)
    mean = mean if own is None else mean - _array(own)
    _scale_filters(convolution, ratio)
    parameters = [value for value in node.inputs[1:5] if value is not None]
    for use in list(node.outputs[0].uses()):
        use.node.replace_input_with(use.idx, source)
    graph.graph.remove(node, safe=True)
    bias = parameters[1]
    _store(bias, shift - mean * ratio)
    convolution.resize_inputs(3)
    convolution.replace_input_with(2, bias)
    for value in parameters:
        if value.name is not None and not value.uses():
            graph.graph.initializers.pop(value.name)


def _by_filter(node: ir.Node) -> FloatArray:
    """Return the weights as (filters, weights of one filter), in the order of the output channels."""
    weight = _array(node.inputs[1])
    if node.op_type == "Conv":
        return weight.reshape(len(weight), -1)
    num_groups = node.attributes.get_int("group", 1)
    grouped = weight.reshape(num_groups, len(weight) // num_groups, weight.shape[1], -1)
    return np.moveaxis(grouped, 2, 1).reshape(num_groups * weight.shape[1], -1)


def _scale_filters(node: ir.Node, factor: FloatArray) -> None:
    weight = _array(node.inputs[1])
    if node.op_type == "Conv":
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        num_groups = node.attributes.get_int("group", 1)
        shape = (num_groups, len(weight) // num_groups, weight.shape[1], -1)
        grouped = weight.reshape(shape) * factor.reshape(num_groups, 1, weight.shape[1], 1)
        scaled = grouped.reshape(weight.shape)
    _store(node.inputs[1], scaled)


def _check(node: ir.Node, mean: AnyArray, variance: AnyArray) -> None:
    num_filters = len(_by_filter(node))
    if mean.shape != (num_filters,) or variance.shape != (num_filters,):
        raise InvalidGraph(
            "statistics do not fit the convolution",
            where=_name(node),
            actual=f"{mean.shape} and {variance.shape}",
            allowed=f"({num_filters},)",
        )
    values = np.asarray([mean, variance], np.float64)
    if not np.isfinite(values).all() or (values[1] < 0).any():
        raise NonFiniteScore(
            "channel statistics are not finite",
            where=_name(node),
            advice="Check the calibration data for NaN and infinite values.",
        )


def _register(graph: ir.Model, name: str, array: AnyArray) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.graph.register_initializer(value)
    return value


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _has_weight(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and _constant(node.inputs[1])


def _array(value: ir.Value | None) -> FloatArray:
    if value is None or value.const_value is None:
        raise InvalidGraph("a weight is computed rather than stored", where=(value.name or "") if value else "")
    return value.const_value.numpy().astype(np.float64)


def _dtype(value: ir.Value | None) -> np.dtype[np.generic]:
    if value is None or value.const_value is None:
        raise InvalidGraph("a weight is computed rather than stored", where=(value.name or "") if value else "")
    return value.const_value.dtype.numpy()


def _store(value: ir.Value | None, array: FloatArray) -> None:
    if value is not None:
        value.const_value = ir.tensor(array.astype(_dtype(value)), name=value.name)


def _bias(node: ir.Node) -> ir.Value | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return value if _constant(value) else None


def _name(node: ir.Node) -> str:
    return node.name or ""
