"""Forget what a network has learned: the start of training from scratch."""

from math import prod, sqrt
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.tables import picks_rows
from workers.pruning.graph.values import attribute, constant
from workers.pruning.graph.weights import is_parameter, replace_weights
from workers.pruning.types import AnyArray, FloatArray

STREAM: Final = 206  # keeps these draws apart from others of the same seed
_FIRST_INPUT_IS_SCALE: Final = {
    "BatchNormalization": (1, 4),
    "InstanceNormalization": (1,),
    "LayerNormalization": (1,),
    "GroupNormalization": (1,),
    "RMSNormalization": (1,),
}
_SLOPE: Final = 0.25


def reset(graph: ir.Model, seed: int) -> ir.Model:
    """Return a graph with new weights: filters and matrices drawn as in He et al. 2015, normalisations the identity.

    Weights of n inputs are normal with deviation sqrt(2 / n); biases, shifts and running means are 0, scales and
    running variances 1, slopes of PRelu 0.25. Constants stay.
    """
    rng = np.random.default_rng([seed, STREAM])
    fresh: dict[str, AnyArray] = {}
    for name, value in graph.graph.initializers.items():
        array = constant(value)
        uses = list(value.uses())
        if array is None or not uses:
            continue
        node, index = next((use for use in uses if not picks_rows(use.node, use.idx)), uses[0])
        if is_parameter(value) or (node.op_type == "BatchNormalization" and index >= 3):
            fresh[name] = _drawn(node, index, array, rng)
    return replace_weights(graph, fresh)


def _drawn(node: ir.Node, index: int, array: AnyArray, rng: np.random.Generator) -> FloatArray:
    if index in _FIRST_INPUT_IS_SCALE.get(node.op_type, ()):
        return np.ones(array.shape)
    if node.op_type == "PRelu":
        return np.full(array.shape, _SLOPE)
    if node.op_type == "Mul":
        return np.ones(array.shape)
    if array.ndim < 2 or node.op_type == "Add" or max(array.shape) == array.size:
        return np.zeros(array.shape)
    return rng.standard_normal(array.shape) * sqrt(2.0 / _num_inputs(node, array.shape))


def _num_inputs(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "Conv":
        return prod(shape[1:])
    if node.op_type == "ConvTranspose":
        return shape[0] * prod(shape[2:])
    if node.op_type == "Transpose":
        return shape[1]
    if node.op_type == "Gemm":
        return shape[1] if attribute(node, "transB", 0) else shape[0]
    return shape[-2]
