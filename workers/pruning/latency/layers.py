"""Which rows of a latency table a network consists of, at any kept widths, without cutting it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.values import attribute, constant, is_float
from workers.pruning.latency.rows import PRODUCTS, Operand, Row, convolution_kind, fitting_copies
from workers.pruning.types import Length

Axis = tuple[tuple[Length, ...], ...]  # a sum of products of lengths
Axes = tuple[Axis, ...]
AxesOf = Callable[[ir.Value | None], Axes]

# What only renames a tensor or decides how it is read: no kernel worth timing.
_FREE: Final = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "Shape", "Cast", "CastLike"}
)
# Timed as they are, at the shapes of the widths.
_TIMED: Final = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul",
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Neg", "Abs", "Max", "Min", "Sum",
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus",
    "Erf", "Gelu", "Mish", "Softmax", "LogSoftmax", "Concat", "Transpose",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "LRN",
    "BatchNormalization", "LayerNormalization", "InstanceNormalization",
})  # fmt: skip
_FUSED_ACTIVATIONS: Final = frozenset({"Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid"})
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_IMPLIED: Final = frozenset({"kernel_shape", "group", "storage_order", "epsilon", "momentum", "training_mode"})
_ONE: Final[Axis] = ((Length(fixed=1),),)
_SMALL: Final = 8  # elements of a constant that is told by its values
_PRECISION: Final = 3  # significant bits of the size of what is only moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """An operand whose lengths depend on the widths."""

    kind: str
    axes: Axes = ()
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An operator of the network with what is fused into it, as a function of kept widths."""

    node: str
    operator: str
    fused: tuple[str, ...]
    dtype: str
    operands: tuple[Open, ...]
    output: Axes
    attributes: tuple[tuple[str, str], ...]
    kind: str  # the class of operators that shares a correction

    @property
    def groups(self) -> tuple[int, ...]:
        """Indices of the groups whose widths the row depends on."""
        axes = [*self.output, *(axis for operand in self.operands for axis in operand.axes)]
        return tuple(sorted({group for axis in axes for group in _groups(axis)}))

    @property
    def written(self) -> frozenset[int]:
        """Indices of the groups that lie on what the operator writes."""
        return frozenset(group for axis in self.output for group in _groups(axis))

    def channels_per_unit(self) -> dict[int, int]:
        """How many positions of an axis one unit of each group holds, where it holds fewest."""
        axes = [*self.output, *(axis for operand in self.operands for axis in operand.axes)]
        found: dict[int, int] = {}
        for group, positions in (part for axis in axes for summand in axis for one in summand for part in one.parts):
            found[group] = min(positions, found.get(group, positions))
        return found

    def row(self, kept: Sequence[int]) -> Row:
        """The row of the table at these widths."""
        operands = tuple(
            Operand(kind=open_.kind, shape=_at(open_.axes, kept), text=open_.text) for open_ in self.operands
        )
        row = Row(
            operator=self.operator,
            fused=self.fused,
            dtype=self.dtype,
            operands=operands,
            output=_at(self.output, kept),
            attributes=self.attributes,
        )
        if self.operator == "Move":
            return _moved(row)
        return replace(row, copies=fitting_copies(self.operator, row.macs, row.num_weights))


def find(graph: ir.Model, axes: AxesOf, *, batch: int = 1) -> tuple[Layer, ...]:
    """List what a runtime computes, in order, as ONNX Runtime fuses it.

    Source: optimiser of ONNX Runtime 1.31: BatchNormalization and constant factors and terms behind a convolution fold
    into its weights; one activation behind a convolution or Gemm is computed by its kernel, and so is the sum of a
    convolution with a tensor of the same shape. Reshapes are free. What is neither a product nor pointwise nor a pool
    (Slice, Gather, Resize, recurrent layers) counts as copying what it reads and writes, which for some is too little;
    measuring the whole network corrects that.

    Args:
        graph: the network.
        axes: axes of a value at batch 1 as functions of kept widths, as groups.lengths gives them.
        batch: samples of a run; what is computed with a first axis of 1 has this many.
    """
    absorbed: set[str] = set()
    layers = []
    order = {node: number for number, node in enumerate(graph.graph)}
    for node in graph.graph:
        if (node.name or "") in absorbed or node.domain or node.op_type in _FREE or not _computes(node):
            continue
        fused, last = _fused(node, absorbed, axes, order)
        layers.append(_layer(node, fused, last, _batched(axes, batch)))
    return tuple(layers)


def _computes(node: ir.Node) -> bool:
    """Whether floats come out: arithmetic on shapes takes no time, and masks little."""
    return bool(node.outputs) and is_float(node.outputs[0]) and any(constant(value) is None for value in node.inputs)


def _fused(
    node: ir.Node, absorbed: set[str], axes: AxesOf, order: Mapping[ir.Node, int]
) -> tuple[tuple[str, ...], ir.Node]:
    """What the kernel of `node` computes besides, and the node whose output it writes; those nodes are absorbed."""
    fused: list[str] = []
    last = node
    if node.op_type not in _CONVOLUTIONS | {"Gemm", "MatMul"}:
        return (), last
    while (user := _only_user(last)) is not None and (user.name or "") not in absorbed:
        if _folds(node, user) and not fused:
            pass
        elif node.op_type == "Conv" and "Add" not in fused and _adds(last, user, axes, order):
            fused.append("Add")
        elif user.op_type in _FUSED_ACTIVATIONS and node.op_type != "MatMul":
            fused.append("Relu" if user.op_type == "Clip" else user.op_type)
            absorbed.add(user.name or "")
            return tuple(fused), user
        else:
            break
        absorbed.add(user.name or "")
        last = user
    return tuple(fused), last


def _only_user(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    users = {use.node for use in value.uses()}
    return users.pop() if len(users) == 1 and not value.is_graph_output() else None


def _folds(node: ir.Node, user: ir.Node) -> bool:
    """Whether the operator only changes the weights of the product before it."""
    if user.op_type == "BatchNormalization":
        return node.op_type in _CONVOLUTIONS
    stored = sum(constant(value) is not None for value in user.inputs)
    return stored == 1 and user.op_type in ({"Mul", "Add"} if node.op_type in _CONVOLUTIONS else {"Add"})


def _adds(last: ir.Node, user: ir.Node, axes: AxesOf, order: Mapping[ir.Node, int]) -> bool:
    """Whether a sum with something of the same shape that is there already."""
    if user.op_type != "Add" or len(user.inputs) != 2 or any(constant(value) is not None for value in user.inputs):
        return False
    other = next((value for value in user.inputs if value is not last.outputs[0]), None)
    if other is None or axes(other) != axes(last.outputs[0]):
        return False
    producer = other.producer()
    return producer is None or order[producer] < order[last]


def _batched(axes: AxesOf, batch: int) -> AxesOf:
    """The same axes for so many samples."""

    def of(value: ir.Value | None) -> Axes:
        found = axes(value)
        if value is None or constant(value) is not None or found[:1] != (_ONE,):
            return found
        return (((Length(fixed=batch),),), *found[1:])

    return of


def _layer(node: ir.Node, fused: tuple[str, ...], last: ir.Node, axes: AxesOf) -> Layer:
    operands = [_operand(value, axes) for value in _operands(node)]
    readable = all(operand is not None for operand in operands)
    dtype = node.outputs[0].dtype
    operator = node.op_type if node.op_type in _TIMED and readable else "Move"
    return Layer(
        node=node.name or "",
        operator=operator,
        kind=_kind(node) if operator != "Move" else "other",
        fused=fused,
        dtype="float32" if dtype is None else dtype.numpy().name,
        operands=tuple(operand or Open(kind="absent") for operand in operands),
        output=axes(node.outputs[0] if node is last else last.outputs[0]),
        attributes=_attributes(node),
    )


def _kind(node: ir.Node) -> str:
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type in _CONVOLUTIONS and weight is not None and weight.shape is not None:
        taps = prod(length for length in list(weight.shape)[2:] if isinstance(length, int))
        return convolution_kind(grouped=attribute(node, "group", 1) != 1, taps=taps)
    return "product" if node.op_type in PRODUCTS else "other"


def _operands(node: ir.Node) -> Sequence[ir.Value | None]:
    """What determines the time: biases go with the weights."""
    return node.inputs[:2] if node.op_type in _CONVOLUTIONS | {"Gemm", "MatMul"} else node.inputs


def _operand(value: ir.Value | None, axes: AxesOf) -> Open | None:
    """An operand, or None for a constant that means something else at other widths."""
    if value is None:
        return Open(kind="absent")
    held = constant(value)
    lengths = axes(value)
    if held is None:
        return Open(kind="data", axes=lengths)
    fixed = not any(_groups(axis) for axis in lengths)
    if fixed and held.size <= _SMALL:
        numbers = ",".join(f"{number:.6g}" for number in np.asarray(held, np.float64).reshape(-1))
        rank = "" if held.ndim else "scalar:"
        return Open(kind="value", text=f"{held.dtype.name}:{rank}{numbers}")
    return Open(kind="weight", axes=lengths) if is_float(value) else None


def _attributes(node: ir.Node) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text) for name, text in _told(node)))


def _told(node: ir.Node) -> Iterator[tuple[str, str]]:
    for name in node.attributes:
        value = attribute(node, name)
        numbers = value if isinstance(value, list) else [value]
        if name in _IMPLIED and not (name == "kernel_shape" and node.op_type not in _CONVOLUTIONS):
            continue
        if name in {"strides", "dilations"} and set(numbers) == {1}:
            continue
        if name in {"pads", "output_padding"} and set(numbers) == {0}:
            continue
        if all(isinstance(number, int | float) for number in numbers):
            yield name, ",".join(f"{number:.6g}" for number in numbers)
        elif isinstance(value, str) and value != "NOTSET":
            yield name, value


def _groups(axis: Axis) -> set[int]:
    return {group for summand in axis for length in summand for group, _ in length.parts}


def _at(axes: Axes, kept: Sequence[int]) -> tuple[int, ...]:
    return tuple(sum(prod(_length(each, kept) for each in summand) for summand in axis) for axis in axes)


def _length(length: Length, kept: Sequence[int]) -> int:
    return length.fixed + sum(positions * kept[group] for group, positions in length.parts)


def _moved(row: Row) -> Row:
    """Copying as much as the operator reads and writes, in sizes of three significant bits."""
    elements = max(row.num_written, sum(prod(o.shape) for o in row.operands if o.kind == "data"), 2)
    unit = max(2, 1 << max(0, elements.bit_length() - _PRECISION))
    half = -(-elements // unit) * unit // 2
    part = Operand(kind="data", shape=(1, half))
    return Row(
        operator="Concat",
        dtype=row.dtype,
        operands=(part, part),
        output=(1, 2 * half),
        attributes=(("axis", "1"),),
        copies=fitting_copies("Concat", 0, 0),
    )
