"""The graph of a row computes the row's operator, and is small as a file."""

import numpy as np
import onnx
import pytest

from tests.workers.pruning.latency.network import WIDE, parts_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL
from workers.pruning.graph.runtime import Session, random_inputs
from workers.pruning.latency.micro_graph import micro_graph
from workers.pruning.latency.rows import Operand, Row

KEYS = [
    "Concat float32 1x4x8x8;1x6x8x8->1x10x8x8 axis=1 *4",
    "MaxPool float32 1x8x9x9->1x8x4x4 kernel_shape=3,3 strides=2,2 *4",
    "Add float32 1x8x9x9;1x8x1x1->1x8x9x9 *4",
    "Relu float16 1x8x9x9->1x8x9x9 *4",
    "MatMul float32 1x7x24;w24x32->1x7x32 *4",
    "Gemm float32 1x24;w10x24->1x10 transB=1 *4",
    "Gemm+Relu float32 1x24;w24x10->1x10 alpha=1 beta=1 *1",
    "ConvTranspose float32 1x8x4x4;w8x6x2x2->1x6x8x8 strides=2,2 *4",
    "Conv+Sigmoid float32 1x8x9x9;w12x4x3x3->1x12x7x7 *1",
    "Softmax float32 1x6x6->1x6x6 axis=-1 *4",
    "Clip float32 1x6;=float32:scalar:0;=float32:scalar:6->1x6 *4",
    "ReduceMean float32 1x64x8x8;=int64:-1,-2->1x64x1x1 keepdims=1 noop_with_empty_axes=0 *4",
    "ReduceMean float32 1x64x8x8->1x64x1x1 axes=2,3 keepdims=1 *4",
    "Gelu float32 1x6x4->1x6x4 *4",
    "LeakyRelu float32 1x6->1x6 alpha=0.1 *4",
]


@pytest.mark.parametrize("key", KEYS)
def test_the_runtime_runs_the_graph_of_a_row(key):
    """Every kind of operand and attribute makes a valid graph with the shapes that the row states."""
    row = Row.parse(key)
    content = micro_graph(row)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)

    session = Session(content)
    outputs = session.run(random_inputs(session.inputs, seed=0))

    assert {row.output} == {output.shape for output in outputs}
    assert all(np.isfinite(output).all() for output in outputs)


@pytest.mark.parametrize("text", [WIDE, MIXED, RESIDUAL])
def test_all_rows_of_a_network_run(text):
    """Whatever a network consists of can be timed."""
    _, _, model, found = parts_of(text)

    for layer in found:
        session = Session(micro_graph(layer.row(model.widths)))
        session.run(random_inputs(session.inputs, seed=0))


def test_weights_are_not_in_the_file():
    """A convolution of 2.4 million weights is sent to a device in a few hundred bytes."""
    data, weight = Operand(kind="data", shape=(1, 512, 4, 4)), Operand(kind="weight", shape=(512, 512, 3, 3))
    row = Row(operator="Conv", operands=(data, weight), output=(1, 512, 2, 2))

    assert len(micro_graph(row)) < 1000


def test_copies_are_not_merged_by_the_runtime():
    """Four copies compute four times, since no two have the same weights: the sum is that of four filters."""
    row = Row.parse("Conv float32 1x1x1x1;w1x1x1x1->1x1x1x1 *4")
    session = Session(micro_graph(row))

    (total,) = session.run([np.ones((1, 1, 1, 1), np.float32)])

    # Copy n has the weight and the bias 0.01 n.
    assert total.item() == pytest.approx(2 * 0.01 * (1 + 2 + 3 + 4), rel=1e-5)
