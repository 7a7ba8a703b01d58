"""ONNX operators as numpy functions, for the constant parts of a graph: shape arithmetic and exporter chains.

Each function takes the node and the input arrays (None for an omitted input) and gives the output array. Data movement
also runs on object arrays, whose entries are integers or names of symbolic axes; arithmetic does not, see constants.py.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from workers.pruning.graph.values import attribute, integer, integers
from workers.pruning.types import AnyArray

Array = npt.NDArray[Any]
Evaluator = Callable[[ir.Node, Sequence[Array | None]], Array]


_TO_THE_END: Final = frozenset({2**31 - 1, 2**63 - 1})  # ONNX Runtime reads these as "all the way" in both directions


def _given(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _integers(node: ir.Node, inputs: Sequence[Array | None], index: int, name: str) -> list[int] | None:
    """A list of integers that old opsets keep in an attribute and newer ones in an input."""
    array = _given(inputs, index)
    if array is not None:
        return [int(entry) for entry in array.reshape(-1)]
    return integers(node, name)


def _present(inputs: Sequence[Array | None], index: int) -> Array:
    array = _given(inputs, index)
    if array is None:
        raise ValueError(f"input {index} is missing")
    return array


def _first(inputs: Sequence[Array | None]) -> Array:
    return _present(inputs, 0)


def _identity(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return _first(inputs)


def _cast(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    data = _first(inputs)
    target = ir.DataType(integer(node, "to", 1)).numpy()
    return data if data.dtype == object else data.astype(target)


def _cast_like(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    like = inputs[1]
    return _first(inputs) if like is None else _first(inputs).astype(like.dtype)


def _reshape(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    data = _first(inputs)
    shape = _integers(node, inputs, 1, "shape") or []
    if not integer(node, "allowzero", 0):
        shape = [data.shape[axis] if length == 0 else length for axis, length in enumerate(shape)]
    return data.reshape(shape)


def _transpose(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.asarray(_first(inputs).transpose(integers(node, "perm")), order="C")


def _squeeze(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    axes = _integers(node, inputs, 1, "axes")
    return _first(inputs).squeeze(None if axes is None else tuple(axes))


def _unsqueeze(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.expand_dims(_first(inputs), tuple(_integers(node, inputs, 1, "axes") or ()))


def _concat(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    arrays = [array for array in inputs if array is not None]
    return np.concatenate(arrays, axis=integer(node, "axis", 1))


def _slice(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    data = _first(inputs)
    starts, ends = _integers(node, inputs, 1, "starts") or [], _integers(node, inputs, 2, "ends") or []
    axes = _integers(node, inputs, 3, "axes") or list(range(len(starts)))
    steps = _integers(node, inputs, 4, "steps") or [1] * len(starts)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        positions = slice_positions(start, end, step, data.shape[axis])
        index[axis] = slice(positions.start, None if positions.stop < 0 else positions.stop, step)
    return data[tuple(index)]


def slice_positions(start: int, end: int, step: int, length: int) -> range:
    """The positions that a Slice takes of an axis.

    Source: ONNX Slice. Unlike in Python, a backward slice from before the axis begins at its first entry.
    """
    if step < 0 and end in _TO_THE_END:
        end = -1 - length
    start, end = (bound + length if bound < 0 else bound for bound in (start, end))
    if step > 0:
        start, end = (min(max(bound, 0), length) for bound in (start, end))
        return range(start, max(start, end), step)
    start, end = min(max(start, 0), length - 1), min(max(end, -1), length - 1)
    return range(start, min(start, end), step)


def _gather(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    data, indices = _first(inputs), _present(inputs, 1)
    # A single entry comes back bare, and a symbolic one would then be text rather than an array.
    return np.asarray(np.take(data, indices.astype(np.int64), axis=integer(node, "axis", 0)), data.dtype)


def _expand(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    data, shape = _first(inputs), _present(inputs, 1)
    return np.array(np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(length) for length in shape))))


def _tile(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.tile(_first(inputs), [int(count) for count in _present(inputs, 1)])


def _constant_of_shape(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    value = attribute(node, "value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value).reshape(-1)
    return np.full([int(length) for length in _first(inputs)], fill[0], fill.dtype)


def _range(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    start, limit, delta = (array.item() for array in inputs if array is not None)
    return np.arange(start, limit, delta, dtype=_first(inputs).dtype)


def _where(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.asarray(np.where(_first(inputs), _present(inputs, 1), _present(inputs, 2)))


def _divide(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
    left, right = _first(inputs), _present(inputs, 1)
    if np.issubdtype(left.dtype, np.integer):  # ONNX truncates towards zero, numpy floors
        quotient = np.abs(left) // np.abs(right)
        return np.asarray(quotient * np.sign(left) * np.sign(right), left.dtype)
    return np.asarray(left / right)


def _modulo(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    """Remainder with the sign of the divisor, or with `fmod` that of the dividend."""
    left, right = _first(inputs), _present(inputs, 1)
    return np.asarray(np.fmod(left, right) if integer(node, "fmod", 0) else np.mod(left, right))


def _clip(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    result = _first(inputs)
    for index, name, limit in ((1, "min", np.maximum), (2, "max", np.minimum)):
        listed = _given(inputs, index)
        bound = attribute(node, name) if listed is None else listed
        if bound is not None:
            result = np.asarray(limit(result, np.asarray(bound))).astype(result.dtype, copy=False)
    return result


def _triangle(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    offset = _given(inputs, 1)
    k = 0 if offset is None else int(offset.item())
    return np.triu(_first(inputs), k) if integer(node, "upper", 1) else np.tril(_first(inputs), k)


def _elementwise(function: Callable[..., Any]) -> Evaluator:
    def evaluate(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
        arrays = [array for array in inputs if array is not None]
        result = np.asarray(function(*arrays))
        return result if result.dtype == bool else result.astype(arrays[0].dtype, copy=False)

    return evaluate


def _fold(function: Callable[[Array, Array], Array]) -> Evaluator:
    def evaluate(_: ir.Node, inputs: Sequence[Array | None]) -> Array:
        arrays = [array for array in inputs if array is not None]
        result = arrays[0]
        for array in arrays[1:]:
            result = np.asarray(function(result, array))
        return result

    return evaluate


def _reduce(function: Callable[..., Any]) -> Evaluator:
    def evaluate(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
        data = _first(inputs)
        axes = _integers(node, inputs, 1, "axes")
        if not axes and integer(node, "noop_with_empty_axes", 0):
            return data
        keep = bool(integer(node, "keepdims", 1))
        result = function(data, axis=None if axes is None else tuple(axes), keepdims=keep)
        return np.asarray(result).astype(data.dtype, copy=False)

    return evaluate


MOVEMENT: Final[dict[str, Evaluator]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "Transpose": _transpose,
}
EVALUATORS: Final[dict[str, Evaluator]] = {
    **MOVEMENT,
    "CastLike": _cast_like,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Where": _where,
    "Div": _divide,
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Mod": _modulo,
    "Clip": _clip,
    "Trilu": _triangle,
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Sign": _elementwise(np.sign),
    "Sqrt": _elementwise(np.sqrt),
    "Reciprocal": _elementwise(np.reciprocal),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Pow": _elementwise(np.power),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Equal": _elementwise(np.equal),
    "Less": _elementwise(np.less),
    "LessOrEqual": _elementwise(np.less_equal),
    "Greater": _elementwise(np.greater),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Xor": _elementwise(np.logical_xor),
    "Not": _elementwise(np.logical_not),
    "Min": _fold(np.minimum),
    "Max": _fold(np.maximum),
    "Sum": _fold(np.add),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceMean": _reduce(np.mean),
}


def output_elements(node: ir.Node, inputs: Sequence[Array | None]) -> int:
    """An upper bound of the elements that evaluating `node` would allocate, found without allocating them."""
    sizes = [array.size for array in inputs if array is not None]
    requested = {"Expand": 1, "ConstantOfShape": 0}
    if node.op_type in requested:
        shape = inputs[requested[node.op_type]]
        length = 0 if shape is None else prod(abs(int(entry)) for entry in shape.reshape(-1))
        return max(length, 1) * (sizes[0] if node.op_type == "Expand" else 1)
    if node.op_type == "Tile":
        repeats = inputs[1]
        return sizes[0] * (0 if repeats is None else prod(abs(int(entry)) for entry in repeats.reshape(-1)))
    if node.op_type == "Range":
        start, limit, delta = (float(array.item()) for array in inputs if array is not None)
        return int(abs(limit - start) / abs(delta)) + 1 if delta else 0
    if node.op_type == "Gather":
        return sizes[0] * sizes[1]
    if node.op_type in MOVEMENT or node.op_type.startswith("Reduce"):
        return sum(sizes)
    shapes = [array.shape for array in inputs if array is not None]
    return prod(np.broadcast_shapes(*shapes))


def known(array: AnyArray) -> bool:
    """Whether an array is free of symbolic entries."""
    return array.dtype != object or all(isinstance(entry, (int, np.integer)) for entry in array.reshape(-1))
