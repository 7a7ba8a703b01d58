"""One step of a recurrent layer, as ONNX defines it: RNN, LSTM and GRU with any activation, clip and peepholes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Site

Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]  # values and states of a step -> states behind it
Weigh = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Cell]  # weights, recurrent weights, biases, peepholes

ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softsign": functional.softsign,
    "Softplus": functional.softplus,
}


def rnn_cell(activations: Sequence[Activation], clip: float, _site: Site) -> Weigh:
    """H' = f(W x + R H + b).

    Shapes: weights (hidden, inputs) and (hidden, hidden), biases (2 hidden).
    """
    (act,) = activations

    def weigh(weights: Tensor, loops: Tensor, bias: Tensor | None, _peepholes: Tensor | None) -> Cell:
        from_input, from_state = _halves(bias)

        def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            total = functional.linear(x, weights, from_input) + functional.linear(states[0], loops, from_state)
            return (act(_clipped(total, clip)),)

        return step

    return weigh


def lstm_cell(activations: Sequence[Activation], clip: float, site: Site) -> Weigh:
    """i, f = s(.. + P C), C' = f C + i g(..), o = s(.. + P C'), H' = o h(C'); with coupled gates f = 1 - i.

    Shapes: weights in the order i, o, f, c, biases (8 hidden), peepholes i, o, f (3 hidden).
    """
    gate, inner, outer = activations
    coupled = bool(site.integer("input_forget"))

    def weigh(weights: Tensor, loops: Tensor, bias: Tensor | None, peepholes: Tensor | None) -> Cell:
        from_input, from_state = _halves(bias)
        peeps = (None, None, None) if peepholes is None else peepholes.chunk(3)

        def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, memory = states
            total = functional.linear(x, weights, from_input) + functional.linear(hidden, loops, from_state)
            enter, leave, forget, candidate = total.chunk(4, -1)
            entering = gate(_clipped(_peeped(enter, peeps[0], memory), clip))
            staying = 1 - entering if coupled else gate(_clipped(_peeped(forget, peeps[2], memory), clip))
            memory = staying * memory + entering * inner(_clipped(candidate, clip))
            leaving = gate(_clipped(_peeped(leave, peeps[1], memory), clip))
            return leaving * outer(memory), memory

        return step

    return weigh


def gru_cell(activations: Sequence[Activation], clip: float, site: Site) -> Weigh:
    """z, r = s(..), H' = (1 - z) h + z H; the reset acts on H before its matrix, or behind it where the node says so.

    Shapes: weights in the order z, r, h, biases (6 hidden).
    """
    gate, inner = activations
    behind = bool(site.integer("linear_before_reset"))

    def weigh(weights: Tensor, loops: Tensor, bias: Tensor | None, _peepholes: Tensor | None) -> Cell:
        from_input, from_state = _halves(bias)
        loop_update, loop_reset, loop_new = loops.chunk(3)
        bias_update, bias_reset, bias_new = (None, None, None) if from_state is None else from_state.chunk(3)

        def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (hidden,) = states
            update, reset, new = functional.linear(x, weights, from_input).chunk(3, -1)
            update = gate(_clipped(update + functional.linear(hidden, loop_update, bias_update), clip))
            reset = gate(_clipped(reset + functional.linear(hidden, loop_reset, bias_reset), clip))
            if behind:
                new = new + reset * functional.linear(hidden, loop_new, bias_new)
            else:
                new = new + functional.linear(reset * hidden, loop_new, bias_new)
            return ((1 - update) * inner(_clipped(new, clip)) + update * hidden,)

        return step

    return weigh


def _halves(bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The biases of what comes in and of what comes back."""
    if bias is None:
        return None, None
    from_input, from_state = bias.chunk(2)
    return from_input, from_state


def _peeped(total: Tensor, weights: Tensor | None, memory: Tensor) -> Tensor:
    return total if weights is None else total + weights * memory


def _clipped(total: Tensor, clip: float) -> Tensor:
    return total.clamp(-clip, clip) if clip else total
