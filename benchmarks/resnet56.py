"""ResNet-56, CIFAR-10, half the MACs: how much accuracy each stage keeps, for four exports of the same network.

    python -m benchmarks.resnet56 [--seeds 0 1 2] [--exports legacy_bn ...] [--steps N] [--held-out]

Data: 4,000 lossless training images; judged on the 1,000 lossless test images. `--held-out` judges on 500 of the
training images instead, which is what every choice of the recipe was made with.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.setting import CIFAR_PREPROCESSING, bare_run, cifar, data_dir, host_line, table
from workers.pipeline import prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Json

EXPORTS = ("legacy_bn", "legacy_bnfolded", "dynamo_bn", "dynamo_bnfolded")
HEADER = (
    "export",
    "seed",
    "MACs",
    "base",
    "raw",
    "compensated",
    "fine-tuned",
    "agreement",
    "latency",
    "steps",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet56_cifar10")
    parser.add_argument("--exports", nargs="+", default=list(EXPORTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--held-out", action="store_true")
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread; {'500 held-out training' if arguments.held_out else '1,000 test'} images\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = cifar(Path(folder), held_out=arguments.held_out)
        for export in arguments.exports:
            for seed in arguments.seeds:
                rows.append(_row(arguments, export, seed, data, Path(folder)))
                print(rows[-1], flush=True)
    print()
    table(HEADER, rows)


def _row(arguments: argparse.Namespace, export: str, seed: int, data: Path, folder: Path) -> list[object]:
    spec = PruneSpec(
        target_sets=((Target(metric="flops", ratio=arguments.ratio),),),
        method=arguments.method,
        preprocessing=CIFAR_PREPROCESSING,
        finetune=FinetuneSettings(steps=arguments.steps, learning_rate=arguments.learning_rate),
        round_to=arguments.round_to or None,
    )
    network = data_dir() / "models" / f"{arguments.network}_{export}.onnx"
    started = time.perf_counter()
    result = prune(spec, network=network, dataset=data, out=folder / export, run=bare_run(seed, shown=True))
    seconds = time.perf_counter() - started
    before, after = _figures(result["before"]), _figures(result["after"])
    stages = {point["stage"]: point["accuracy"] for point in result["curve"] if "accuracy" in point}
    return [
        export,
        seed,
        after["macs"] / before["macs"],
        *(f"{100 * accuracy:.1f}" for accuracy in (before["accuracy"], stages["raw"])),
        f"{100 * stages.get('compensated', stages.get('recalibrated')):.1f}",
        f"{100 * after['accuracy']:.1f}",
        after["agreement"],
        after["latency_ms"] / before["latency_ms"],
        result["finetune"]["steps"],
        seconds,
    ]


def _figures(side: Json) -> Mapping[str, float]:
    assert isinstance(side, Mapping)
    return side


if __name__ == "__main__":
    main()
