"""Base networks that the harness trains by itself on CIFAR-10, because no checkpoint of them is at hand.

    python -m benchmarks.deciding.trained vgg16 mobilenetv2 [--minutes 45] [--threads 1] [--cache FOLDER]

A training that runs out of minutes is kept and goes on at the next call; a network is used only once it is finished.
What it was trained for, and how good it became, is written beside it.
"""

import argparse
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.deciding.images import Labelled, cache_dir, cifar_jpeg
from benchmarks.networks import NETWORKS, export
from benchmarks.setting import CIFAR_PREPROCESSING
from workers.pruning.types import Json

BATCH: Final = 128
WARM_UP: Final = 0.15  # of the training, linearly up to the peak rate
SMALL_SIDE: Final = 24
SHIFT: Final = 3  # pixels
SECONDS_BETWEEN_SAVES: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schooling:
    """How a base network is trained."""

    epochs: float
    minutes: float
    peak_rate: float
    weight_decay: float = 5e-4
    small_share: float = 0.0  # of the training on images scaled to SMALL_SIDE: a little over half the arithmetic
    seed: int = 0
    device: str = "cpu"


SCHOOLING: Final[Mapping[str, Schooling]] = {
    "vgg16": Schooling(epochs=4, minutes=45, peak_rate=0.05),
    "mobilenetv2": Schooling(epochs=3, minutes=25, peak_rate=0.05, small_share=0.6),
}


class Unfinished(Exception):
    """A network whose training was interrupted; the next call goes on with it."""


def base_network(name: str, cache: Path, *, schooling: Schooling | None = None) -> Path:
    """Give the ONNX file of a network trained on the 45,000 training images; trained once, then taken from the cache.

    Raises:
        Unfinished: the minutes ended before the epochs; what was learnt is kept for the next call.
    """
    path, state = cache / f"{name}_cifar10jpeg.onnx", cache / f"{name}_cifar10jpeg.part.safetensors"
    if path.exists():
        return path
    images, schooling = cifar_jpeg(cache), schooling or SCHOOLING[name]
    torch.manual_seed(schooling.seed)
    network = NETWORKS[name]()
    notes = learn(network, images.train, schooling, state)
    if notes is None:
        raise Unfinished(f"{name} needs more than {schooling.minutes:g} minutes; call again to go on")
    network.to("cpu").float().to(memory_format=torch.contiguous_format)
    notes |= {"network": name, "held_out": accuracy(network, images.held_out)}
    notes |= {test: accuracy(network, held) for test, held in images.tests.items()}
    path.with_suffix(".json").write_text(json.dumps(notes, indent=2) + "\n")
    partial = path.with_suffix(".writing")
    partial.write_bytes(export(network, "legacy", folded=False))
    partial.replace(path)
    state.unlink(missing_ok=True)
    return path


def learn(network: nn.Module, images: Labelled, schooling: Schooling, state: Path) -> dict[str, Json] | None:
    """Train from random weights; gives notes, or None where the minutes ended first and `state` holds the rest.

    SGD with Nesterov momentum, cross-entropy, flips and shifts, bfloat16, channels last. Every draw depends on the seed
    and the step alone, so a training that was interrupted goes on as if it had not been.
    """
    network.to(schooling.device, memory_format=torch.channels_last).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schooling.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    steps_per_epoch = len(images.y) // BATCH
    total, started = max(1, round(schooling.epochs * steps_per_epoch)), time.perf_counter()
    step, before = _restored(network, optimizer, state)
    saved = started
    while step < total:
        now = time.perf_counter()
        if now - saved > SECONDS_BETWEEN_SAVES or now - started > 60 * schooling.minutes:
            _save(network, optimizer, state, step, before + now - started)
            saved = now
            print(f"step {step} of {total}, {(now - started) / 60:.1f} min", flush=True)
            if now - started > 60 * schooling.minutes:
                return None
        order = np.random.default_rng([schooling.seed, step // steps_per_epoch]).permutation(len(images.y))
        chosen = order[step % steps_per_epoch * BATCH :][:BATCH]
        for group in optimizer.param_groups:
            group["lr"] = schooling.peak_rate * rate(step / total)
        rng = np.random.default_rng([schooling.seed, 1, step])
        views = viewed(images.x[chosen], rng, small=step < schooling.small_share * total).to(schooling.device)
        _step(network, optimizer, views, torch.from_numpy(images.y[chosen]).to(schooling.device))
        step += 1
    network.eval()
    seconds = before + time.perf_counter() - started
    return {"steps": total, "batch": BATCH, "epochs": total / steps_per_epoch, "seconds": seconds}


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path, step: int, seconds: float) -> None:
    momentum = {f"momentum/{key}": entry["momentum_buffer"] for key, entry in optimizer.state_dict()["state"].items()}
    held = {name: value.contiguous() for name, value in {**network.state_dict(), **momentum}.items()}
    partial = path.with_suffix(".writing")
    save_file({**held, "step": torch.tensor(step), "seconds": torch.tensor(seconds)}, partial)
    partial.replace(path)


def _restored(network: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    held = load_file(path)
    network.load_state_dict({name: held[name] for name in network.state_dict()})
    state = {int(name.split("/")[1]): {"momentum_buffer": held[name]} for name in held if name.startswith("momentum/")}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(held["step"]), float(held["seconds"])


def rate(fraction: float) -> float:
    """Up linearly, then a cosine down to zero."""
    if fraction < WARM_UP:
        return fraction / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (fraction - WARM_UP) / (1 - WARM_UP)))


def viewed(pixels: np.ndarray, rng: np.random.Generator, *, small: bool) -> Tensor:
    """Normalise, flip half of the images, shift each by a few pixels, and scale down where training is young."""
    images = normalised(pixels)
    flipped = torch.from_numpy(rng.random(len(images)) < 0.5)
    images[flipped] = images[flipped].flip(3)
    side = images.shape[-1]
    padded = functional.pad(images, (SHIFT,) * 4)
    for number, (down, right) in enumerate(rng.integers(0, 2 * SHIFT + 1, (len(images), 2))):
        images[number] = padded[number, :, down : down + side, right : right + side]
    if small:
        images = functional.interpolate(images, size=(SMALL_SIDE, SMALL_SIDE), mode="area")
    return images.contiguous(memory_format=torch.channels_last)


def normalised(pixels: np.ndarray) -> Tensor:
    """Give images as the network takes them: (N, 3, H, W), float32."""
    mean, std = (torch.tensor(CIFAR_PREPROCESSING[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def accuracy(network: nn.Module, images: Labelled) -> float:
    """Share of images that are named rightly, float32."""
    device = next(network.parameters()).device
    right = 0
    with torch.no_grad():
        for start in range(0, len(images.y), 500):
            outputs = network(normalised(images.x[start : start + 500]).to(device))
            right += int((outputs.argmax(1).cpu() == torch.from_numpy(images.y[start : start + 500])).sum())
    return right / len(images.y)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16):
        outputs = network(images)
    loss = functional.cross_entropy(outputs.float(), labels, label_smoothing=0.1)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", choices=sorted(SCHOOLING))
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--epochs", type=float, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        schooling = replace(SCHOOLING[name], device=arguments.device)
        if arguments.minutes is not None:
            schooling = replace(schooling, minutes=arguments.minutes)
        if arguments.epochs is not None:
            schooling = replace(schooling, epochs=arguments.epochs)
        try:
            path = base_network(name, cache_dir(arguments.cache), schooling=schooling)
        except Unfinished as left:
            print(left, flush=True)
        else:
            print(f"{path}\n{path.with_suffix('.json').read_text()}", flush=True)


if __name__ == "__main__":
    main()
