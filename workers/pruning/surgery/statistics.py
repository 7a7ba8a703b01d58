"""Figures over channels, such as norms and means, taken over the channels that stay: what a cut does without a change.

A cut normalises over fewer channels; the masked network still holds those that go, so it is made to leave them out.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.summation import MEANS, SUMS, summed_axes
from workers.pruning.graph.values import attribute, constant, opset
from workers.pruning.surgery.constants import Surgeon
from workers.pruning.types import AnyArray, BoolArray, Grouping, Keep

Restrict = Callable[[Surgeon, ir.Node, int, BoolArray], None]
_FIRST_OPSET_WITH_MEAN_INPUTS: Final = 18


def leave_out(surgeon: Surgeon, node: ir.Node, grouping: Grouping, keep: Keep) -> None:
    """Let a node that sums or averages over channels see only those that stay, in place."""
    restrict = RESTRICTIONS.get(node.op_type)
    source = node.inputs[0] if node.inputs else None
    if restrict is None or node.domain or source is None or source.shape is None:
        return
    for axis in summed_axes(node, len(source.shape)):
        kept = grouping.kept(source.name or "", axis, keep)
        if kept is not None and not kept.all():
            restrict(surgeon, node, axis, kept)


def _sum(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """Zeros add nothing to a sum."""
    gate(surgeon, node, axis, kept.astype(np.float64))


def _mean(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """A mean over all D channels divides by D: the k that stay are multiplied by D / k."""
    gate(surgeon, node, axis, kept * (len(kept) / int(kept.sum())))


def _root_mean_square(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """With zeros in place of D - k channels the mean square is k / D of that of the others; epsilon follows suit."""
    gate(surgeon, node, axis, kept.astype(np.float64))
    _rescale(surgeon, node, int(kept.sum()) / len(kept))


def _mean_and_variance(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """With the mean of the k that stay in place of the others the mean is theirs, and the variance k / D of theirs."""
    _fill(surgeon, node, axis, kept)
    _rescale(surgeon, node, int(kept.sum()) / len(kept))


def _unscaled(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """The same where no scale is stored: the root of k / D is multiplied behind."""
    _fill(surgeon, node, axis, kept)
    output = node.outputs[0]
    readers = [(use.node, use.idx) for use in output.uses()]
    dtype = (output.dtype or ir.DataType.FLOAT).numpy()
    held = surgeon.initializer(f"{node.name}_root", np.asarray(np.sqrt(kept.mean()), dtype))
    scaled = ir.Value(name=f"{node.name}_scaled", shape=output.shape, type=output.type)
    surgeon.graph.graph.insert_after(
        node, ir.node("Mul", [output, held], name=f"{node.name}_scaling", outputs=[scaled])
    )
    for reader, index in readers:
        reader.replace_input_with(index, scaled)


def _fill(surgeon: Surgeon, node: ir.Node, axis: int, kept: BoolArray) -> None:
    """Put the mean of the channels that stay in place of the others."""
    source = node.inputs[0]
    if source is None:
        return
    average = _made(
        source, f"{node.name}_average", [1 if i in summed_axes(node, _rank(source)) else n for i, n in _full(source)]
    )
    averaging = _average(surgeon, node, source, average)
    surgeon.graph.graph.insert_before(node, averaging)
    gate(surgeon, averaging, axis, kept * (len(kept) / int(kept.sum())))
    filled = _made(source, f"{node.name}_filled", list(source.shape or ()))
    here = surgeon.initializer(f"{node.name}_stays", kept.reshape(_across(source, axis)))
    fill = ir.node("Where", [here, source, average], name=f"{node.name}_filling", outputs=[filled])
    surgeon.graph.graph.insert_before(node, fill)
    node.replace_input_with(0, filled)


def _average(surgeon: Surgeon, node: ir.Node, source: ir.Value, average: ir.Value) -> ir.Node:
    axes = summed_axes(node, _rank(source))
    name = f"{node.name}_averaging"
    if opset(surgeon.graph) < _FIRST_OPSET_WITH_MEAN_INPUTS:
        return ir.node("ReduceMean", [source], attributes={"axes": axes}, name=name, outputs=[average])
    listed = surgeon.initializer(f"{node.name}_axes", np.asarray(axes, np.int64))
    return ir.node("ReduceMean", [source, listed], name=name, outputs=[average])


def _rescale(surgeon: Surgeon, node: ir.Node, ratio: float) -> None:
    """Undo a variance that is too small by `ratio`: (x - m) / sqrt(ratio v + ratio epsilon) times its root."""
    scale = constant(node.inputs[1])
    if scale is not None:
        surgeon.put(node, 1, (scale.astype(np.float64) * np.sqrt(ratio)).astype(scale.dtype))
    epsilon = float(attribute(node, "epsilon", 1e-5))  # type: ignore[arg-type]
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * ratio)


def gate(surgeon: Surgeon, node: ir.Node, axis: int, factors: AnyArray) -> None:
    """Put a product with a factor for each position of an axis in front of a node's first input."""
    source = node.inputs[0]
    if source is None:
        return
    dtype = (source.dtype or ir.DataType.FLOAT).numpy()
    array = factors.astype(dtype).reshape(_across(source, axis))
    held = surgeon.initializer(f"{node.name}_gate", array)
    output = ir.Value(name=f"{held.name}d", shape=source.shape, type=source.type)
    surgeon.graph.graph.insert_before(node, ir.node("Mul", [source, held], name=f"{held.name}ing", outputs=[output]))
    node.replace_input_with(0, output)


def _across(source: ir.Value, axis: int) -> list[int]:
    return [-1 if i == axis else 1 for i, _ in _full(source)]


def _rank(value: ir.Value) -> int:
    return len(value.shape or ())


def _full(value: ir.Value) -> list[tuple[int, int | ir.SymbolicDim]]:
    return list(enumerate(value.shape or ()))


def _made(like: ir.Value, name: str, shape: list[int | ir.SymbolicDim]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=like.type)


RESTRICTIONS: Final[Mapping[str, Restrict]] = {
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(MEANS, _mean),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "LayerNormalization"), _mean_and_variance),
    "LpNormalization": _sum,
    "MeanVarianceNormalization": _unscaled,
    "RMSNormalization": _root_mean_square,
}
