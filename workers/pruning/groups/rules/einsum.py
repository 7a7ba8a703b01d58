"""Einsum with a stored weight: the letters say where channels are read and made."""

from dataclasses import dataclass

import onnx_ir as ir

from workers.pruning.groups.labels import Labels, NotUnderstood, along
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import is_weight, text, weight
from workers.pruning.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letters:
    """Names of the axes of the activation, the weight and the result; `position` is the weight's input."""

    source: str
    weight: str
    result: str
    position: int


def einsum(state: Propagation, node: ir.Node) -> None:
    """Axes that the weight shares with the activation and the result lacks are read; its own axis is made.

    Where the weight has several axes of its own (heads and positions in them) the last one is made and the others stay.
    """
    letters = _letters(node)
    value, shape = weight(node, letters.position)
    source = state.input(node, 1 - letters.position)
    read = {
        axis for axis, letter in enumerate(letters.source) if letter in letters.weight and letter not in letters.result
    }
    if not set(source.varying) <= read:
        raise NotUnderstood("it keeps an axis along which channels could be removed")
    if len(source.varying) > 1:
        source = state.collapse(source, source.varying[:-1])
    for axis in source.varying:
        state.tag(node, value, letters.weight.index(letters.source[axis]), Role.CONSUME, state.line(source, axis))
    state.put(node, _made(state, node, letters, value, shape))


def _made(state: Propagation, node: ir.Node, letters: _Letters, value: ir.Value, shape: tuple[int, ...]) -> Labels:
    own = [letter for letter in letters.weight if letter in letters.result and letter not in letters.source]
    if not own:
        raise NotUnderstood("its weight makes no channels")
    axis = letters.weight.index(own[-1])
    made = state.ties.fresh(shape[axis])
    state.tag(node, value, axis, Role.PRODUCE, made)
    return along(made, letters.result.index(own[-1]), state.output_shape(node))


def _letters(node: ir.Node) -> _Letters:
    sides = text(node, "equation", "").replace(" ", "").split("->")
    operands = sides[0].split(",")
    stored = [index for index in range(len(node.inputs)) if is_weight(node, index)]
    if len(sides) != 2 or len(operands) != 2 or len(stored) != 1:
        raise NotUnderstood("it is no product of an activation and a weight with its result written out")
    if any(not word.isalpha() or len(set(word)) < len(word) for word in (*operands, sides[1])):
        raise NotUnderstood("it takes a diagonal, or axes without a name")
    (position,) = stored
    return _Letters(source=operands[1 - position], weight=operands[position], result=sides[1], position=position)
