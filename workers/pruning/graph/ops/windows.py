"""Sliding windows: where auto_pad puts its padding, and padding that torch's own operators do not take."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def padding(
    auto_pad: str,
    pads: Sequence[int],
    lengths: Sequence[int],
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Begin pads of all axes, then end pads.

    Source: ONNX Conv and pooling. SAME keeps ceil(length / stride) positions; the odd one goes to the end with
    SAME_UPPER, to the beginning with SAME_LOWER.
    """
    num_axes = len(kernel)
    if auto_pad in {"", "NOTSET"}:
        return list(pads)
    if auto_pad == "VALID":
        return [0] * (2 * num_axes)
    total = [
        max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True)
    ]
    smaller = [extra // 2 for extra in total]
    larger = [extra - half for extra, half in zip(total, smaller, strict=True)]
    return smaller + larger if auto_pad == "SAME_UPPER" else larger + smaller


def pad_spatial(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    """Pad the last axes of `x` by begin and end pads in ONNX order; negative pads crop."""
    num_axes = len(pads) // 2
    reversed_pairs = [pads[side * num_axes + axis] for axis in reversed(range(num_axes)) for side in (0, 1)]
    return functional.pad(x, reversed_pairs, value=value) if any(pads) else x


def absorb(x: Tensor, pads: Sequence[int], value: float) -> tuple[Tensor, list[int]]:
    """`x` and symmetric pads for torch; what is not symmetric is padded here."""
    num_axes = len(pads) // 2
    if list(pads[:num_axes]) == list(pads[num_axes:]):
        return x, list(pads[:num_axes])
    return pad_spatial(x, pads, value), [0] * num_axes
