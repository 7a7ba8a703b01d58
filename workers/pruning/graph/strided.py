"""Elements picked in the order in which they lie: a view of memory that a Reshape gives as well."""

from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.arithmetic import EVALUATORS, Array, output_elements
from workers.pruning.graph.sharing import value_names
from workers.pruning.graph.values import constant, fresh_name, initializer, integer

_TRIED: Final = (
    1,
    2,
    3,
)  # numbers of samples; positions that are counted by sums and products of them are known by two
_COUNTING: Final = frozenset({"Add", "Cast", "Mul", "Range", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
_DEEPEST: Final = 32
_LARGEST: Final = 1 << 16  # positions for one sample; larger views stay as they are


def reshape_views(graph: ir.Model) -> None:
    """Replace a Gather that picks all elements of a flattened tensor in order by a Reshape, in place.

    Exporters write `torch.as_strided` as positions that are counted from the number of samples, also where the view is
    the tensor itself, as in a mean over a turned image. Which channels such a Gather picks could not be told.

    Ensures: the same function, told from the positions for 1, 2 and 3 samples.
    """
    found = [(node, tail) for node in graph.graph if (tail := _view(graph, node)) is not None]
    taken = value_names(graph) if found else set()
    for node, tail in found:
        target = initializer(fresh_name(f"{node.name}_shape", taken), np.asarray([-1, *tail], np.int64))
        graph.graph.register_initializer(target)
        node.op_type = "Reshape"
        node.attributes.clear()
        opened = node.inputs[0].producer() if node.inputs[0] is not None else None
        node.replace_input_with(0, None if opened is None else opened.inputs[0])
        node.replace_input_with(1, target)


def _view(graph: ir.Model, node: ir.Node) -> tuple[int, ...] | None:
    """The lengths behind the samples of a view of a whole tensor; None for anything else."""
    if node.op_type != "Gather" or node.domain or integer(node, "axis", 0) != 0:
        return None
    flat, positions = node.inputs
    opened = None if flat is None else flat.producer()
    if positions is None or positions.is_initializer() or opened is None or opened.op_type != "Reshape":
        return None
    target, source, batch = constant(opened.inputs[1]), opened.inputs[0], _batch(graph)
    if target is None or target.tolist() != [-1] or source is None or source.shape is None or batch is None:
        return None
    held = _tail(source.shape)
    if held is None or str(source.shape[0]) != batch or prod(held) > _LARGEST:
        return None
    listed = [_Counted(batch, count).at(positions) for count in _TRIED]
    tail = None if listed[0] is None else listed[0].shape[1:]
    same = [
        array is not None and array.shape == (count, *(tail or ())) and _in_order(array, count * prod(held))
        for array, count in zip(listed, _TRIED, strict=True)
    ]
    return tail if tail and all(same) else None


def _batch(graph: ir.Model) -> str | None:
    """The name of the number of samples, where there is one."""
    names = {
        str(value.shape[0])
        for value in graph.graph.inputs
        if value.shape and isinstance(value.shape[0], ir.SymbolicDim)
    }
    return names.pop() if len(names) == 1 and "None" not in names else None


def _tail(shape: ir.Shape) -> tuple[int, ...] | None:
    lengths = tuple(length for length in tuple(shape)[1:] if isinstance(length, int))
    return lengths if len(lengths) == len(shape) - 1 else None


def _in_order(positions: Array, count: int) -> bool:
    return positions.size == count and bool((positions.reshape(-1) == np.arange(count)).all())


class _Counted:
    """Values that are counted from the number of samples, for so many of them."""

    def __init__(self, batch: str, count: int) -> None:
        self._batch = batch
        self._count = count
        self._known: dict[ir.Value | None, Array | None] = {}

    def at(self, value: ir.Value | None, deepest: int = _DEEPEST) -> Array | None:
        """The array, or None where anything else goes in or it is large."""
        if value not in self._known:
            held, node = constant(value), None if value is None else value.producer()
            if held is None and node is not None and not node.domain and node.op_type in _COUNTING and deepest:
                held = self._shape(node) if node.op_type == "Shape" else self._evaluated(node, deepest - 1)
            self._known[value] = held
        return self._known[value]

    def _shape(self, node: ir.Node) -> Array | None:
        source = node.inputs[0]
        lengths = [] if source is None or source.shape is None else list(source.shape)
        told = [self._count if str(length) == self._batch else length for length in lengths]
        told = told[integer(node, "start", 0) : integer(node, "end", len(told))]
        return np.asarray(told, np.int64) if told and all(isinstance(length, int) for length in told) else None

    def _evaluated(self, node: ir.Node, deepest: int) -> Array | None:
        inputs = [self.at(each, deepest) for each in node.inputs]
        if any(array is None for array in inputs):
            return None
        try:
            small = output_elements(node, inputs) <= _LARGEST * len(_TRIED)
            return EVALUATORS[node.op_type](node, inputs) if small else None
        except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError):
            return None  # left to the runtime, which says what is wrong with it
