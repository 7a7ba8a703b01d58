"""Resize and Upsample by nearest neighbour, linear or cubic interpolation, axis by axis, as ONNX Runtime does.

Source: ONNX Resize. x_out is a position in the output, x_in the position in the input that it stands for.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site

_Transform = Callable[[Tensor, float, int, int], Tensor]


def _half_pixel(x_out: Tensor, scale: float, _length: int, _new: int) -> Tensor:
    return (x_out + 0.5) / scale - 0.5


def _pytorch_half_pixel(x_out: Tensor, scale: float, _length: int, new: int) -> Tensor:
    return (x_out + 0.5) / scale - 0.5 if new > 1 else torch.zeros_like(x_out)


def _half_pixel_symmetric(x_out: Tensor, scale: float, length: int, new: int) -> Tensor:
    center = length / 2
    offset = center * (1 - new / (scale * length))
    return offset + (x_out + 0.5) / scale - 0.5


def _asymmetric(x_out: Tensor, scale: float, _length: int, _new: int) -> Tensor:
    return x_out / scale


def _align_corners(x_out: Tensor, _scale: float, length: int, new: int) -> Tensor:
    return x_out * ((length - 1) / (new - 1)) if new > 1 else torch.zeros_like(x_out)


_TRANSFORMS: Final[dict[str, _Transform]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "asymmetric": _asymmetric,
    "align_corners": _align_corners,
}
_ROUND: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}
_MODES: Final = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


def resize(site: Site) -> Kernel:
    """Interpolation to given scales or sizes."""
    for name, allowed in (("antialias", 0), ("keep_aspect_ratio_policy", "stretch")):
        value = site.attributes.get(name, allowed)
        if value != allowed:
            site.refuse(name, value, allowed)
    old = site.opset < 11
    coordinates = site.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = site.text("nearest_mode", "floor" if old else "round_prefer_floor")
    scales_at, sizes_at = (1, 9) if old else (2, 3)
    return _interpolation(site, coordinates, rounding, scales_at=scales_at, sizes_at=sizes_at)


def upsample(site: Site) -> Kernel:
    """Interpolation to given scales, as before Resize."""
    return _interpolation(site, "asymmetric", "floor", scales_at=1, sizes_at=9)


def _interpolation(site: Site, coordinates: str, rounding: str, *, scales_at: int, sizes_at: int) -> Kernel:
    mode = site.text("mode", "nearest")
    if mode not in _MODES:
        site.refuse("mode", mode, sorted(_MODES))
    if coordinates not in _TRANSFORMS:
        site.refuse("coordinate_transformation_mode", coordinates, sorted(_TRANSFORMS))
    read_scales, read_sizes = _floats(site, scales_at), site.list_reader(sizes_at, "")
    axes = site.integers("axes")
    bend, exclude = site.number("cubic_coeff_a", -0.75), bool(site.integer("exclude_outside"))

    def run(*inputs: Tensor) -> Tensor:
        x = inputs[0]
        scales, sizes = read_scales(inputs), read_sizes(inputs)
        chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
        lengths = [x.shape[axis] for axis in chosen]
        if sizes:
            scales = [new / length for new, length in zip(sizes, lengths, strict=True)]
        else:
            scales = scales or [1.0] * len(chosen)
            sizes = [int(np.float32(length) * np.float32(scale)) for length, scale in zip(lengths, scales, strict=True)]
        wanted = [
            (axis, new, scale)
            for axis, new, scale, length in zip(chosen, sizes, scales, lengths, strict=True)
            if new != length or scale != 1.0
        ]
        if _MODES[mode] == "nearest":
            return _nearest(x, wanted, coordinates, rounding)
        if _MODES[mode] == "cubic":
            return _cubic(x, wanted, coordinates, bend, exclude=exclude)
        return _linear(x, wanted, coordinates)

    return run


def _floats(site: Site, index: int) -> Callable[[Sequence[Tensor | None]], list[float] | None]:
    array, listed = site.constant(index), site.numbers("scales")
    if array is not None:
        listed = [float(entry) for entry in array.reshape(-1)]
    if listed is not None or not site.has(index):
        return lambda _: listed or None

    def read(inputs: Sequence[Tensor | None]) -> list[float] | None:
        tensor = inputs[index]
        return None if tensor is None else [float(entry) for entry in tensor.reshape(-1).tolist()] or None

    return read


def _nearest(x: Tensor, wanted: Sequence[tuple[int, int, float]], coordinates: str, rounding: str) -> Tensor:
    if _repeats(x, wanted, coordinates, rounding):
        sizes = list(x.shape[2:])
        for axis, new, _ in wanted:
            sizes[axis - 2] = new
        return functional.interpolate(x, size=sizes, mode="nearest")
    for axis, new, scale in wanted:
        length = x.shape[axis]
        position = _TRANSFORMS[coordinates](torch.arange(new, dtype=torch.float32), scale, length, new)
        index = _ROUND[rounding](position).clamp(0, length - 1).to(torch.int64)
        x = x.index_select(axis, index.to(x.device))
    return x


def _repeats(x: Tensor, wanted: Sequence[tuple[int, int, float]], coordinates: str, rounding: str) -> bool:
    """Whether each entry is simply repeated a whole number of times, for which torch has a fast kernel."""
    whole = all(scale == int(scale) and axis >= 2 for axis, _, scale in wanted)
    centred = coordinates in {"half_pixel", "half_pixel_symmetric"} and rounding.startswith("round")
    floored = coordinates == "asymmetric" and rounding == "floor"
    return whole and (centred or floored) and 3 <= x.dim() <= 5 and bool(wanted)


def _linear(x: Tensor, wanted: Sequence[tuple[int, int, float]], coordinates: str) -> Tensor:
    for axis, new, scale in wanted:
        length = x.shape[axis]
        position = _TRANSFORMS[coordinates](torch.arange(new, dtype=torch.float32), scale, length, new)
        position = position.clamp(0, length - 1)
        below = position.floor().clamp(max=max(length - 2, 0))
        weight = (position - below).to(x.device, x.dtype)
        lower = below.to(torch.int64).to(x.device)
        upper = (lower + 1).clamp(max=length - 1)
        weight = weight.reshape([-1] + [1] * (x.dim() - axis - 1))
        x = torch.lerp(x.index_select(axis, lower), x.index_select(axis, upper), weight)
    return x


def _cubic(
    x: Tensor, wanted: Sequence[tuple[int, int, float]], coordinates: str, bend: float, *, exclude: bool
) -> Tensor:
    """Four neighbours an axis, those outside taken from the border or left out.

    Source: Keys 1981, equation 4; `bend` is its coefficient a.
    """
    for axis, new, scale in wanted:
        length = x.shape[axis]
        position = _TRANSFORMS[coordinates](torch.arange(new, dtype=torch.float32), scale, length, new)
        taps = position.floor()[:, None] + torch.arange(-1.0, 3.0)
        far = (position[:, None] - taps).abs()
        near = ((bend + 2) * far - (bend + 3)) * far * far + 1
        beyond = ((bend * far - 5 * bend) * far + 8 * bend) * far - 4 * bend
        weight = torch.where(far <= 1, near, torch.where(far < 2, beyond, 0.0))
        if exclude:
            weight = weight * ((taps >= 0) & (taps < length))
            weight = weight / weight.sum(1, keepdim=True)
        matrix = torch.zeros(new, length).scatter_add_(1, taps.clamp(0, length - 1).to(torch.int64), weight)
        x = (x.movedim(axis, -1) @ matrix.T.to(x.device, x.dtype)).movedim(-1, axis)
    return x


OPERATORS: Final = {
    "Resize": Operator(
        build=resize, summary="Interpolation by nearest neighbour, linearly or cubically, to scales or sizes."
    ),
    "Upsample": Operator(build=upsample, summary="Interpolation by nearest neighbour or linearly, to scales."),
}
