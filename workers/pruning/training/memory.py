"""How much memory training takes: a straight line in the batch size, its slope measured and not guessed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Self

import torch

MEASURED_AT: Final = (2, 4)  # samples; one sample has no variance for a BatchNormalization to learn from
BYTES: Final = 4  # of a float32


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """Bytes that training holds when the backward pass begins, which is where it holds most.

    Source: derivation. M(k, B) = P(k) (1 + 1 + s) 4 + B A(k) + c0 with P parameters, a gradient and s = 1 momentum
    slot for each, A the bytes that autograd keeps for one sample, and c0 what is there whatever the batch: running
    statistics, converted weights, and the weights of a network that is learned from. That network runs before, in parts
    as small as to need no more than B A; `least_bytes` is what its smallest part needs. Short-lived gradients of
    activations are left out: they exist while what is kept is already being freed.
    """

    parameter_bytes: int  # of parameters, gradients and momentum together
    fixed_bytes: int
    sample_bytes: int
    least_bytes: int = 0

    @property
    def static_bytes(self) -> int:
        """Bytes that are there whatever the batch."""
        return self.parameter_bytes + self.fixed_bytes

    def at(self, batch_size: int) -> int:
        """Bytes with this batch."""
        return self.static_bytes + max(batch_size * self.sample_bytes, self.least_bytes)


class Saved:
    """While entered, adds up the storages that autograd keeps for backward; each storage counts once."""

    def __init__(self, beside: Iterable[torch.Tensor]) -> None:
        """`beside` are tensors that are counted elsewhere: parameters and running statistics."""
        self._beside = {_pointer(tensor) for tensor in beside}
        self._sizes: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def num_bytes(self) -> int:
        """Bytes kept."""
        return sum(self._sizes.values())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        pointer = _pointer(tensor)
        if pointer not in self._beside:
            self._sizes[pointer] = tensor.untyped_storage().nbytes()
        return tensor


def measure(
    loss_of: Callable[[int], torch.Tensor], beside: Iterable[torch.Tensor], parameter_bytes: int, fixed_bytes: int
) -> MemoryModel:
    """Run the loss at two small batches and draw the line through what autograd kept.

    Args:
        loss_of: the loss of the first so many samples, with everything that training does on its way.
        beside: parameters and statistics.
        parameter_bytes: of parameters, gradients and momentum.
        fixed_bytes: of whatever else stays.
    """
    beside = list(beside)
    kept = []
    for batch_size in MEASURED_AT:
        with Saved(beside) as saved:
            loss = loss_of(batch_size)
        kept.append(saved.num_bytes)
        del loss
    few, more = MEASURED_AT
    slope = max(1, (kept[1] - kept[0]) // (more - few))
    intercept = max(0, kept[0] - few * slope)
    return MemoryModel(parameter_bytes=parameter_bytes, fixed_bytes=fixed_bytes + intercept, sample_bytes=int(slope))


def _pointer(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
