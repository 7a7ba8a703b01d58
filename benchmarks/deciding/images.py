"""Images of the benchmark, decoded once: CIFAR-10 as JPEG and lossless, MNIST. No choice looks at test images."""

import io
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.setting import data_dir

HELD_OUT: Final = 5000  # the last training images: what choices are made on

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Images as stored, and what they show."""

    x: Pixels
    y: Labels

    def part(self, chosen: slice) -> "Labelled":
        """Give a run of them."""
        return Labelled(x=self.x[chosen], y=self.y[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What networks learn from, what choices are made on, and test sets, which nothing looks at but the last column."""

    train: Labelled
    held_out: Labelled
    tests: dict[str, Labelled]


def cache_dir(given: Path | None = None) -> Path:
    """The folder of everything that is made once: decoded images and networks that the harness trained."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = given or root / "espalier" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cifar_jpeg(cache: Path) -> Images:
    """CIFAR-10 as JPEG: 45,000 images train, 5,000 are held out, 10,000 (and 1,000 lossless ones) test."""
    path = cache / "cifar10_jpeg.npz"
    if not path.exists():
        _decode(path)
    with np.load(path) as arrays:
        whole = Labelled(x=arrays["train_x"], y=arrays["train_y"])
        test = Labelled(x=arrays["test_x"], y=arrays["test_y"])
    return Images(
        train=whole.part(slice(None, -HELD_OUT)),
        held_out=whole.part(slice(-HELD_OUT, None)),
        tests={"test": test, "test_lossless": lossless_test()},
    )


def cifar_lossless() -> Images:
    """CIFAR-10, exact pixels: 3,500 images train, 500 are held out, 1,000 test."""
    with np.load(data_dir() / "cifar10_lossless_5000.npz") as arrays:
        whole = Labelled(x=arrays["train_x"], y=arrays["train_y"].astype(np.int64))
    return Images(
        train=whole.part(slice(None, -500)),
        held_out=whole.part(slice(-500, None)),
        tests={"test": lossless_test()},
    )


def lossless_test() -> Labelled:
    """The 1,000 CIFAR-10 test images of which the exact pixels are known."""
    with np.load(data_dir() / "cifar10_lossless_5000.npz") as arrays:
        return Labelled(x=arrays["test_x"], y=arrays["test_y"].astype(np.int64))


def mnist() -> Images:
    """MNIST with a channel axis: 55,000 images train, 5,000 are held out, 10,000 test."""
    with np.load(data_dir() / "mnist_70000.npz") as arrays:
        whole = Labelled(x=arrays["train_x"][:, None], y=arrays["train_y"].astype(np.int64))
        test = Labelled(x=arrays["test_x"][:, None], y=arrays["test_y"].astype(np.int64))
    return Images(
        train=whole.part(slice(None, -HELD_OUT)), held_out=whole.part(slice(-HELD_OUT, None)), tests={"test": test}
    )


def write_dataset(path: Path, images: Images, *, num_train: int | None = None) -> Path:
    """Write the dataset that a user would upload: training images, and the held-out ones to judge by. No test image."""
    train = images.train.part(slice(None, num_train))
    np.savez(path, x=train.x, y=train.y, x_val=images.held_out.x, y_val=images.held_out.y)
    return path


def partial(path: Path) -> Path:
    """Where this process writes before it is finished: others may make the same file at the same time."""
    return path.with_suffix(f".{os.getpid()}.npz")


def _decode(path: Path) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    with np.load(data_dir() / "cifar10_jpeg_60000.npz") as stored:
        for split in ("train", "test"):
            content, offsets = stored[f"{split}_jpeg"], stored[f"{split}_offset"]
            pairs = itertools.pairwise(offsets)
            pictures = [np.asarray(Image.open(io.BytesIO(content[start:stop].tobytes()))) for start, stop in pairs]
            position = (
                np.argsort(stored[f"{split}_index"], kind="stable") if split == "train" else np.arange(len(pictures))
            )
            arrays[f"{split}_x"] = np.stack(pictures)[position]
            arrays[f"{split}_y"] = stored[f"{split}_y"].astype(np.int64)[position]
    np.savez(partial(path), **arrays)  # type: ignore[arg-type]  # numpy's stub takes a keyword for an option
    partial(path).replace(path)
