"""Channel shuffles in front of grouped convolutions, written as one Gather along the channels."""

from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.sharing import value_names
from workers.pruning.graph.values import attribute, fresh_name, initializer, integer

_CHANNEL_BY_CHANNEL: Final = frozenset({
    "BatchNormalization", "Clip", "Dropout", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid",
})  # fmt: skip
_IMAGE_RANK: Final = 3  # samples, channels and at least one axis of places
_UNNAMED: Final = "None"


def gather_shuffles(graph: ir.Model) -> None:
    """Replace Reshape, Transpose, Reshape that deal out channels to grouped convolutions by a Gather, in place.

    A shuffle written as Reshapes keeps its form only where channels go from all places of a row or column of the
    table that it transposes; a list of channels may lose any. A Gather takes no longer (docs/coverage.md).

    Ensures: the same function; a shuffle that anything else reads parts of, or with open lengths, stays as it is.
    """
    found = [parts for node in graph.graph if (parts := _shuffle(node)) is not None]
    found = [parts for parts in found if _in_front_of_groups(parts[-1].outputs[0])]
    taken = value_names(graph) if found else set()
    for opened, _, closed in found:
        groups, each = _lengths(opened.outputs[0])[1:3]
        order = np.arange(int(groups) * int(each), dtype=np.int64).reshape(int(groups), int(each)).T.reshape(-1)
        listed = initializer(fresh_name(f"{closed.name}_order", taken), order)
        graph.graph.register_initializer(listed)
        closed.op_type = "Gather"
        closed.attributes.clear()
        closed.attributes["axis"] = ir.AttrInt64("axis", 1)
        closed.replace_input_with(0, opened.inputs[0])
        closed.replace_input_with(1, listed)


def _shuffle(closed: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    """The three nodes of a shuffle that ends here, or None."""
    turned = _only_source(closed, "Reshape")
    opened = None if turned is None else _only_source(turned, "Transpose")
    if turned is None or opened is None or opened.op_type != "Reshape" or opened.domain or opened.inputs[0] is None:
        return None
    before, middle, after = (_lengths(value) for value in (opened.inputs[0], opened.outputs[0], closed.outputs[0]))
    rank = len(middle)
    fits = rank == len(before) + 1 > _IMAGE_RANK and before[1:] == after[1:] and before[2:] == middle[3:]
    known = all(isinstance(length, int) for length in (*before[1:2], *middle[1:3])) and _UNNAMED not in before[2:]
    swaps = attribute(turned, "perm") == [0, 2, 1, *range(3, rank)]
    return (opened, turned, closed) if fits and known and swaps else None


def _only_source(node: ir.Node, op_type: str) -> ir.Node | None:
    """What makes the first input of a node of this type, when nothing else reads it."""
    source = node.inputs[0] if node.op_type == op_type and not node.domain and node.inputs else None
    if source is None or source.is_graph_output() or len(source.uses()) != 1:
        return None
    return source.producer()


def _lengths(value: ir.Value) -> tuple[int | str, ...]:
    return tuple(length if isinstance(length, int) else str(length) for length in value.shape or ())


def _in_front_of_groups(value: ir.Value) -> bool:
    """Whether a convolution with several groups of several channels reads a value, maybe behind channel-wise nodes."""
    while len(value.uses()) == 1:
        node, index = next(iter(value.uses()))
        kernel = node.inputs[1] if len(node.inputs) > 1 else None
        if node.domain or index != 0:
            return False
        if node.op_type == "Conv" and kernel is not None and kernel.shape is not None and integer(node, "group", 1) > 1:
            if kernel.shape[1] != 1:
                return True
        elif node.op_type not in _CHANNEL_BY_CHANNEL:
            return False
        value = node.outputs[0]
    return False
