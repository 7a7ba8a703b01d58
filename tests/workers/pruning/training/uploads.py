"""Small uploads, valid by default: archives of arrays, of images, of anything."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from workers.pruning.types import TensorSpec

IMAGE_INPUT = (TensorSpec(name="input", dtype="float32", shape=("batch", 3, 8, 8)),)
GREY_INPUT = (TensorSpec(name="input", dtype="float32", shape=(1, 1, 8, 8)),)


def npz(path: Path, **arrays) -> Path:
    """Write arrays as a user would; `x` and `y` are there unless given as None."""
    rng = np.random.default_rng(0)
    held = {"x": rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), "y": np.arange(20) % 4, **arrays}
    file = path / "data.npz"
    np.savez_compressed(file, **{name: array for name, array in held.items() if array is not None})
    return file


def archive(path: Path, members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of the members given."""
    file = path / "data.zip"
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file


def picture(
    value: int | tuple[int, ...] = 0, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "PNG"
) -> bytes:
    """Encode an image of one colour; `size` is (width, height)."""
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, kind)
    return stream.getvalue()


def noise(*, kind: str = "PNG") -> bytes:
    """Encode an image that does not compress: a few kilobytes."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def folders(*names: str, count: int = 3) -> dict[str, bytes]:
    """Give members for `count` images in each folder, grey levels rising."""
    return {f"{name}/{number}.png": picture((10 * number,) * 3) for name in names for number in range(count)}


def refused(error) -> str:
    """Give the words of a refusal."""
    return error.value.message
