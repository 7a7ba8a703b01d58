"""Constants that repeat a channel count: targets of Reshape, sizes of Split, pads, indices."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.values import attribute, constant, opset
from workers.pruning.surgery.lengths import restore_shape, restore_size
from workers.pruning.surgery.plan import Plan, numbers, replaced
from workers.pruning.types import AnyArray

Rewrite = Callable[["Surgeon", ir.Node], None]


class Surgeon:
    """A graph under the knife, and what is to stay of it."""

    def __init__(self, graph: ir.Model, plan: Plan) -> None:
        self.graph = graph
        self.plan = plan

    def put(self, node: ir.Node, index: int, array: AnyArray) -> None:
        """Give a node a constant of its own at an input; the name stays where nobody else reads the old one."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
            replaced(old, array)
            return
        value = self.initializer(f"{node.name}_kept_{index}", array)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)

    def initializer(self, wanted: str, array: AnyArray) -> ir.Value:
        """Register a new initializer."""
        name = wanted
        while name in self.graph.graph.initializers:
            name += "_"
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.graph.register_initializer(value)
        return value

    def replace_entry(self, node: ir.Node, index: int, entry: int, length: int) -> None:
        """Set one entry of a computed list of lengths at run time."""
        value = node.inputs[index]
        num_axes = len(node.outputs[0].shape or ())
        producer = None if value is None else value.producer()
        name = f"{node.name}_lengths"
        name += "_again" if producer is not None and producer.name == name else ""
        here = np.zeros(num_axes, np.bool_)
        here[entry] = True
        choose = ir.node(
            "Where",
            inputs=[
                self.initializer(f"{node.name}_axis", here),
                self.initializer(f"{node.name}_length", np.full(num_axes, length, np.int64)),
                value,
            ],
            name=name,
            outputs=[ir.Value(name=name, shape=ir.Shape([num_axes]), type=ir.TensorType(ir.DataType.INT64))],
        )
        self.graph.graph.insert_before(node, choose)
        node.replace_input_with(index, choose.outputs[0])


def rewrite_constants(surgeon: Surgeon) -> None:
    """Bring all constants and attributes that count channels in line with what stays, in place."""
    for node in list(surgeon.graph.graph):
        rewrite = REWRITES.get(node.op_type)
        if rewrite is not None and not node.domain:
            rewrite(surgeon, node)


def _listed(node: ir.Node, index: int, name: str) -> list[int] | None:
    array = constant(node.inputs[index]) if index < len(node.inputs) else None
    found = attribute(node, name) if array is None else np.asarray(array).reshape(-1).tolist()
    return None if found is None else [int(entry) for entry in found]  # type: ignore[attr-defined]


def _set_listed(surgeon: Surgeon, node: ir.Node, index: int, name: str, entries: Sequence[int]) -> None:
    if name in node.attributes:
        node.attributes[name] = ir.AttrInt64s(name, list(entries))
    else:
        old = constant(node.inputs[index]) if index < len(node.inputs) else None
        surgeon.put(node, index, np.asarray(entries, np.int64 if old is None else old.dtype))


def _reshape(surgeon: Surgeon, node: ir.Node) -> None:
    kept = surgeon.plan.value(node.outputs[0])
    if kept is None:
        return
    target = _listed(node, 1, "shape")
    if target is None:
        surgeon.replace_entry(node, 1, kept.axis, kept.count)
        return
    read = surgeon.plan.value(node.inputs[0])
    full = node.outputs[0].shape
    for axis, entry in enumerate(target):
        if axis == kept.axis:
            target[axis] = entry if entry == -1 else kept.count
        elif entry == 0 and read is not None and read.axis == axis and full is not None:
            target[axis] = int(full[axis])  # type: ignore[arg-type]
    _set_listed(surgeon, node, 1, "shape", target)


def _expand(surgeon: Surgeon, node: ir.Node) -> None:
    kept = surgeon.plan.value(node.outputs[0])
    if kept is None:
        return
    target = _listed(node, 1, "shape")
    if target is None:
        surgeon.replace_entry(node, 1, kept.axis, kept.count)
        return
    entry = kept.axis - (len(kept_shape(node)) - len(target))
    if entry >= 0 and target[entry] != 1:
        target[entry] = kept.count
        _set_listed(surgeon, node, 1, "shape", target)


def kept_shape(node: ir.Node) -> tuple[object, ...]:
    """Shape of the first output before the cut."""
    shape = node.outputs[0].shape
    return () if shape is None else tuple(shape)


def _split(surgeon: Surgeon, node: ir.Node) -> None:
    read = surgeon.plan.value(node.inputs[0])
    if read is None or read.axis != _axis(node, 0, len(node.inputs[0].shape or ())):  # type: ignore[union-attr]
        return
    sizes, start = [], 0
    for output in node.outputs:
        length = int((output.shape or ())[read.axis])  # type: ignore[arg-type]
        sizes.append(int(read.mask[start : start + length].sum()))
        start += length
    node.attributes.pop("num_outputs", None)
    if opset(surgeon.graph) < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
    else:
        surgeon.put(node, 1, np.asarray(sizes, np.int64))


def _axis(node: ir.Node, default: int, num_axes: int) -> int:
    return int(attribute(node, "axis", default)) % max(num_axes, 1)  # type: ignore[call-overload, no-any-return]


def _slice(surgeon: Surgeon, node: ir.Node) -> None:
    read = surgeon.plan.value(node.inputs[0])
    starts, ends = _listed(node, 1, "starts"), _listed(node, 2, "ends")
    if read is None or starts is None or ends is None:
        return
    axes = _listed(node, 3, "axes") or list(range(len(starts)))
    num_axes = len(node.inputs[0].shape or ())  # type: ignore[union-attr]
    for entry, axis in enumerate(axes):
        if axis % num_axes == read.axis:
            start, end, _ = slice(starts[entry], ends[entry]).indices(len(read.mask))
            starts[entry] = int(read.mask[:start].sum())
            ends[entry] = int(read.mask[:end].sum())
    _set_listed(surgeon, node, 1, "starts", starts)
    _set_listed(surgeon, node, 2, "ends", ends)


def _gather(surgeon: Surgeon, node: ir.Node) -> None:
    read, kept = surgeon.plan.value(node.inputs[0]), surgeon.plan.value(node.outputs[0])
    indices = constant(node.inputs[1])
    axis = _axis(node, 0, len(node.inputs[0].shape or ()))  # type: ignore[union-attr]
    if indices is not None and kept is not None and kept.axis == axis and _is_single(node, axis):
        surgeon.put(node, 1, indices[kept.mask])
    if read is None or indices is None or read.axis != axis:
        return
    positions = np.asarray(indices, np.int64) % len(read.mask)
    moved = np.cumsum(read.mask) - 1
    surgeon.put(node, 1, moved[positions[read.mask[positions]]].astype(indices.dtype))


def _tile(surgeon: Surgeon, node: ir.Node) -> None:
    """Fewer copies of a single position; what goes from several goes from every copy by itself."""
    kept = surgeon.plan.value(node.outputs[0])
    repeats = _listed(node, 1, "repeats")
    if kept is not None and repeats is not None and _is_single(node, kept.axis):
        repeats[kept.axis] = kept.count
        _set_listed(surgeon, node, 1, "repeats", repeats)


def _is_single(node: ir.Node, axis: int) -> bool:
    """Whether an axis of the input has one position, of which the output holds copies."""
    source = node.inputs[0]
    return source is not None and source.shape is not None and source.shape[axis] == 1


def _concat(surgeon: Surgeon, node: ir.Node) -> None:
    """Leave out parts that are one position which goes: copies of a head that serves several."""
    kept = surgeon.plan.value(node.outputs[0])
    if kept is None or kept.axis != _axis(node, 1, len(kept_shape(node))):
        return
    start, stay = 0, []
    for value in node.inputs:
        length = int((value.shape or ())[kept.axis])  # type: ignore[union-attr,arg-type]
        stay += [value] if length > 1 or kept.mask[start] else []
        start += length
    for index, value in enumerate(stay):
        node.replace_input_with(index, value)
    node.resize_inputs(len(stay))


def _pad(surgeon: Surgeon, node: ir.Node) -> None:
    kept = surgeon.plan.value(node.outputs[0])
    pads = _listed(node, 1, "pads")
    if kept is None or pads is None:
        return
    num_axes = len(kept_shape(node))
    axes = _listed(node, 3, "axes") or list(range(num_axes))
    for entry, axis in enumerate(axes):
        if axis % num_axes == kept.axis:
            before, after = pads[entry], pads[entry + len(axes)]
            pads[entry] = int(kept.mask[:before].sum())
            pads[entry + len(axes)] = int(kept.mask[len(kept.mask) - after :].sum())
    _set_listed(surgeon, node, 1, "pads", pads)


def _resize(surgeon: Surgeon, node: ir.Node) -> None:
    kept = surgeon.plan.value(node.outputs[0])
    if kept is None or len(node.inputs) < 4 or node.inputs[3] is None:
        return
    sizes = _listed(node, 3, "sizes")
    axes = attribute(node, "axes")
    if sizes is None:
        if axes is None:
            surgeon.replace_entry(node, 3, kept.axis, kept.count)
        return
    num_axes = len(kept_shape(node))
    listed = list(range(num_axes)) if axes is None else [int(axis) % num_axes for axis in axes]  # type: ignore[attr-defined]
    if kept.axis in listed:
        sizes[listed.index(kept.axis)] = kept.count
        _set_listed(surgeon, node, 3, "sizes", sizes)


def _groups(surgeon: Surgeon, node: ir.Node) -> None:
    """Groups of a convolution: channels that stay over channels per group, which is a length of its filter."""
    groups = int(attribute(node, "group", 1))  # type: ignore[call-overload]
    weight = node.inputs[1]
    if groups == 1 or weight is None:
        return
    transposed = node.op_type == "ConvTranspose"
    kept = surgeon.plan.value(node.outputs[0] if transposed else node.inputs[0])
    if kept is None:
        return
    masks = surgeon.plan.weights.get(weight.name or "", {})
    per_group = int(masks[1].sum()) if 1 in masks else numbers(weight).shape[1]
    node.attributes["group"] = ir.AttrInt64("group", kept.count // per_group)


def _norm_groups(surgeon: Surgeon, node: ir.Node) -> None:
    """Groups of channels that stay."""
    kept = surgeon.plan.value(node.inputs[0])
    if kept is not None:
        groups = int(attribute(node, "num_groups", 1))  # type: ignore[call-overload]
        left = max(1, groups * kept.count // len(kept.mask))  # a single group stays one, of fewer channels
        node.attributes["num_groups"] = ir.AttrInt64("num_groups", left)


REWRITES: Final[dict[str, Rewrite]] = {
    "Concat": _concat,
    "Conv": _groups,
    "ConvTranspose": _groups,
    "Expand": _expand,
    "Gather": _gather,
    "GroupNormalization": _norm_groups,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": restore_shape,
    "Size": restore_size,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
}
