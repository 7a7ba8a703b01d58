"""Graphs of thousands of nodes: residual chains, dense blocks, transformers."""

import numpy as np
import onnx_ir as ir

from tests.matrix.operator_graphs import Sketch

WIDTH = 4


def residual_chain(num_nodes: int) -> ir.Model:
    """Blocks of two normalised convolutions on one stream, eight nodes each."""
    g = Sketch()
    stream = g.image(channels=WIDTH)
    while len(g.nodes) < num_nodes - 8:
        inner = g.node("Relu", _normalised(g, stream))
        change = g.node("Mul", _normalised(g, inner), g.scalar(0.01))  # hundreds of blocks stay finite
        stream = g.node("Relu", g.node("Add", change, stream))
    return g.graph(stream, WIDTH, 2)


def _normalised(g: Sketch, source: ir.Value) -> ir.Value:
    made = g.node("Conv", source, g.drawn(WIDTH, WIDTH, 3, 3), pads=[1] * 4)
    scale, spread = g.drawn(WIDTH, positive=True), g.drawn(WIDTH, positive=True)
    return g.node("BatchNormalization", made, scale, g.drawn(WIDTH), g.drawn(WIDTH), spread)


def dense_blocks(num_nodes: int, layers: int = 24) -> ir.Model:
    """Blocks of layers that each read everything before them in the block, three nodes each."""
    g = Sketch()
    source, channels = g.image(channels=WIDTH), WIDTH
    while len(g.nodes) < num_nodes - 3 * layers:
        for _ in range(layers):
            made = g.node("Relu", g.node("Conv", source, g.drawn(WIDTH, channels, 3, 3), pads=[1] * 4))
            source, channels = g.node("Concat", source, made, axis=1), channels + WIDTH
        source, channels = g.node("Conv", source, g.drawn(WIDTH, channels, 1, 1)), WIDTH
    return g.graph(source, channels, 2)


def transformer(num_nodes: int, width: int = 12, heads: int = 2) -> ir.Model:
    """Attention with shape arithmetic as legacy exports write it, and a hidden layer, some forty nodes a block."""
    g = Sketch()
    stream = g.words()
    while len(g.nodes) < num_nodes - 45:
        ready = g.node("LayerNormalization", stream, g.drawn(width, positive=True), g.drawn(width), axis=-1)
        batch = _length(g, ready, 0)
        parts = []
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            made = g.node("Add", g.node("MatMul", ready, g.drawn(width, width)), g.drawn(width))
            target = g.node("Concat", batch, g.ints(6, heads, width // heads), axis=0)
            parts.append(g.node("Transpose", g.node("Reshape", made, target), perm=order))
        weights = g.node("Softmax", g.node("Mul", g.node("MatMul", *parts[:2]), g.scalar(0.4)), axis=-1)
        mixed = g.node("Transpose", g.node("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
        flat = g.node("Reshape", mixed, g.node("Concat", batch, g.ints(6, width), axis=0))
        stream = g.node("Add", stream, g.node("MatMul", flat, g.drawn(width, width)))
        ready = g.node("LayerNormalization", stream, g.drawn(width, positive=True), g.drawn(width), axis=-1)
        hidden = g.node("Add", g.node("MatMul", ready, g.drawn(width, 16)), g.drawn(16))
        gate = g.node("Add", g.node("Erf", g.node("Div", hidden, g.scalar(1.41421))), g.scalar(1.0))
        hidden = g.node("Mul", g.node("Mul", hidden, gate), g.scalar(0.5))
        stream = g.node("Add", stream, g.node("MatMul", hidden, g.drawn(16, width)))
    return g.graph(stream, width, -3)


def _length(g: Sketch, value: ir.Value, axis: int) -> ir.Value:
    length = g.node("Gather", g.node("Shape", value), g.held(np.asarray(axis, np.int64)), axis=0)
    return g.node("Unsqueeze", length, g.ints(0))


LONG = {"residual chain": residual_chain, "dense blocks": dense_blocks, "transformer": transformer}
