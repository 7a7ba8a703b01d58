"""What is pruned: networks, their images, and the same networks as torch modules for the tools that need these."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.deciding import images, rebuilt
from benchmarks.deciding.images import Images, Labelled
from benchmarks.deciding.trained import base_network
from benchmarks.networks import NETWORKS, conv_bn, export, seeded
from benchmarks.setting import CIFAR_PREPROCESSING, data_dir
from workers.pruning.types import Json

JUDGED_INSIDE: Final = 200  # held-out images that the product judges by itself, so that its judging costs little
CRACK_SIDE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A network and its images."""

    name: str
    network: Callable[[Path], Path]  # cache -> ONNX file
    images: Callable[[Path], Images]
    preprocessing: Mapping[str, Json]
    module: Callable[[Path], nn.Module] | None = None  # cache -> the same in torch; None: no tool prunes it
    interiors: tuple[str, ...] = ()  # ends of names of layers that a tool may prune; empty: all
    side: int = 32
    folded: Callable[[Path], Path] | None = None  # the export with BatchNormalization folded, where there is one


def dataset(subject: Subject, cache: Path, *, num_train: int | None = None) -> Path:
    """The file that a user would upload: training images, and a few held-out ones; made once."""
    path = cache / f"{subject.name}-{num_train or 'all'}.npz"
    if not path.exists():
        whole = subject.images(cache)
        few = replace(whole, held_out=whole.held_out.part(slice(None, JUDGED_INSIDE)))
        images.write_dataset(images.partial(path), few, num_train=num_train)
        images.partial(path).replace(path)
    return path


def crack_images(cache: Path) -> Images:
    """Brick walls with and without cracks: 500 images train, 100 are held out, 100 test, as their source has it."""
    path = cache / "crack.npz"
    if not path.exists():
        np.savez(images.partial(path), **_read_cracks())  # type: ignore[arg-type]  # a stub takes a keyword for an option
        images.partial(path).replace(path)
    with np.load(path) as arrays:
        parts = {name: Labelled(x=arrays[f"{name}_x"], y=arrays[f"{name}_y"]) for name in ("train", "val", "test")}
    return Images(train=parts["train"], held_out=parts["val"], tests={"test": parts["test"]})


def _read_cracks() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(data_dir() / "crack_brickwork_700.zip") as archive:
        for split in ("train", "val", "test"):
            names = sorted(name for name in archive.namelist() if name.startswith(f"{split}/") and name.endswith("jpg"))
            pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
            sized = [np.asarray(one.resize((CRACK_SIDE, CRACK_SIDE), Image.Resampling.BILINEAR)) for one in pictures]
            order = np.random.default_rng(0).permutation(len(names))
            arrays[f"{split}_x"] = np.stack(sized)[order]
            arrays[f"{split}_y"] = np.asarray([int("/crack/" in name) for name in names], np.int64)[order]
    return arrays


def _stored(name: str) -> Callable[[Path], Path]:
    return lambda _: data_dir() / "models" / name


def _resnet(depth: int, weights: str) -> Callable[[Path], nn.Module]:
    return lambda _: rebuilt.with_weights(rebuilt.CifarResNet(depth), data_dir() / "models" / weights)


def _trained(name: str) -> dict[str, Callable[[Path], object]]:
    return {
        "network": lambda cache: base_network(name, cache),
        "module": lambda cache: rebuilt.with_weights(NETWORKS[name](), base_network(name, cache)),
    }


def _untrained(name: str, build: Callable[[], nn.Module], side: int, channels: int) -> Callable[[Path], Path]:
    def made(cache: Path) -> Path:
        path = cache / f"{name}_untrained.onnx"
        if not path.exists():
            path.write_bytes(export(seeded(build), "legacy", folded=False, side=side, channels=channels))
        return path

    return made


class _Tiny(nn.Module):
    """Three convolutions for 8 x 8 images: for trying the harness out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 8), conv_bn(8, 8), nn.MaxPool2d(2), conv_bn(8, 12))
        self.head = nn.Linear(12, 10)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(values).mean((2, 3)))


def _tiny_images(_: Path) -> Images:
    rng = np.random.default_rng(0)
    whole = Labelled(x=rng.integers(0, 256, (400, 8, 8, 3), dtype=np.uint8), y=np.arange(400, dtype=np.int64) % 10)
    return Images(
        train=whole.part(slice(0, 200)),
        held_out=whole.part(slice(200, 300)),
        tests={"test": whole.part(slice(300, 400))},
    )


def _digits() -> nn.Module:
    return rebuilt.SmallConvNet(1, 28, (16, 32), 128)


def _pictures() -> nn.Module:
    return rebuilt.SmallConvNet(3, 32, (32, 64), 256)


CIFAR: Final = {"images": images.cifar_jpeg, "preprocessing": CIFAR_PREPROCESSING}
GREY: Final[Mapping[str, Json]] = {"scale": 1 / 255, "mean": [0.1307], "std": [0.3081], "layout": "NCHW"}
INTERIORS: Final = (".conv1",)

SUBJECTS: Final[Mapping[str, Subject]] = {
    subject.name: subject
    for subject in (
        Subject(
            name="resnet56",
            network=_stored("resnet56_cifar10jpeg_legacy_bn.onnx"),
            folded=_stored("resnet56_cifar10jpeg_dynamo_bnfolded.onnx"),
            module=_resnet(56, "resnet56_cifar10jpeg.safetensors"),
            interiors=INTERIORS,
            **CIFAR,
        ),
        Subject(
            name="resnet20",
            network=_stored("resnet20_cifar10_legacy_bn.onnx"),
            folded=_stored("resnet20_cifar10_dynamo_bnfolded.onnx"),
            module=_resnet(20, "resnet20_cifar10.safetensors"),
            interiors=INTERIORS,
            images=lambda _: images.cifar_lossless(),
            preprocessing=CIFAR_PREPROCESSING,
        ),
        Subject(name="vgg16", **CIFAR, **_trained("vgg16")),
        Subject(name="mobilenetv2", **CIFAR, **_trained("mobilenetv2")),
        Subject(
            name="crackcnn",
            network=_stored("crackcnn_brickwork_legacy_bn.onnx"),
            images=crack_images,
            preprocessing={"scale": 1 / 255, "layout": "NHWC"},
            side=CRACK_SIDE,
        ),
        Subject(
            name="small_mnist",
            network=_untrained("small_mnist", _digits, 28, 1),
            images=lambda _: images.mnist(),
            preprocessing=GREY,
            side=28,
        ),
        Subject(name="small_cifar", network=_untrained("small_cifar", _pictures, 32, 3), **CIFAR),
        Subject(
            name="tiny",
            network=_untrained("tiny", _Tiny, 8, 3),
            module=lambda cache: rebuilt.with_weights(_Tiny(), _untrained("tiny", _Tiny, 8, 3)(cache)),
            images=_tiny_images,
            preprocessing=CIFAR_PREPROCESSING,
            side=8,
        ),
    )
}


def digest(path: Path) -> str:
    """Name the network that was pruned beyond doubt."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
