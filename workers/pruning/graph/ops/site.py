"""What an operator is told about the node that it is compiled for, and the kernel that it gives for it.

An entry of the registry is an `Operator`: a builder that reads attributes and constant inputs once, and returns the
kernel that runs at every step. A kernel takes the inputs of the node in order (None for an omitted one) and gives one
tensor, or a tuple when the node has several outputs. Kernels hold no tensors, so that a module may be moved or copied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from workers.pruning.errors import UnsupportedOperator
from workers.pruning.types import AnyArray

Kernel = Callable[..., Tensor | tuple[Tensor, ...]]
Builder = Callable[["Site"], Kernel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """How to compile one ONNX operator, and a line for its documentation."""

    build: Builder
    summary: str
    modal: bool = False  # the kernel behaves differently in training and takes `training` as a keyword


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A node as an operator sees it while it is compiled."""

    name: str
    op_type: str
    opset: int
    attributes: Mapping[str, object]
    constants: tuple[AnyArray | None, ...]  # by input; None where the input is computed or omitted
    given: tuple[bool, ...]  # by input; False where it is omitted
    num_outputs: int

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.given) and self.given[index]

    def constant(self, index: int) -> AnyArray | None:
        """The array of input `index` when it is known beforehand."""
        return self.constants[index] if index < len(self.constants) else None

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        value = self.attributes.get(name, default)
        return float(value) if isinstance(value, (int, float)) else default

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or None where the node does not set it."""
        value = self.attributes.get(name)
        return [int(entry) for entry in value] if isinstance(value, (list, tuple)) else None

    def numbers(self, name: str) -> list[float] | None:
        """A list of floats, or None where the node does not set it."""
        value = self.attributes.get(name)
        return [float(entry) for entry in value] if isinstance(value, (list, tuple)) else None

    def list_reader(self, index: int, name: str) -> Callable[[Sequence[Tensor | None]], list[int] | None]:
        """A function of the inputs that gives a list of integers: from the attribute, a constant or at run time."""
        listed = self.integers(name)
        array = self.constant(index)
        if array is not None:
            listed = [int(entry) for entry in array.reshape(-1)]
        if listed is not None or not self.has(index):
            return lambda _: listed
        return lambda inputs: integer_list(inputs[index])

    def refuse(self, what: str, actual: object, allowed: object = None) -> NoReturn:
        """Refuse the node.

        Raises:
            UnsupportedOperator: always.
        """
        raise UnsupportedOperator(
            f"{self.op_type} with this {what} cannot be run",
            where=f"node {self.name!r} ({self.op_type}, opset {self.opset})",
            actual=actual,
            allowed=allowed,
            advice="Export the network with another setting, or exclude this part from it.",
        )


def integer_list(values: Tensor | None) -> list[int] | None:
    """The entries of an integer tensor."""
    if values is None:
        return None
    return [int(entry) for entry in values.reshape(-1).tolist()]


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors on one device: integers of shape arithmetic live on the CPU and follow the data when they meet it."""
    device = tensors[0].device
    if all(tensor.device == device for tensor in tensors):
        return tensors
    target = next(tensor.device for tensor in tensors if tensor.device.type != "cpu")
    return tuple(tensor.to(target) for tensor in tensors)


def torch_dtype(onnx_type: int) -> torch.dtype:
    """The torch type of an ONNX type; half precision is computed in float32.

    Raises:
        UnsupportedOperator: torch has no such type (strings, narrow floats).
    """
    if onnx_type not in _DTYPES:
        raise UnsupportedOperator("A tensor type cannot be run", actual=f"ONNX type {onnx_type}", allowed="numbers")
    return _DTYPES[onnx_type]


def to_tensor(array: AnyArray) -> Tensor:
    """A tensor with its own copy of an array; half precision becomes float32."""
    kind = array.dtype
    if kind.name in {"float16", "bfloat16"}:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.array(array))


_DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float32,
    11: torch.float64,
    16: torch.float32,
}
