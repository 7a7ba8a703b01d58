"""Layers as rows times a matrix, against what the layers compute."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.workers.pruning.seeded import loaded
from workers.pruning.graph import design
from workers.pruning.graph.execute import GraphModule

HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
layer (float[N, %s] x, float[%s] w) => (float[N, %s] y) { y = %s (x, w) }
"""
LAYERS = {
    "dense": ("4, 9, 8", "6, 4, 3, 3", "6, 9, 8", "Conv <pads = [1, 1, 1, 1]>"),
    "strided": ("4, 9, 8", "6, 4, 3, 2", "6, 4, 4", "Conv <strides = [2, 2]>"),
    "lopsided": ("4, 9, 8", "6, 4, 3, 3", "6, 9, 9", "Conv <pads = [0, 1, 2, 2]>"),
    "dilated": ("4, 9, 8", "6, 4, 3, 3", "6, 5, 4", "Conv <dilations = [2, 2]>"),
    "grouped": ("4, 9, 8", "6, 2, 3, 3", "6, 7, 6", "Conv <group = 2>"),
    "depthwise": ("4, 9, 8", "4, 1, 3, 3", "4, 7, 6", "Conv <group = 4>"),
    "same upper": ("4, 9, 8", "6, 4, 3, 3", "6, 5, 4", 'Conv <auto_pad = "SAME_UPPER", strides = [2, 2]>'),
    "same lower": ("4, 9, 8", "6, 4, 2, 2", "6, 9, 8", 'Conv <auto_pad = "SAME_LOWER">'),
    "valid": ("4, 9, 8", "6, 4, 3, 3", "6, 7, 6", 'Conv <auto_pad = "VALID">'),
    "one dimension": ("4, 9", "6, 4, 3", "6, 9", "Conv <pads = [1, 1]>"),
    "three dimensions": ("4, 5, 4, 3", "6, 4, 2, 2, 2", "6, 4, 3, 2", "Conv"),
    "gemm": ("5", "5, 3", "3", "Gemm <alpha = 0.5>"),
    "transposed gemm": ("5", "3, 5", "3", "Gemm <transB = 1>"),
    "matmul of rows": ("4, 5", "5, 3", "4, 3", "MatMul"),
}


def layer(name: str) -> tuple[ir.Node, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """The node, its weight, an input, its output, and the axis of its channels."""
    shape, weight, out, operator = LAYERS[name]
    graph = loaded(HEAD % (shape, weight, out, operator))
    module = GraphModule(graph, trainable=False).eval()
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *map(int, shape.split(",")))).astype(np.float32))
    node = graph.graph[0]
    return node, module.initializers["w"], x, module(x)[0], 1 if node.op_type == "Conv" else x.dim() - 1


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrix_are_the_output(name: str) -> None:
    """At every drawn position the inputs times the matrix give what the layer gives there."""
    node, weight, x, y, axis = layer(name)
    rows = design.sample(y.shape, axis, 12, np.random.default_rng(0))
    matrix = design.to_matrix(node, weight)
    product = torch.einsum("gnd,gmd->ngm", design.inputs_at(node, x, weight, y.shape, rows), matrix)

    torch.testing.assert_close(product.reshape(len(rows), -1), design.outputs_at(y, axis, rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_goes_back_into_the_weight(name: str) -> None:
    """Writing the matrix back gives the weight it came from."""
    node, weight, *_ = layer(name)

    torch.testing.assert_close(design.from_matrix(node, design.to_matrix(node, weight), weight), weight)


def test_every_sample_gives_as_many_positions() -> None:
    """Positions are drawn without repetition, the same number from each sample."""
    rows = design.sample((5, 7, 6, 6), 1, 50, np.random.default_rng(0))

    assert len(set(rows.tolist())) == 50
    assert torch.bincount(rows // 36).tolist() == [10] * 5


def test_all_positions_are_taken_when_they_are_few() -> None:
    """Asked for more rows than there are, it gives each once."""
    assert design.sample((2, 7, 3), 1, 100, np.random.default_rng(0)).tolist() == list(range(6))
