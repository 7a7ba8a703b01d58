"""How a stored sample becomes the network's input: `(x * scale - mean) / std`, then the network's layout.

What is not given is inferred from the network's input shape and the data's dtype; what was applied is stated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from workers.pruning.errors import InvalidDataset
from workers.pruning.types import AnyArray, Json, TensorSpec

KEYS: Final = ("scale", "mean", "std", "layout", "channel_order", "resize")
LAYOUTS: Final = ("NHWC", "NCHW")
CHANNEL_ORDERS: Final = ("RGB", "BGR")
IMAGE_CHANNELS: Final = (1, 3, 4)
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The keys of a preprocessing object that were given; None where they were not."""

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    channel_order: str | None = None
    resize: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Everything that is done to a stored sample before the network sees it."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str | None  # of the stored samples; None where they have no image axes
    network_layout: str | None
    channel_order: str
    resize: tuple[int, int] | None
    dtype: str  # what the network takes
    add_channel: bool = False  # stored samples are (H, W)
    inferred: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Json]:
        """Return what was applied, in the words of the API."""
        return {
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "layout": self.layout,
            "network_layout": self.network_layout,
            "channel_order": self.channel_order,
            "resize": None if self.resize is None else list(self.resize),
            "inferred": list(self.inferred),
        }

    def apply(self, stored: AnyArray) -> AnyArray:
        """Turn stored samples into the network's input.

        Shapes: (N, ...) as stored, after `resize_rows` -> (N, ...) as the network takes them; a new array.
        """
        rows = stored[..., np.newaxis] if self.add_channel else stored
        channel_axis = self._channel_axis(rows.ndim)
        if self.channel_order == "BGR":
            rows = np.flip(rows, axis=channel_axis)
        if np.dtype(self.dtype).kind == "f":
            rows = self._normalise(rows, channel_axis)
        if self.layout is not None and self.layout != self.network_layout:
            rows = np.moveaxis(rows, -1, 1) if self.layout == "NHWC" else np.moveaxis(rows, 1, -1)
        return np.array(rows, dtype=self.dtype, order="C", copy=None if rows is not stored else True)

    def _channel_axis(self, rank: int) -> int:
        return 1 if self.layout == "NCHW" else rank - 1

    def _normalise(self, rows: AnyArray, channel_axis: int) -> npt.NDArray[np.float32]:
        values = rows.astype(np.float32)
        if self.scale != 1.0:
            values *= np.float32(self.scale)
        for amounts, operation in ((self.mean, np.subtract), (self.std, np.divide)):
            if set(amounts) != {0.0 if operation is np.subtract else 1.0}:
                shape = [1] * values.ndim
                shape[channel_axis] = len(amounts)
                operation(values, np.array(amounts, dtype=np.float32).reshape(shape), out=values)
        return values


def parse(given: Mapping[str, object], where: str) -> Wish:
    """Read a preprocessing object, refusing keys and values that mean nothing.

    Raises:
        InvalidDataset: an unknown key or an impossible value, with what is allowed.
    """
    for key in given:
        if key not in KEYS:
            raise InvalidDataset("Unknown preprocessing key", where=where, actual=key, allowed=", ".join(KEYS))
    values = {key: value for key, value in given.items() if value is not None}
    return Wish(
        scale=_number(values["scale"], f"{where}.scale") if "scale" in values else None,
        mean=_numbers(values["mean"], f"{where}.mean") if "mean" in values else None,
        std=_nonzero(_numbers(values["std"], f"{where}.std"), f"{where}.std") if "std" in values else None,
        layout=_word(values.get("layout"), LAYOUTS, f"{where}.layout"),
        channel_order=_word(values.get("channel_order"), CHANNEL_ORDERS, f"{where}.channel_order"),
        resize=_size(values["resize"], f"{where}.resize") if "resize" in values else None,
    )


def merge(job: Wish, stored: Wish) -> Wish:
    """Take each key from the job, and from the archive's own member where the job is silent."""
    chosen = {key: mine if (mine := getattr(job, key)) is not None else getattr(stored, key) for key in KEYS}
    return Wish(**chosen)


def network_layout(shape: Shape) -> str | None:
    """Say where an input of rank 4 has its channels; None for other ranks.

    ONNX does not record it. Axis 1 is the convention of its operators; only a last axis of 1, 3 or 4 beside a first
    that is none of these speaks for NHWC (exports of TensorFlow).
    """
    if len(shape) != 4:
        return None
    return "NHWC" if shape[1] not in IMAGE_CHANNELS and shape[3] in IMAGE_CHANNELS else "NCHW"


def image_size(shape: Shape) -> tuple[int | None, int | None, int | None]:
    """Return (height, width, channels) that an input of rank 4 asks for; None where it leaves them open."""
    axes = (1, 2, 3) if network_layout(shape) == "NHWC" else (2, 3, 1)
    height, width, channels = (length if isinstance(length := shape[axis], int) else None for axis in axes)
    return height, width, channels


def infer(wish: Wish, spec: TensorSpec, sample: tuple[int, ...], dtype: np.dtype[np.generic]) -> Preprocessing:
    """Complete a wish from the network's input and the data.

    Shapes: `sample` is one stored sample, without the leading N.

    Raises:
        InvalidDataset: the samples cannot become this input; states both shapes.
    """
    to_float = np.dtype(spec.dtype).kind == "f"
    if not to_float:
        require_untouched(wish, spec, dtype)
    layout, add_channel = infer_layout(wish, spec, sample)
    channels = num_channels(sample, layout, add_channel=add_channel)
    scale = wish.scale if wish.scale is not None else 1 / 255 if dtype == np.uint8 and to_float else 1.0
    if wish.channel_order == "BGR" and (layout is None or channels != 3):
        raise InvalidDataset("channel_order needs samples with 3 channels", actual=f"samples {list(sample)}")
    return Preprocessing(
        scale=scale,
        mean=fit_channels(wish.mean if wish.mean is not None else (0.0,), channels, "preprocessing.mean"),
        std=fit_channels(wish.std if wish.std is not None else (1.0,), channels, "preprocessing.std"),
        layout=layout,
        network_layout=network_layout(spec.shape),
        channel_order=wish.channel_order or "RGB",
        resize=infer_resize(wish, spec, sample, layout, add_channel=add_channel),
        dtype=spec.dtype,
        add_channel=add_channel,
        inferred=tuple(key for key in KEYS if getattr(wish, key) is None),
    )


def require_untouched(wish: Wish, spec: TensorSpec, dtype: np.dtype[np.generic]) -> None:
    """Refuse floats and normalisation for a network that takes integers."""
    if dtype.kind == "f" or (dtype != np.dtype(spec.dtype) and not np.can_cast(dtype, np.dtype(spec.dtype))):
        raise InvalidDataset(
            "The samples have another dtype than the network's input",
            where=f"input {spec.name!r}",
            actual=str(dtype),
            allowed=spec.dtype,
        )
    if wish.scale is not None or wish.mean is not None or wish.std is not None:
        raise InvalidDataset(
            "The network takes integers, so scale, mean and std cannot be applied", where=f"input {spec.name!r}"
        )


def infer_layout(wish: Wish, spec: TensorSpec, sample: tuple[int, ...]) -> tuple[str | None, bool]:
    """Return the layout of the stored samples and whether they lack a channel axis."""
    wanted = network_layout(spec.shape)
    if wanted is None:
        if len(sample) != len(spec.shape) - 1 or not fits(sample, spec.shape[1:]):
            raise wrong_shape(spec, sample)
        if wish.layout is not None or wish.resize is not None:
            raise InvalidDataset(
                "layout and resize are for networks that take images", actual=f"input {spec.name!r} {list(spec.shape)}"
            )
        return None, False
    height, width, channels = image_size(spec.shape)
    if len(sample) == 2 and channels in {1, None}:
        return "NHWC", True
    if len(sample) != 3:
        raise wrong_shape(spec, sample)
    open_size = (None, None) if wish.resize is not None else (height, width)
    as_layout: dict[str, Shape] = {"NHWC": (*open_size, channels), "NCHW": (channels, *open_size)}
    for layout in (wish.layout,) if wish.layout else (wanted, *LAYOUTS):
        if fits(sample, as_layout[layout]):
            return layout, False
    raise wrong_shape(spec, sample)


def infer_resize(
    wish: Wish, spec: TensorSpec, sample: tuple[int, ...], layout: str | None, *, add_channel: bool
) -> tuple[int, int] | None:
    """Return the size that samples are resized to, or None if they have it already."""
    if layout is None:
        return None
    stored = sample if add_channel or layout == "NHWC" else sample[1:]
    wanted = wish.resize or stored[:2]
    if not fits(wanted, image_size(spec.shape)[:2]):
        raise wrong_shape(spec, sample, resize=wish.resize)
    return None if wanted == stored[:2] else (wanted[0], wanted[1])


def num_channels(sample: tuple[int, ...], layout: str | None, *, add_channel: bool) -> int:
    """Return how many values mean and std may have."""
    if add_channel:
        return 1
    if layout is None:
        return sample[-1] if sample else 1
    return sample[0] if layout == "NCHW" else sample[-1]


def fit_channels(values: tuple[float, ...], channels: int, where: str) -> tuple[float, ...]:
    """Refuse a list that has neither one value nor one per channel."""
    if len(values) not in {1, channels}:
        raise InvalidDataset(
            "Wrong number of values",
            where=where,
            actual=len(values),
            allowed=f"1, or one for each of {channels} channels",
        )
    return values


def fits(actual: Sequence[int], wanted: Shape) -> bool:
    """Say whether a shape is one of those that a specification leaves open."""
    return len(actual) == len(wanted) and all(
        not isinstance(asked, int) or asked == length for length, asked in zip(actual, wanted, strict=True)
    )


def wrong_shape(spec: TensorSpec, sample: tuple[int, ...], resize: tuple[int, int] | None = None) -> InvalidDataset:
    """Give the error for samples that do not fit the network's input."""
    resized = f" resized to {list(resize)}" if resize else ""
    return InvalidDataset(
        "The samples do not fit the network's input",
        where=f"input {spec.name!r}",
        actual=f"samples of shape {list(sample)}{resized}",
        allowed=f"{list(spec.shape)} without its first axis; images also with channels last",
        advice='Other image sizes need "resize": [height, width] in preprocessing; a wrong layout needs "layout".',
    )


def resize_rows(rows: AnyArray, size: tuple[int, int], layout: str) -> AnyArray:
    """Resize stored samples bilinearly, channel by channel, with antialiasing (Pillow); uint8 stays uint8.

    Shapes: (N, H, W), (N, H, W, C) or, for layout NCHW, (N, C, H, W); returns the same with H, W = size.
    """
    last = rows[..., np.newaxis] if rows.ndim == 3 else np.moveaxis(rows, 1, -1) if layout == "NCHW" else rows
    kept: np.dtype[np.generic] = np.dtype(np.uint8) if rows.dtype == np.uint8 else np.dtype(np.float32)
    resized = np.empty((len(last), *size, last.shape[-1]), dtype=kept)
    for row, sample in enumerate(last):
        for channel in range(last.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(sample[..., channel], dtype=kept))
            resized[row, ..., channel] = np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    if rows.ndim == 3:
        return resized[..., 0]
    return np.ascontiguousarray(np.moveaxis(resized, -1, 1)) if layout == "NCHW" else resized


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidDataset("Not a finite number", where=where, actual=repr(value))
    return float(value)


def _numbers(value: object, where: str) -> tuple[float, ...]:
    values = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise InvalidDataset("An empty list", where=where, allowed="a number, or one per channel")
    return tuple(_number(item, where) for item in values)


def _nonzero(values: tuple[float, ...], where: str) -> tuple[float, ...]:
    if 0.0 in values:
        raise InvalidDataset("A standard deviation of zero", where=where, allowed="numbers other than 0")
    return values


def _word(value: object, allowed: Sequence[str], where: str) -> str | None:
    if value is not None and value not in allowed:
        raise InvalidDataset("Unknown value", where=where, actual=repr(value), allowed=", ".join(allowed))
    return cast("str | None", value)


def _size(value: object, where: str) -> tuple[int, int]:
    sizes = cast("list[object]", value) if isinstance(value, list | tuple) else []
    if len(sizes) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 8192 for n in sizes):
        raise InvalidDataset("Not a size", where=where, actual=repr(value), allowed="[height, width], each 1 to 8192")
    return cast("int", sizes[0]), cast("int", sizes[1])
