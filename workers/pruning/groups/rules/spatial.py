"""Operators that work on each channel's plane: pooling, resizing, moving blocks of pixels into channels and back."""

import numpy as np
import onnx_ir as ir

from workers.pruning.groups.labels import Labels, NotUnderstood, along
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import integer, text


def pool(state: Propagation, node: ir.Node) -> None:
    """Each channel is pooled on its own."""
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise NotUnderstood("its second output counts positions over all channels")
    labels = state.input(node)
    labels = state.collapse(labels, range(2, labels.ndim))
    state.put(node, Labels(state.output_shape(node), labels.compact))


def resize(state: Propagation, node: ir.Node) -> None:
    """Axes without channels change their length."""
    labels = state.input(node)
    shape = state.output_shape(node)
    if any(shape[axis] != labels.shape[axis] for axis in labels.varying):
        raise NotUnderstood("it resizes the channel axis")
    state.put(node, Labels(shape, labels.compact))


def depth_to_space(state: Propagation, node: ir.Node) -> None:
    """A block of channels becomes a block of pixels of one channel: the channels of a block are tied."""
    line = state.line(state.input(node), 1)
    block = integer(node, "blocksize", 1) ** 2
    column_major = text(node, "mode", "DCR") == "CRD"
    table = line.reshape(-1, block).T if column_major else line.reshape(block, -1)
    state.ties.unite(table, table[:1])
    state.put(node, along(table[0], 1, state.output_shape(node)))


def space_to_depth(state: Propagation, node: ir.Node) -> None:
    """A block of pixels of one channel becomes a block of channels: each channel occurs once per pixel."""
    line = state.line(state.input(node), 1)
    block = integer(node, "blocksize", 1) ** 2
    state.put(node, along(np.tile(line, block), 1, state.output_shape(node)))
