"""Einsum: with a stored weight the letters say where channels are read and made; without, it is a product."""

from dataclasses import dataclass

import onnx_ir as ir

from workers.pruning.graph.summation import letters
from workers.pruning.groups.labels import Labels, NotUnderstood, along, transpose
from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules.arguments import is_weight, weight
from workers.pruning.groups.rules.products import contraction
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
    if not any(is_weight(node, index) for index in range(len(node.inputs))):
        _of_two(state, node)
        return
    named = _letters(node)
    value, shape = weight(node, named.position)
    source = state.input(node, 1 - named.position)
    read = {axis for axis, letter in enumerate(named.source) if letter in named.weight and letter not in named.result}
    if not set(source.varying) <= read:
        raise NotUnderstood("it keeps an axis along which channels could be removed")
    if len(source.varying) > 1:
        source = state.collapse(source, source.varying[:-1])
    for axis in source.varying:
        state.tag(node, value, named.weight.index(named.source[axis]), Role.CONSUME, state.line(source, axis))
    state.put(node, _made(state, node, named, value, shape))


def _made(state: Propagation, node: ir.Node, named: _Letters, value: ir.Value, shape: tuple[int, ...]) -> Labels:
    own = [letter for letter in named.weight if letter in named.result and letter not in named.source]
    if not own:
        raise NotUnderstood("its weight makes no channels")
    axis = named.weight.index(own[-1])
    made = state.ties.fresh(shape[axis])
    state.tag(node, value, axis, Role.PRODUCE, made)
    return along(made, named.result.index(own[-1]), state.output_shape(node))


def _letters(node: ir.Node) -> _Letters:
    words = letters(node)
    stored = [index for index in range(len(node.inputs)) if is_weight(node, index)]
    if words is None or len(stored) != 1:
        raise NotUnderstood("it is no product of two with its result written out")
    (position,) = stored
    return _Letters(source=words[1 - position], weight=words[position], result=words[2], position=position)


def _of_two(state: Propagation, node: ir.Node) -> None:
    """Attention in index notation: a product of matrices after the axes of both have been put in order."""
    left, right, result = letters(node) or ("", "", "")
    both = [letter for letter in left if letter in right]
    batch, summed = ([x for x in both if (x in result) is kept] for kept in (True, False))
    own = [[letter for letter in word if letter not in both] for word in (left, right)]
    if [len(summed), *map(len, own)] != [1, 1, 1] or set(result) != {*batch, *own[0], *own[1]}:
        raise NotUnderstood("it is no product of matrices")
    first = transpose(state.input(node, 0), [left.index(letter) for letter in [*batch, *own[0], *summed]])
    second = transpose(state.input(node, 1), [right.index(letter) for letter in [*batch, *summed, *own[1]]])
    made = contraction(state, first, second)
    order = [*batch, *own[0], *own[1]]
    state.put(node, transpose(made, [order.index(letter) for letter in result]))
