"""What rules ask of a node: constants, weights, integer lists that moved from attributes to inputs over the opsets."""

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.values import constant
from workers.pruning.groups.labels import NotUnderstood
from workers.pruning.types import AnyArray


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The value at an input, or None where it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


def array(node: ir.Node, index: int) -> AnyArray | None:
    """The constant at an input, or None where it is omitted or computed."""
    return constant(given(node, index))


def weight(node: ir.Node, index: int) -> tuple[ir.Value, tuple[int, ...]]:
    """A weight and its shape.

    Raises:
        NotUnderstood: the input is computed by the network.
    """
    value = given(node, index)
    if value is None or value.const_value is None or not value.is_initializer():
        raise NotUnderstood("its weight is computed by the network")
    return value, tuple(value.const_value.shape.numpy())


def is_weight(node: ir.Node, index: int) -> bool:
    """Whether an input is an initializer."""
    value = given(node, index)
    return value is not None and value.is_initializer() and value.const_value is not None


def integers(node: ir.Node, index: int, name: str) -> list[int] | None:
    """Integers from a constant input, or from the attribute `name` that older opsets have instead.

    Raises:
        NotUnderstood: the input is computed by the network.
    """
    found = array(node, index)
    if found is not None:
        return [int(entry) for entry in np.asarray(found).reshape(-1).tolist()]
    if given(node, index) is not None:
        raise NotUnderstood(f"its {name} are computed by the network")
    listed = node.attributes.get(name)
    return None if listed is None else [int(entry) for entry in listed.as_ints()]


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    return int(node.attributes.get_int(name, default))


def text(node: ir.Node, name: str, default: str) -> str:
    """A text attribute."""
    return str(node.attributes.get_string(name, default))


def axis_of(position: int, num_axes: int) -> int:
    """An axis counted from the front.

    Raises:
        NotUnderstood: there is no such axis.
    """
    if not -num_axes <= position < num_axes:
        raise NotUnderstood(f"its axis {position} does not exist in a tensor of {num_axes} axes")
    return position % num_axes
