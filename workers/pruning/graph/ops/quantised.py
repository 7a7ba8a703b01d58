"""QuantizeLinear and DequantizeLinear, computed in floating point."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from workers.pruning.graph.ops.site import Kernel, Operator, Site

_RANGES: Final = {
    name: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for name in ("uint8", "int8", "uint16", "int16", "int32")
}
_NAMES: Final = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16"}  # by the number of an ONNX type


def quantize(site: Site) -> Kernel:
    """Codes round(x / scale) + zero point, cut to the range of their type; they stay floating point numbers.

    Source: ONNX QuantizeLinear; the gradient passes straight through the rounding (Bengio et al. 2013) and is zero
    outside the range.
    """
    low, high = _range(site)
    axis = _axis(site)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        scale, shift = _spread(scale, zero, x, axis)
        exact = x / scale
        rounded = exact + (torch.round(exact) - exact).detach()
        return (rounded + shift).clamp(low, high)

    return run


def dequantize(site: Site) -> Kernel:
    """(code - zero point) * scale."""
    axis = _axis(site)

    def run(codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        scale, shift = _spread(scale, zero, codes, axis)
        return (codes.to(scale.device, scale.dtype) - shift) * scale

    return run


def _axis(site: Site) -> int:
    if site.integer("block_size"):
        site.refuse("attribute", f"block_size={site.integer('block_size')}", "one scale a tensor or a channel")
    return site.integer("axis", 1)


def _range(site: Site) -> tuple[int, int]:
    zero = site.constant(2)
    kind = _NAMES.get(site.integer("output_dtype", 2), "") if zero is None else zero.dtype.name
    if kind not in _RANGES or (zero is None and site.has(2)):
        site.refuse("type of codes", kind or "another", ", ".join(_RANGES))
    return _RANGES[kind]


def _spread(scale: Tensor, zero: Tensor | None, like: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point in the shape that broadcasts along an axis of `like`."""
    shift = torch.zeros_like(scale) if zero is None else zero.to(scale.device, scale.dtype)
    if scale.dim() == 0 or scale.numel() == 1:
        return scale.reshape(()), shift.reshape(())
    shape = [1] * like.dim()
    shape[axis] = -1
    return scale.reshape(shape), shift.reshape(shape)


OPERATORS: Final = {
    "QuantizeLinear": Operator(
        build=quantize, summary="Codes of whole numbers; gradients pass straight through; no blocks of scales."
    ),
    "DequantizeLinear": Operator(build=dequantize, summary="Numbers of codes; no blocks of scales."),
}
