"""Pooling."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site
from workers.pruning.graph.ops.windows import pad_spatial, padding

_MAXIMUM: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN: Final = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windows:
    """The windows of a pooling node."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    auto_pad: str
    ceil: bool

    def padding(self, x: Tensor) -> list[int]:
        return padding(
            self.auto_pad,
            self.pads,
            x.shape[2:],
            kernel=self.kernel,
            strides=self.strides,
            dilations=self.dilations,
        )

    def symmetric(self, pads: Sequence[int]) -> bool:
        """Whether torch's own padding does: the same on both sides and at most half of the window."""
        half = len(self.kernel)
        return list(pads[:half]) == list(pads[half:]) and all(
            2 * pad <= size for pad, size in zip(pads[:half], self.kernel, strict=True)
        )

    def overhang(self, x: Tensor, pads: Sequence[int]) -> list[int]:
        """How far the last window of each axis reaches beyond the padded input when lengths are rounded up."""
        if not self.ceil or self.auto_pad.startswith("SAME"):
            return [0] * len(self.kernel)
        axes = len(self.kernel)
        result = []
        for axis, (size, stride, dilation) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            length = x.shape[2 + axis]
            room = length + pads[axis] + pads[axes + axis] - (size - 1) * dilation - 1
            steps = -(-room // stride)
            if steps * stride >= length + pads[axis]:  # a window may not begin in the end padding
                steps -= 1
            result.append(max(steps * stride - room, 0))
        return result


def _windows(site: Site) -> _Windows:
    kernel = site.integers("kernel_shape") or []
    axes = len(kernel)
    if axes not in _MAXIMUM:
        site.refuse("number of axes", axes, "1 to 3")
    return _Windows(
        kernel=kernel,
        strides=site.integers("strides") or [1] * axes,
        dilations=site.integers("dilations") or [1] * axes,
        pads=site.integers("pads") or [0] * (2 * axes),
        auto_pad=site.text("auto_pad", "NOTSET"),
        ceil=bool(site.integer("ceil_mode")),
    )


def max_pool(site: Site) -> Kernel:
    """Largest entry of each window."""
    if site.num_outputs > 1:
        site.refuse("second output", "Indices", "one output")
    windows = _windows(site)
    axes = len(windows.kernel)

    def run(x: Tensor) -> Tensor:
        pads = windows.padding(x)
        if windows.symmetric(pads) and not windows.ceil:
            return _MAXIMUM[axes](x, windows.kernel, windows.strides, pads[:axes], windows.dilations)
        extra = windows.overhang(x, pads)
        ends = [pad + more for pad, more in zip(pads[axes:], extra, strict=True)]
        return _MAXIMUM[axes](
            pad_spatial(x, [*pads[:axes], *ends], -inf), windows.kernel, windows.strides, 0, windows.dilations
        )

    return run


def average_pool(site: Site) -> Kernel:
    """Mean of each window; padding counts with count_include_pad."""
    windows = _windows(site)
    axes, include = len(windows.kernel), bool(site.integer("count_include_pad"))
    dilated = any(dilation != 1 for dilation in windows.dilations)

    def run(x: Tensor) -> Tensor:
        pads = windows.padding(x)
        if windows.symmetric(pads) and not windows.ceil and not dilated:
            return _MEAN[axes](x, windows.kernel, windows.strides, pads[:axes], False, include)  # noqa: FBT003
        return _sums(x, windows, pads) / _counts(x, windows, pads, include=include)

    return run


def _sums(x: Tensor, windows: _Windows, pads: Sequence[int]) -> Tensor:
    axes = len(windows.kernel)
    ends = [pad + more for pad, more in zip(pads[axes:], windows.overhang(x, pads), strict=True)]
    return _window_sum(pad_spatial(x, [*pads[:axes], *ends], 0.0), windows)


def _counts(x: Tensor, windows: _Windows, pads: Sequence[int], *, include: bool) -> Tensor:
    """How many positions each window counts; what hangs over by rounding up never counts."""
    axes = len(windows.kernel)
    ones = x.new_ones((1, 1, *x.shape[2:]))
    ones = pad_spatial(ones, pads, 1.0 if include else 0.0)
    extra = windows.overhang(x, pads)
    return _window_sum(pad_spatial(ones, [*([0] * axes), *extra], 0.0), windows)


def _window_sum(x: Tensor, windows: _Windows) -> Tensor:
    for axis, (size, stride, dilation) in enumerate(
        zip(windows.kernel, windows.strides, windows.dilations, strict=True)
    ):
        count = (x.shape[2 + axis] - (size - 1) * dilation - 1) // stride + 1
        parts = [
            x.narrow(2 + axis, offset * dilation, (count - 1) * stride + 1)[
                (slice(None),) * (2 + axis) + (slice(None, None, stride),)
            ]
            for offset in range(size)
        ]
        x = torch.stack(parts).sum(0)
    return x


def lp_pool(site: Site) -> Kernel:
    """p-norm of each window."""
    windows, order = _windows(site), site.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        return _sums(x.abs().pow(order), windows, windows.padding(x)).pow(1.0 / order)

    return run


def _global(function: Callable[[Tensor, list[int]], Tensor], summary: str) -> Operator:
    def run(x: Tensor) -> Tensor:
        return function(x, list(range(2, x.dim())))

    return Operator(build=lambda _: run, summary=summary)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return x.mean(axes, keepdim=True)


def _largest(x: Tensor, axes: list[int]) -> Tensor:
    return x.amax(axes, keepdim=True)


def global_lp_pool(site: Site) -> Kernel:
    """p-norm of each channel."""
    order = site.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        return x.abs().pow(order).sum(list(range(2, x.dim())), keepdim=True).pow(1.0 / order)

    return run


OPERATORS: Final = {
    "MaxPool": Operator(build=max_pool, summary="Largest entry of each window; without the Indices output."),
    "AveragePool": Operator(build=average_pool, summary="Mean of each window; ceil_mode and count_include_pad."),
    "LpPool": Operator(build=lp_pool, summary="p-norm of each window."),
    "GlobalAveragePool": _global(_mean, "Mean of each channel."),
    "GlobalMaxPool": _global(_largest, "Largest entry of each channel."),
    "GlobalLpPool": Operator(build=global_lp_pool, summary="p-norm of each channel."),
}
