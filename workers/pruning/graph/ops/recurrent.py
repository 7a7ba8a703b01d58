"""RNN, LSTM and GRU: on torch's own kernels where these compute the same, step by step otherwise."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from workers.pruning.graph.ops.cells import ACTIVATIONS, Cell, gru_cell, lstm_cell, rnn_cell
from workers.pruning.graph.ops.site import Kernel, Operator, Site, together

_GATES: Final = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # torch's order of the gates, in ONNX's numbers
_PLAIN: Final = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}
_CELLS: Final = {"RNN": rnn_cell, "LSTM": lstm_cell, "GRU": gru_cell}
_LENGTHS, _HIDDEN, _MEMORY, _PEEPHOLES = 4, 5, 6, 7  # numbers of inputs


def recurrent(site: Site) -> Kernel:
    """One recurrent layer in one or both directions, with everything that ONNX lets it have.

    Source: ONNX RNN, LSTM and GRU. Layers with the standard activations and full sequences, and of the GRU those with
    linear_before_reset=1, are what torch computes with one kernel; clipped, coupled, peephole and other layers, and
    those with lengths, run a step at a time. Differs: activations with alpha or beta of their own are not computed.
    """
    chosen = _activations(site)
    plain = all(names == _PLAIN[site.op_type] for names in chosen)
    odd = site.number("clip") or site.integer("input_forget") or site.has(_LENGTHS) or site.has(_PEEPHOLES)
    before_reset = site.op_type != "GRU" or bool(site.integer("linear_before_reset"))
    direct = _at_once(site) if plain and not odd and before_reset else _stepwise(site, chosen)
    batch_first, num_outputs = bool(site.integer("layout")), site.num_outputs

    def run(*inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        arguments = list(inputs) + [None] * (_PEEPHOLES + 1 - len(inputs))
        if batch_first:
            for index in (0, _HIDDEN, _MEMORY):
                given = arguments[index]
                arguments[index] = None if given is None else given.transpose(0, 1)
        output, *states = direct(arguments)
        results = (
            (output.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states)) if batch_first else (output, *states)
        )
        return results[:num_outputs] if num_outputs > 1 else results[0]

    return run


_Direct = Callable[[Sequence[Tensor | None]], tuple[Tensor, ...]]


def _activations(site: Site) -> list[list[str]]:
    """The names of the activations of each direction."""
    plain = _PLAIN[site.op_type]
    num_directions = 2 if site.text("direction", "forward") == "bidirectional" else 1
    listed = site.attributes.get("activations")
    names = [str(name).capitalize() for name in listed] if isinstance(listed, (list, tuple)) else []
    names = names or plain * num_directions
    known = len(names) == len(plain) * num_directions and set(names) <= set(ACTIVATIONS)
    if not known or site.numbers("activation_alpha") or site.numbers("activation_beta"):
        site.refuse("choice of activations", names, f"{', '.join(ACTIVATIONS)}, without alpha and beta")
    return [names[start : start + len(plain)] for start in range(0, len(names), len(plain))]


def _at_once(site: Site) -> _Direct:
    direction, hidden, gates = site.text("direction", "forward"), site.integer("hidden_size"), _GATES[site.op_type]
    kernel = {"RNN": torch.rnn_tanh, "GRU": torch.gru}.get(site.op_type)

    def run(inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        values, weights, loops = (_present(each) for each in inputs[:3])
        values = values.flip(0) if direction == "reverse" else values
        flat = _flat(weights, loops, inputs[3], gates)
        # Some devices can only differentiate a layer that is told so; without dropout it computes the same.
        settings = (inputs[3] is not None, 1, 0.0, torch.is_grad_enabled(), direction == "bidirectional", False)
        states = [_state(inputs[index], values, weights, hidden) for index in (_HIDDEN, _MEMORY)]
        found: tuple[Tensor, ...] = (
            torch.lstm(values, states, flat, *settings)
            if kernel is None
            else kernel(values, states[0], flat, *settings)
        )
        output = found[0].reshape(*found[0].shape[:2], -1, hidden).transpose(1, 2)
        return output.flip(0) if direction == "reverse" else output, *found[1:]

    return run


def _stepwise(site: Site, chosen: Sequence[Sequence[str]]) -> _Direct:
    hidden, clip = site.integer("hidden_size"), site.number("clip")
    backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    ways = backwards[site.text("direction", "forward")]
    make = _CELLS[site.op_type]
    cells = [make([ACTIVATIONS[name] for name in names], clip, site) for names in chosen]

    def run(inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        values, weights, loops = (_present(each) for each in inputs[:3])
        starts = [_state(inputs[index], values, weights, hidden) for index in (_HIDDEN, _MEMORY)]
        starts = starts if site.op_type == "LSTM" else starts[:1]
        bias, peepholes = inputs[3], inputs[_PEEPHOLES]
        found: list[tuple[Tensor, ...]] = []
        for way, (backward, cell) in enumerate(zip(ways, cells, strict=True)):
            own = cell(
                weights[way],
                loops[way],
                None if bias is None else bias[way],
                None if peepholes is None else peepholes[way],
            )
            found.append(_along(own, values, [start[way] for start in starts], inputs[_LENGTHS], backward=backward))
        outputs, *states = zip(*found, strict=True)
        return torch.stack(outputs, 1), *(torch.stack(state) for state in states)

    return run


def _along(
    cell: Cell, values: Tensor, states: Sequence[Tensor], lengths: Tensor | None, *, backward: bool
) -> tuple[Tensor, ...]:
    """Take a cell through time; behind the end of a sequence its state stays and its output is zero.

    Shapes: values (time, batch, inputs), states (batch, hidden); gives outputs (time, batch, hidden) and the states.
    """
    current = tuple(states)
    order = range(len(values) - 1, -1, -1) if backward else range(len(values))
    outputs = [values.new_zeros(states[0].shape)] * len(values)
    for time in order:
        following = cell(values[time], current)
        outputs[time] = following[0]
        if lengths is not None:
            lasting = together(values, lengths)[1].reshape(-1, 1) > time
            outputs[time] = torch.where(lasting, following[0], torch.zeros_like(following[0]))
            following = tuple(torch.where(lasting, new, old) for new, old in zip(following, current, strict=True))
        current = following
    return torch.stack(outputs), *current


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a recurrent operator without data or weights")
    return value


def _state(given: Tensor | None, values: Tensor, weights: Tensor, hidden: int) -> Tensor:
    return values.new_zeros(weights.shape[0], values.shape[1], hidden) if given is None else given.contiguous()


def _flat(weights: Tensor, loops: Tensor, bias: Tensor | None, gates: Sequence[int]) -> list[Tensor]:
    """Weights in torch's order: per direction input, recurrent, and the two biases."""
    flat: list[Tensor] = []
    for direction in range(weights.shape[0]):
        flat += [_ordered(weights[direction], gates), _ordered(loops[direction], gates)]
        if bias is not None:
            flat += [_ordered(half, gates) for half in bias[direction].chunk(2)]
    return flat


def _ordered(tensor: Tensor, gates: Sequence[int]) -> Tensor:
    parts = tensor.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


OPERATORS: Final = {
    "GRU": Operator(build=recurrent, summary="Gated recurrent unit; activations without alpha and beta."),
    "LSTM": Operator(build=recurrent, summary="Long short-term memory; activations without alpha and beta."),
    "RNN": Operator(build=recurrent, summary="Simple recurrent layer; activations without alpha and beta."),
}
