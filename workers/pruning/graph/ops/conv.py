"""Conv and ConvTranspose."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site
from workers.pruning.graph.ops.windows import absorb, pad_spatial, padding

_CONVOLVE: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: Final = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(site: Site) -> Kernel:
    """Convolution of one to three axes."""
    auto_pad, groups = site.text("auto_pad", "NOTSET"), site.integer("group", 1)
    strides_, dilations_, pads_ = site.integers("strides"), site.integers("dilations"), site.integers("pads")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        num_axes = weight.dim() - 2
        strides, dilations = strides_ or [1] * num_axes, dilations_ or [1] * num_axes
        pads = padding(
            auto_pad,
            pads_ or [0] * (2 * num_axes),
            x.shape[2:],
            kernel=weight.shape[2:],
            strides=strides,
            dilations=dilations,
        )
        x, symmetric = absorb(x, pads, 0.0)
        return _CONVOLVE[num_axes](x, weight, bias, strides, symmetric, dilations, groups)

    _check_axes(site)
    return run


def conv_transpose(site: Site) -> Kernel:
    """Transposed convolution of one to three axes."""
    auto_pad, groups = site.text("auto_pad", "NOTSET"), site.integer("group", 1)
    strides_, dilations_, pads_ = site.integers("strides"), site.integers("dilations"), site.integers("pads")
    extra_, wanted = site.integers("output_padding"), site.integers("output_shape")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        num_axes = weight.dim() - 2
        strides, dilations = strides_ or [1] * num_axes, dilations_ or [1] * num_axes
        extra = extra_ or [0] * num_axes
        full = [
            stride * (length - 1) + more + (size - 1) * dilation + 1
            for length, size, stride, dilation, more in zip(
                x.shape[2:], weight.shape[2:], strides, dilations, extra, strict=True
            )
        ]
        sizes = wanted[-num_axes:] if wanted else None
        if sizes is None and auto_pad.startswith("SAME"):
            sizes = [length * stride for length, stride in zip(x.shape[2:], strides, strict=True)]
        pads = _crops(full, sizes, auto_pad) if sizes else pads_ or [0] * (2 * num_axes)
        begin, end = pads[:num_axes], pads[num_axes:]
        if begin == end and min(begin) >= 0:
            return _TRANSPOSED[num_axes](x, weight, bias, strides, begin, extra, groups, dilations)
        whole = _TRANSPOSED[num_axes](x, weight, bias, strides, 0, extra, groups, dilations)
        return pad_spatial(whole, [-length for length in pads], 0.0)

    _check_axes(site)
    return run


def _crops(full: Sequence[int], sizes: Sequence[int], auto_pad: str) -> list[int]:
    """What to take off at the beginning and end of each axis so that the output has `sizes`."""
    total = [max(length - size, 0) for length, size in zip(full, sizes, strict=True)]
    smaller = [extra // 2 for extra in total]
    larger = [extra - half for extra, half in zip(total, smaller, strict=True)]
    return smaller + larger if auto_pad == "SAME_UPPER" else larger + smaller


def _check_axes(site: Site) -> None:
    weight = site.constant(1)
    if weight is not None and weight.ndim - 2 not in _CONVOLVE:
        site.refuse("number of axes", weight.ndim - 2, "1 to 3")


OPERATORS: Final = {
    "Conv": Operator(build=conv, summary="Convolution of one to three axes, grouped and dilated, all auto_pad modes."),
    "ConvTranspose": Operator(
        build=conv_transpose, summary="Transposed convolution of one to three axes, output_shape and auto_pad included."
    ),
}
