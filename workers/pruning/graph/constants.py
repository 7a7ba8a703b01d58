"""Fold what does not depend on the data: Constant nodes, exporter chains, shape arithmetic around a symbolic batch.

Every integer value that comes from Shape is followed as an array whose entries are integers or names of symbolic axes.
What is wholly known becomes an initializer; a Reshape target with one symbolic entry becomes a constant with 0 or -1.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import GraphTooLarge
from workers.pruning.graph.arithmetic import EVALUATORS, MOVEMENT, Array, known, output_elements
from workers.pruning.graph.caps import Caps
from workers.pruning.graph.tables import is_turned_table
from workers.pruning.graph.values import attribute, constant, initializer, integer

STORED_AS: Final = "stored_as"  # of an initializer that a file holds in half precision behind a Cast: that type
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SINGLE = ir.DataType.FLOAT
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_SYMBOLIC_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_SYMBOLIC_CHOICE = frozenset({*MOVEMENT, "Where"})
_ANONYMOUS = frozenset({"", "?", "-1", "None"})  # names that exporters give to several unequal axes
UNKNOWN_NAME = "unk__"  # begins the names that onnx gives to lengths it does not know
_SMALL = 4096  # entries of a symbolic array that are followed


def fold_constants(graph: ir.Model, caps: Caps) -> bool:
    """Replace in place every node whose outputs are known by initializers; tell whether anything changed.

    Requires: nodes in topological order, unique names; shapes inferred as far as they can be.
    Ensures: the graph computes the same outputs; no node with only constant inputs is left among the operators that
    arithmetic.py knows, but for those that give a graph output, and tables that are turned for the last layer.

    Raises:
        GraphTooLarge: a folded constant, or all of them together, would exceed the caps; nothing is allocated for it.
    """
    folder = _Folder(graph, caps)
    for node in list(graph.graph):
        folder.visit(node)
    return folder.changed


class _Folder:
    """State of one pass: symbolic values seen, elements allocated."""

    def __init__(self, graph: ir.Model, caps: Caps) -> None:
        self.graph = graph.graph
        self.caps = caps
        self.symbolic: dict[ir.Value, Array] = {}
        self.allocated = 0
        self.changed = False

    def visit(self, node: ir.Node) -> None:
        if node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1 or is_turned_table(node):
            return
        if node.op_type == "Reshape":
            self._settle_reshape(node)
        elif node.op_type == "Expand":
            self._settle_expand(node)
        elif node.op_type == "Tile":
            self._settle_tile(node)
        result = self._evaluate(node)
        if result is None:
            return
        if known(result) and not node.outputs[0].is_graph_output():
            self._replace(node, result)
        elif not known(result):
            self.symbolic[node.outputs[0]] = result

    def _evaluate(self, node: ir.Node) -> Array | None:
        if node.op_type == "Constant":
            return _constant_value(node)
        if node.op_type == "Shape":
            return _shape(node)
        if node.op_type == "Size":
            return _size(node)
        return self._evaluate_inputs(node, [self._known_input(value) for value in node.inputs])

    def _evaluate_inputs(self, node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
        if node.op_type == "CastLike" and inputs[0] is not None and node.inputs[1] is not None:
            return _cast_like(inputs[0], node.inputs[1])
        missing = any(array is None and value is not None for array, value in zip(inputs, node.inputs, strict=True))
        if missing or node.op_type not in EVALUATORS or not inputs:
            return None
        if any(array is not None and not known(array) for array in inputs):
            return self._evaluate_symbolic(node, inputs)
        return self._evaluate_known(node, inputs)

    def _known_input(self, value: ir.Value | None) -> Array | None:
        if value is None:
            return None
        return self.symbolic.get(value, constant(value))

    def _evaluate_known(self, node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
        try:
            elements = output_elements(node, inputs)
            self._check(node, elements)
            with np.errstate(all="ignore"):
                return EVALUATORS[node.op_type](node, inputs)
        except (ValueError, TypeError, IndexError):
            return None  # left to the runtime, which says what is wrong with it

    def _evaluate_symbolic(self, node: ir.Node, inputs: Sequence[Array | None]) -> Array | None:
        if any(array is not None and array.size > _SMALL for array in inputs):
            return None
        try:
            if node.op_type in _SYMBOLIC_ARITHMETIC:
                result = _arithmetic(node, inputs)
            elif node.op_type == "Equal":
                return _equal(inputs)
            elif node.op_type in _SYMBOLIC_CHOICE:
                result = EVALUATORS[node.op_type](node, inputs)
            else:
                return None
        except (ValueError, TypeError, IndexError):
            return None
        return result.astype(np.int64) if known(result) else result

    def _check(self, node: ir.Node, elements: int) -> None:
        if elements > self.caps.tensor_elements or self.allocated + elements > self.caps.made_elements:
            raise GraphTooLarge(
                "A constant of the graph is too large",
                where=f"node {node.name!r} ({node.op_type})",
                actual=f"{elements:,} elements",
                allowed=f"{self.caps.tensor_elements:,}",
            )
        self.allocated += elements

    def _replace(self, node: ir.Node, array: Array) -> None:
        output = node.outputs[0]
        value = initializer(output.name or "", _as_declared(array, output))
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is not None and source.is_initializer() and source.dtype in _HALVES and output.dtype == _SINGLE:
            value.metadata_props[STORED_AS] = source.dtype.name
        output.replace_all_uses_with(value)
        self.graph.remove(node, safe=True)
        self.graph.register_initializer(value)
        self.changed = True

    def _settle_reshape(self, node: ir.Node) -> None:
        """Write a target of integers and one symbolic axis as a constant: 0 copies the axis, -1 computes it."""
        if len(node.inputs) < 2 or node.inputs[1] is None or node.inputs[0] is None:
            return
        target = self.symbolic.get(node.inputs[1])
        if target is None or target.ndim != 1 or (integer(node, "allowzero", 0) and 0 in target.tolist()):
            return
        settled = _settled(target, node.inputs[0].shape)
        if settled is None:
            return
        self._set_target(node, settled)
        node.attributes.pop("allowzero", None)

    def _set_target(self, node: ir.Node, entries: Sequence[int]) -> None:
        name = f"{node.name}_shape"
        while name in self.graph.initializers:
            name += "_"
        value = initializer(name, np.asarray(entries, np.int64))
        self.graph.register_initializer(value)
        node.replace_input_with(1, value)
        self.changed = True

    def _settle_expand(self, node: ir.Node) -> None:
        """Write down the shape that a target with symbolic axes gives, which onnx does not infer.

        Where these axes are those of the source, the target is a constant with 1 there, which leaves them as they are.
        """
        source, target = node.inputs[0], self.symbolic.get(node.inputs[1]) if node.inputs[1] is not None else None
        if source is None or source.shape is None or target is None:
            return
        self._learn(node.outputs[0], _broadcast(list(source.shape), target.tolist()))
        names = [None] * (len(target) - len(source.shape)) + [_axis_name(length) for length in source.shape]
        if len(names) == len(target):
            pairs = zip(target.tolist(), names, strict=True)
            settled = [1 if entry is not None and entry == name else entry for entry, name in pairs]
            if all(isinstance(entry, (int, np.integer)) for entry in settled):
                self._set_target(node, [int(entry) for entry in settled])

    def _settle_tile(self, node: ir.Node) -> None:
        """Write down that axes which are not repeated keep their length, symbolic ones too; onnx does not infer it."""
        source, repeats = node.inputs[0], constant(node.inputs[1])
        if source is None or source.shape is None or repeats is None or repeats.shape != (len(source.shape),):
            return
        axes = zip(source.shape, repeats.tolist(), strict=True)
        self._learn(node.outputs[0], [_repeated(length, count) for length, count in axes])

    def _learn(self, output: ir.Value, lengths: Sequence[int | str | None] | None) -> None:
        """Set a shape that says more than the one that is there."""
        if lengths is not None and _knowledge(lengths) > _knowledge(output.shape or ()):
            output.shape = ir.Shape(lengths)
            self.changed = True


def _repeated(length: int | ir.SymbolicDim, count: int) -> int | str | None:
    if isinstance(length, int):
        return length * count
    return _axis_name(length) if count == 1 else None


def _broadcast(source: Sequence[object], target: Sequence[object]) -> list[int | str | None] | None:
    """Lengths after an Expand; an axis is unknown where the source may be longer than 1 there and differ."""
    if len(source) > len(target):
        return None
    padded = [1] * (len(target) - len(source)) + [n if isinstance(n, int) else _axis_name(n) for n in source]
    return [_longer(old, new) for old, new in zip(padded, target, strict=True)]


def _longer(old: int | str | None, new: object) -> int | str | None:
    if isinstance(new, (int, np.integer)):
        return old if new == 1 else int(new)
    if isinstance(old, int) and old != 1:
        return old
    return new if isinstance(new, str) and old in {1, new} else None


def _knowledge(lengths: Iterable[int | str | ir.SymbolicDim | None]) -> int:
    """Count axes that are known, twice where a number is."""
    names = [length.value if isinstance(length, ir.SymbolicDim) else length for length in lengths]
    return sum(2 if isinstance(n, int) else n is not None and not n.startswith(UNKNOWN_NAME) for n in names)


def _equal(inputs: Sequence[Array | None]) -> Array | None:
    """Compare symbolic axes, which are no shorter than 0, with negative numbers; None where nothing can be said."""
    left, right = np.broadcast_arrays(*(array for array in inputs if array is not None))
    result = np.zeros(left.shape, np.bool_)
    for index in np.ndindex(left.shape):
        numbers = [int(entry) for entry in (left[index], right[index]) if isinstance(entry, (int, np.integer))]
        names = [entry for entry in (left[index], right[index]) if isinstance(entry, str)]
        if len(numbers) == 2:
            result[index] = numbers[0] == numbers[1]
        elif not (names and numbers and numbers[0] < 0):
            return None
    return result


def _settled(target: Array, source: ir.Shape | None) -> list[int] | None:
    entries: list[int] = []
    target = _rest_worked_out(target, source)
    for axis, entry in enumerate(target):
        if isinstance(entry, (int, np.integer)):
            entries.append(int(entry))
        elif entry is not None and source is not None and axis < len(source) and _axis_name(source[axis]) == entry:
            entries.append(0)
        elif -1 not in entries and -1 not in target.tolist():
            entries.append(-1)
        else:
            return None
    return entries


def _rest_worked_out(target: Array, source: ir.Shape | None) -> Array:
    """Put the number in place of a -1 where all symbolic axes of the source are in the target again."""
    wanted: list[int | str | None] = target.tolist()
    lengths = [] if source is None else [n if isinstance(n, int) else _axis_name(n) for n in source]
    named = [sorted(entry for entry in side if isinstance(entry, str)) for side in (wanted, lengths)]
    if None in [*wanted, *lengths] or wanted.count(-1) != 1 or named[0] != named[1]:
        return target
    whole, part = (prod(n for n in side if isinstance(n, int)) for side in (lengths, wanted))
    return target if part == 0 or whole % part else np.where(target == -1, whole // -part, target)


def _axis_name(length: object) -> str | None:
    if not isinstance(length, ir.SymbolicDim) or length.value in _ANONYMOUS:
        return None
    return length.value


def _arithmetic(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    """Calculate entry by entry; what depends on a symbolic axis is unknown (None)."""
    left, right = np.broadcast_arrays(*(array for array in inputs if array is not None))
    result = np.empty(left.shape, object)
    for index in np.ndindex(left.shape):
        pair = left[index], right[index]
        if all(isinstance(entry, (int, np.integer)) for entry in pair):
            result[index] = int(EVALUATORS[node.op_type](node, [np.asarray(entry, np.int64) for entry in pair]))
    return result


def _constant_value(node: ir.Node) -> Array | None:
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_floats", np.float32)):
        if name in node.attributes:
            return np.asarray(attribute(node, name), dtype)
    for name in ("value_int", "value_ints"):
        if name in node.attributes:
            return np.asarray(attribute(node, name), np.int64)
    return None  # strings and sparse tensors stay


def _shape(node: ir.Node) -> Array | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    lengths: list[object] = [length if isinstance(length, int) else _axis_name(length) for length in source.shape]
    part = lengths[integer(node, "start", 0) : integer(node, "end", len(lengths))]
    if all(isinstance(length, int) for length in part):
        return np.asarray(part, np.int64)
    return np.asarray(part, object)


def _size(node: ir.Node) -> Array | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    lengths = [length for length in source.shape if isinstance(length, int)]
    return np.asarray(np.prod(lengths, dtype=np.int64)) if len(lengths) == len(source.shape) else None


def _cast_like(data: Array, like: ir.Value) -> Array | None:
    return data.astype(like.dtype.numpy()) if like.dtype is not None and known(data) else None


def _as_declared(array: Array, output: ir.Value) -> Array:
    """The array in the type that the graph declares: symbolic entries were followed as int64."""
    if output.dtype in _INTEGERS and output.dtype is not None:
        return np.asarray(array, output.dtype.numpy(), order="C")
    return np.asarray(array, order="C")
