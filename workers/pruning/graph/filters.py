"""The filters that make each unit, as what reads the unit sees them: normalisation folded in, bias behind the weights.

Two units whose filters point the same way answer alike: up to their lengths if everything between a unit and its
readers lets a positive factor through, as a rectifier does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.types import FloatArray, Group, Grouping, InitializerAxis, IntArray, Role

_Stage = tuple[FloatArray, FloatArray]
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NOT_HOMOGENEOUS: Final = frozenset(
    {"Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Clip", "Erf", "Gelu", "Elu", "Selu", "Softplus", "Mish", "Exp"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What makes the units of a group, stage by stage: the layers that produce them, then each depthwise layer."""

    stages: tuple[tuple[FloatArray, FloatArray], ...]  # weights and biases, each (units, any number)
    homogeneous: bool  # a positive factor on a unit reaches its readers as it is

    def likeness(self) -> tuple[FloatArray, FloatArray]:
        """Cosine of every two units, multiplied over stages and 0 where one is negative; and the factor between them.

        A later stage reads what the one before made: its weights count times the length of that, its bias as it is.
        Where factors do not pass, units of different length are as unlike as their lengths, and the factor is 1.
        Shapes: both (units, units); `factor[r, s]` times unit s stands in for unit r.
        """
        count = len(self.stages[0][0])
        cosine, factor, lengths = np.ones((count, count)), np.ones((count, count)), np.ones(count)
        for weight, bias in self.stages:
            rows = np.concatenate([weight * (lengths[:, None] if self.homogeneous else 1.0), bias], 1)
            lengths = np.linalg.norm(rows, axis=1)
            divisor = np.where(lengths > 0, lengths, 1.0)
            cosine *= np.clip((rows / divisor[:, None]) @ (rows / divisor[:, None]).T, 0.0, 1.0)
            factor = lengths[:, None] / divisor[None, :]
            if not self.homogeneous:
                cosine *= np.minimum(factor, factor.T)
        return cosine, factor if self.homogeneous else np.ones_like(factor)


def filters_of(graph: ir.Model, grouping: Grouping, group: Group) -> Filters | None:
    """Give the filters of a group, or None where more than layers and their normalisation shapes its units."""
    axes = _axes(grouping, group)
    nodes = {node.name or "": node for node in graph.graph}
    readers = {name for name, found in axes.items() if any(axis.role is Role.CONSUME for axis in found)}
    if not readers or set(group.consumers) - readers:
        return None
    made: list[_Stage] = []
    depthwise: list[_Stage] = []
    behind: set[str] = set()
    for name, found in axes.items():
        node = nodes.get(name)
        own = [axis for axis in found if axis.role is not Role.CONSUME]
        if node is None or node.op_type not in _WEIGHTED or not own:
            continue
        stage, followers = _stage(graph, node, group, axes)
        behind |= followers
        produced = any(axis.role is Role.PRODUCE for axis in own)
        (made if produced else depthwise).append(stage)
    shaping = {name for name, found in axes.items() if any(axis.role is not Role.CONSUME for axis in found)}
    if not made or any(nodes[name].op_type not in _WEIGHTED for name in shaping - behind):
        return None
    first = (np.concatenate([weight for weight, _ in made], 1), np.concatenate([bias for _, bias in made], 1))
    return Filters(stages=(first, *depthwise), homogeneous=_is_homogeneous(graph, grouping, group))


def positions(axis: InitializerAxis, group: Group) -> IntArray:
    """Where the units of a group lie on an axis: (units, positions of each)."""
    member = np.flatnonzero((axis.units >= group.start) & (axis.units < group.stop))
    order = np.argsort(axis.units[member], kind="stable")
    return member[order].reshape(group.width, -1)


def _axes(grouping: Grouping, group: Group) -> dict[str, list[InitializerAxis]]:
    found: dict[str, list[InitializerAxis]] = {}
    for axis in grouping.initializer_axes:
        if ((axis.units >= group.start) & (axis.units < group.stop)).any():
            found.setdefault(axis.node, []).append(axis)
    return found


def _stage(
    graph: ir.Model, node: ir.Node, group: Group, axes: Mapping[str, list[InitializerAxis]]
) -> tuple[_Stage, set[str]]:
    """Weights and bias of each unit in one layer, and the nodes behind it that are folded in."""
    weight, bias = np.zeros((group.width, 0)), np.zeros((group.width, 0))
    for axis in axes[node.name or ""]:
        if axis.role is Role.CONSUME:
            continue
        array = _array(graph, axis.initializer)
        taken = np.take(array, positions(axis, group), axis=axis.axis)
        rows = np.moveaxis(taken, (axis.axis, axis.axis + 1), (0, 1)).reshape(group.width, -1)
        if array.ndim > 1:
            weight = rows
        else:
            bias = rows
    follower = _only_reader(node)
    if follower is None or (follower.name or "") not in axes:
        return (weight, bias), set()
    named = [value.name if value is not None else None for value in follower.inputs]
    lines = {axis.initializer: axis for axis in axes[follower.name or ""]}
    if follower.op_type == "BatchNormalization" and all(name in lines for name in named[1:5]):
        scale, shift, mean, variance = (
            _array(graph, str(name))[positions(lines[str(name)], group)].reshape(group.width, -1) for name in named[1:5]
        )
        ratio = scale / np.sqrt(variance + follower.attributes.get_float("epsilon", 1e-5))
        each = np.repeat(ratio, weight.shape[1] // ratio.shape[1], axis=1)
        bias = shift + ((bias if bias.size else 0.0) - mean) * ratio
        return (weight * each, bias), {follower.name or ""}
    if follower.op_type == "Add":
        added = [_array(graph, name)[positions(line, group)] for name, line in lines.items()]
        biases = [bias, *(rows.reshape(group.width, -1) for rows in added)]
        return (weight, np.concatenate(biases, 1)), {follower.name or ""}
    return (weight, bias), set()


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 and not node.outputs[0].is_graph_output() else None


def _is_homogeneous(graph: ir.Model, grouping: Grouping, group: Group) -> bool:
    holding = {
        name
        for name, axes in grouping.value_axes.items()
        if any(((units >= group.start) & (units < group.stop)).any() for units in axes.values())
    }
    return not any(
        node.op_type in _NOT_HOMOGENEOUS and any(value is not None and value.name in holding for value in node.inputs)
        for node in graph.graph
    )


def _array(graph: ir.Model, name: str) -> FloatArray:
    tensor = graph.graph.initializers[name].const_value
    return np.zeros(0) if tensor is None else np.asarray(tensor.numpy(), np.float64)
