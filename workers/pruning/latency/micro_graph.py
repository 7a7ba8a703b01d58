"""The graph of one row: an operator by itself, several times over, small as a file whatever its weights are."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.values import initializer
from workers.pruning.latency.rows import PRODUCTS, Operand, Row, Shape

OPSET: Final = 17
_AXES_AS_INPUT: Final = 18
_FIRST: Final = {"Gelu": 20, "Mish": 18}  # versions that brought an operator
_IR_VERSION: Final = 9
_WEIGHT: Final = 0.01


def micro_graph(row: Row) -> bytes:
    """Write a network that consists of the row's operator.

    Convolutions of a row read the same input and are added up, so that they pay once for bringing the input into the
    layout of the runtime and once for bringing the result back, and each is computed with a sum, as in a residual
    network. Other operators each have inputs and an output of their own. Weights are not in the file: the runtime
    makes them when it loads it, every copy from another number, since equal nodes would be computed once.
    """
    builder = _Builder(row)
    results = [builder.copy(number) for number in range(row.copies)]
    outputs = [builder.total(results)] if row.operator in _SUMMED else results
    graph = ir.Graph(
        builder.inputs,
        outputs,
        nodes=builder.nodes,
        initializers=builder.initializers,
        opset_imports={"": _opset(row)},
        name="row",
    )
    return to_bytes(ir.Model(graph, ir_version=_IR_VERSION))


def _opset(row: Row) -> int:
    """The operators of a row as the network that it comes from writes them, in no newer a version than it takes."""
    if row.operator == "ReduceMean" and len(row.operands) > 1:
        return _AXES_AS_INPUT
    return _FIRST.get(row.operator, OPSET)


_SUMMED: Final = frozenset({"Conv", "ConvTranspose"})


class _Builder:
    """Nodes and values of one micro-graph."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._dtype = ir.DataType.from_numpy(np.dtype(row.dtype))
        self._shared: dict[int, ir.Value] = {}

    def copy(self, number: int) -> ir.Value:
        """Add the operator once more; gives its result."""
        row = self.row
        operands = [self._operand(index, operand, number) for index, operand in enumerate(row.operands)]
        if row.operator in PRODUCTS - {"MatMul"}:
            operands.append(self._weight(f"bias{number}", (_outputs(row),), number))
        result = self._node(row.operator, operands, f"result{number}", _attributes(row))
        for name in row.fused:
            if name == "Add":
                result = self._node("Add", [result, self._residual()], f"sum{number}")
            else:
                result = self._node(name, [result], f"{name.lower()}{number}")
        return result

    def total(self, results: Sequence[ir.Value]) -> ir.Value:
        """Add results up."""
        whole = results[0]
        for number, result in enumerate(results[1:], start=1):
            whole = self._node("Add", [result, whole], f"total{number}")
        return whole

    def _operand(self, index: int, operand: Operand, number: int) -> ir.Value | None:
        if operand.kind == "absent":
            return None
        if operand.kind == "weight":
            return self._weight(f"weight{index}_{number}", operand.shape, number)
        if operand.kind == "value":
            value = initializer(f"value{index}_{number}", _constant(operand.text))
            self.initializers.append(value)
            return value
        if self.row.operator in _SUMMED:
            if index not in self._shared:
                self._shared[index] = self._input(f"x{index}", operand.shape)
            return self._shared[index]
        return self._input(f"x{index}_{number}", operand.shape)

    def _residual(self) -> ir.Value:
        if -1 not in self._shared:
            self._shared[-1] = self._input("residual", self.row.output)
        return self._shared[-1]

    def _input(self, name: str, shape: Shape) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(self._dtype))
        self.inputs.append(value)
        return value

    def _weight(self, name: str, shape: Shape, number: int) -> ir.Value:
        lengths = initializer(f"{name}_shape", np.asarray(shape, np.int64))
        self.initializers.append(lengths)
        filled = np.full(1, _WEIGHT * (number + 1), np.dtype(self.row.dtype))
        node = ir.node("ConstantOfShape", [lengths], attributes={"value": ir.tensor(filled)}, name=f"{name}_node")
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def _node(
        self, operator: str, inputs: Sequence[ir.Value | None], name: str, attributes: dict[str, object] | None = None
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes=attributes or {}, name=f"{name}_node")  # type: ignore[arg-type]
        result = node.outputs[0]
        result.name, result.shape, result.type = name, ir.Shape(self.row.output), ir.TensorType(self._dtype)
        self.nodes.append(node)
        return result


def _outputs(row: Row) -> int:
    return row.output[-1] if row.operator == "Gemm" else row.output[1]


def _constant(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    dtype, _, numbers = text.partition(":")
    scalar = numbers.startswith("scalar:")
    array = np.asarray([float(part) for part in numbers.removeprefix("scalar:").split(",") if part], np.float64)
    return (array.reshape(()) if scalar else array).astype(np.dtype(dtype))


def _attributes(row: Row) -> dict[str, object]:
    found: dict[str, object] = {name: _value(name, text) for name, text in row.attributes}
    if row.operator in _SUMMED and row.groups > 1:
        found["group"] = row.groups
    return found


_LISTS: Final = frozenset(
    {"pads", "strides", "dilations", "kernel_shape", "axes", "perm", "output_padding", "output_shape"}
)


_FRACTIONS: Final = frozenset({"alpha", "beta", "gamma", "bias"})


def _value(name: str, text: str) -> object:
    if name in _LISTS:
        return [int(part) for part in text.split(",")]
    if name in _FRACTIONS:
        return float(text)
    return int(text) if text.lstrip("-").isdecimal() else text
