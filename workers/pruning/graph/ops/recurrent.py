"""LSTM and GRU on torch's own kernels; the order of gates differs between ONNX and torch."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from workers.pruning.graph.ops.site import Kernel, Operator, Site

_LSTM_GATES: Final = (0, 2, 3, 1)  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
_GRU_GATES: Final = (1, 0, 2)  # torch: reset, update, new; ONNX: update, reset, hidden
_PLAIN: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


def lstm(site: Site) -> Kernel:
    """One LSTM layer in one or both directions.

    Source: ONNX LSTM. Differs: the standard activations only, no clip, no coupled gates, no peepholes, all sequences
    of full length.
    """
    _require_plain(site)
    if site.integer("input_forget") or site.has(7):
        site.refuse("setting", "coupled input and forget gates, or peepholes", "neither")
    return _kernel(site, _LSTM_GATES)


def gru(site: Site) -> Kernel:
    """One GRU layer in one or both directions.

    Source: ONNX GRU with linear_before_reset=1, which is what torch and cuDNN compute.
    """
    _require_plain(site)
    if not site.integer("linear_before_reset"):
        site.refuse("attribute", "linear_before_reset=0", "linear_before_reset=1")
    return _kernel(site, _GRU_GATES)


def _require_plain(site: Site) -> None:
    listed = site.attributes.get("activations")
    names = [str(name) for name in listed] if isinstance(listed, (list, tuple)) else []
    plain = _PLAIN[site.op_type]
    if names and names != plain * (len(names) // len(plain)):
        site.refuse("attribute", f"activations={names}", f"activations={plain}")
    if site.number("clip") or site.has(4):
        site.refuse("setting", "clip or sequence_lens", "neither")


def _kernel(site: Site, gates: Sequence[int]) -> Kernel:
    direction, batch_first = site.text("direction", "forward"), bool(site.integer("layout"))
    hidden, num_outputs, is_lstm = site.integer("hidden_size"), site.num_outputs, site.op_type == "LSTM"

    def run(*inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        values, weights, recurrent = (_present(each) for each in inputs[:3])
        bias = inputs[3] if len(inputs) > 3 else None
        values = values.transpose(0, 1) if batch_first else values
        values = values.flip(0) if direction == "reverse" else values
        states = [_state(inputs, index, values, weights, hidden, batch_first=batch_first) for index in (5, 6)]
        flat = _flat(weights, recurrent, bias, gates)
        both = direction == "bidirectional"
        settings = (bias is not None, 1, 0.0, False, both, False)
        found = (
            torch.lstm(values, states, flat, *settings)
            if is_lstm
            else torch.gru(values, states[0], flat, *settings)
        )  # fmt: skip
        output = found[0].reshape(*found[0].shape[:2], -1, hidden).transpose(1, 2)
        output = output.flip(0) if direction == "reverse" else output
        results: tuple[Tensor, ...] = (output.permute(2, 0, 1, 3) if batch_first else output,)
        results += tuple(state.transpose(0, 1) if batch_first else state for state in found[1:])
        return results[:num_outputs] if num_outputs > 1 else results[0]

    return run


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("a recurrent operator without data or weights")
    return value


def _state(
    inputs: Sequence[Tensor | None], index: int, values: Tensor, weights: Tensor, hidden: int, *, batch_first: bool
) -> Tensor:
    given = inputs[index] if index < len(inputs) else None
    if given is None:
        return values.new_zeros(weights.shape[0], values.shape[1], hidden)
    return given.transpose(0, 1).contiguous() if batch_first else given.contiguous()


def _flat(weights: Tensor, recurrent: Tensor, bias: Tensor | None, gates: Sequence[int]) -> list[Tensor]:
    """Weights in torch's order: per direction input, recurrent, and the two biases."""
    flat: list[Tensor] = []
    for direction in range(weights.shape[0]):
        flat += [_ordered(weights[direction], gates), _ordered(recurrent[direction], gates)]
        if bias is not None:
            flat += [_ordered(half, gates) for half in bias[direction].chunk(2)]
    return flat


def _ordered(tensor: Tensor, gates: Sequence[int]) -> Tensor:
    parts = tensor.chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


OPERATORS: Final = {
    "GRU": Operator(build=gru, summary="Gated recurrent unit with linear_before_reset=1, standard activations."),
    "LSTM": Operator(build=lstm, summary="Long short-term memory with standard activations, without peepholes."),
}
