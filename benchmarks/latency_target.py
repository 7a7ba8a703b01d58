"""Half the latency of the original on this machine, one thread: how near, after how many corrections, at what accuracy.

    python -m benchmarks.latency_target [--networks resnet56 ...] [--ratio 0.5] [--train] [--seconds 10] [--into FILE]

Each network is pruned with `latency=50%@dev_local` in the closed loop: plan on predictions, measure beside the
original, correct, plan again. Networks that know CIFAR-10 (ResNet-56, ResNet-20, winml_cifar10; VGG-16 and MobileNetV2
where `python -m benchmarks.deciding.trained` has trained them) are pruned by `auto` with 4,000 lossless training images
and judged on the 1,000 test images, the others, whose weights are random or whose data we lack, by magnitude.
*of target* lists every measured plan; the bounds are 0.95 to 1 for the last one and three corrections.

Then the plan that knows FLOPs alone: the same scores, score per MAC with the default rounding, at the largest share of
MACs whose network is measured no slower than ours (eight halvings, each timed in turn with the original). Accuracy of
both after compensation, and with `--train` after fine-tuning. The finished networks are timed once more in turn. All
ratios are of runs side by side, as the product judges a target that is a share of the original.

Every network that is done is a line of FILE; the same command goes on behind the last one, and prints all of them.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.deciding.images import cache_dir
from benchmarks.latency_subjects import SUBJECTS
from benchmarks.resumed import Resumed
from benchmarks.setting import CIFAR_PREPROCESSING, bare_run, cifar, host_line, table
from workers.pipeline import prepare
from workers.prune_spec import PruneSpec, Target
from workers.pruning.graph import cost
from workers.pruning.graph.open_batch import close_batch
from workers.pruning.graph.save import to_bytes
from workers.pruning.measure.latency import measure
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.methods import METHODS
from workers.pruning.methods.in_turn import by_ratio
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Json, LatencyBudget, Metric

PIXELS: Final[Mapping[str, Mapping[str, Json]]] = {
    "winml_cifar10": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "layout": "NHWC"},
    **dict.fromkeys(("resnet56", "resnet20", "vgg16", "mobilenetv2"), CIFAR_PREPROCESSING),
}
TRAINED_HERE: Final = ("vgg16", "mobilenetv2")
NETWORKS: Final = ("resnet56", "resnet20", "mobilenetv2", "vgg16", "ultraface_rfb320", "winml_cifar10")
DEVICE: Final = "dev_local"
HALVINGS: Final = 8


@dataclass(slots=True, kw_only=True)
class Rival:
    """The plan that knows FLOPs alone, as slow as ours."""

    task: Task
    share: float  # of the MACs
    content: bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(SUBJECTS))
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=10.0, help="per question about whole networks")
    parser.add_argument("--layer-seconds", type=float, default=4.0, help="per 64 rows of the table")
    parser.add_argument("--into", type=Path, default=Path(tempfile.gettempdir()) / "latency_target.jsonl")
    parser.add_argument("--train", action="store_true", help="fine-tune both, with the default recipe")
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread, batch 1, latency target {arguments.ratio:g}\n")
    watch = LocalStopwatch(layer_seconds=arguments.layer_seconds, network_seconds=arguments.seconds)
    done = Resumed(path=arguments.into, settings=f"{arguments.ratio} {arguments.seconds} {arguments.train}")
    aimed: list[list[object]] = []
    against: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = cifar(Path(folder), held_out=False)
        for name in arguments.networks:
            if (rows := done.found(name)) is None:
                path = _network(name, Path(folder))
                rows = _rows(name, path, data if _knows_cifar(name) else None, watch, arguments)
                done.keep(name, rows)
            aimed.append(rows[0])
            against.append(rows[1])
            print(*rows, flush=True)
    print()
    header = ["network", "method", "original, ms", "of target", "corrections", "in window", "prediction error"]
    table([*header, "rows asked", "reused", "steps", "seconds"], aimed)
    print()
    header = [
        "network",
        "MACs, ours",
        "MACs, FLOPs alone",
        "latency, ours",
        "latency, FLOPs alone",
        "interval of the ratio",
    ]
    table([*header, "accuracy, original", "accuracy, ours", "accuracy, FLOPs alone"], against)


def _network(name: str, folder: Path) -> Path:
    if name in TRAINED_HERE and _knows_cifar(name):
        return _base(name)
    path = folder / f"{name}.onnx"
    path.write_bytes(SUBJECTS[name]())
    return path


def _knows_cifar(name: str) -> bool:
    return name in PIXELS and (name not in TRAINED_HERE or _base(name).exists())


def _base(name: str) -> Path:
    return cache_dir() / f"{name}_cifar10jpeg.onnx"


def _rows(
    name: str, path: Path, data: Path | None, watch: LocalStopwatch, arguments: argparse.Namespace
) -> tuple[list[object], list[object]]:
    method = "magnitude" if data is None else "auto"
    spec = PruneSpec(
        target_sets=((Target(metric="flops", ratio=1.0),),),
        method=method,
        preprocessing=None if data is None else PIXELS[name],
        finetune=FinetuneSettings(steps=None if arguments.train and data else 0),
    )
    run = replace(bare_run(shown=True), stopwatches={DEVICE: watch})
    task = prepare(spec, path, data, run)
    budget = LatencyBudget(device=DEVICE, ratio=arguments.ratio)
    started = time.perf_counter()
    ours = METHODS[method](replace(task, latency_budgets=(budget,), step_prefix="ours-"), alpha=1.0)
    seconds = time.perf_counter() - started
    facts: Any = ours.facts["latency"]
    facts = facts[DEVICE]
    plans = ", ".join(f"{plan['of_target']:.3f}" for plan in facts["plans"])
    steps = ", ".join(f"{kind.split()[0]} {step}" for kind, step in facts["steps"].items())
    first = [name, method, facts["original_ms"], plans, facts["corrections"], facts["within_window"]]
    first += [facts["prediction_error"], facts["rows_asked"], facts["rows_reused"], steps, seconds]
    return first, _compared(name, task, ours, method, arguments.seconds)


def _compared(name: str, task: Task, ours: Outcome, method: str, seconds: float) -> list[object]:
    """Ours against FLOPs alone at the same measured latency."""
    mine = _content(task, ours)
    rival = _rival(task, mine, method, seconds)
    theirs = METHODS[method](replace(rival.task, finetune=task.finetune, step_prefix="flops-"), alpha=1.0)
    contents = {"original": to_bytes(task.uploaded), "ours": mine, "flops": _content(task, theirs)}
    timed = measure(contents, budget_seconds=2 * seconds)
    over = [by_ratio(timed["original"], timed[which]).ratio for which in ("ours", "flops")]
    ratio = by_ratio(timed["flops"], timed["ours"]).interval
    interval = "-" if ratio is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
    accuracies = [_accuracy(each) for each in (ours, theirs)] if method == "auto" else ["-", "-"]
    original = _original(task) if method == "auto" else "-"
    return [name, _share(task, ours), rival.share, *over, interval, original, *accuracies]


def _rival(task: Task, mine: bytes, method: str, seconds: float) -> Rival:
    """Halve the way to the largest share of MACs that is measured no slower than ours."""
    low, high = 0.05, 1.0
    best: Rival | None = None
    full, original = float(_macs(task)), to_bytes(task.uploaded)
    for number in range(HALVINGS):
        share = (low + high) / 2
        limited = replace(
            task,
            budgets=(Budget(metric=Metric.MACS, limit=share * full),),
            finetune=FinetuneSettings(steps=0),
            step_prefix=f"rival{number}-",
        )
        outcome = METHODS[method](limited, alpha=1.0, compensate=False)
        content = _content(task, outcome)
        # With the original in turn, as both are timed in the end: what ran before leaves its mark on caches.
        timed = measure({"original": original, "ours": mine, "flops": content}, budget_seconds=seconds)
        if by_ratio(timed["ours"], timed["flops"]).ratio <= 1:
            low, best = share, Rival(task=limited, share=_share(task, outcome), content=content)
        else:
            high = share
    if best is None:
        raise SystemExit("even 5 % of the MACs are slower than ours")
    return best


def _content(task: Task, outcome: Outcome) -> bytes:
    return to_bytes(close_batch(outcome.graph, task.uploaded))


def _macs(task: Task) -> int:
    return cost.count(task.graph).macs


def _share(task: Task, outcome: Outcome) -> float:
    return cost.count(outcome.graph).macs / _macs(task)


def _original(task: Task) -> str:
    accuracy = evaluate(task.uploaded, task.data.validation).accuracy
    return "-" if accuracy is None else f"{100 * accuracy:.1f}"


def _accuracy(outcome: Outcome) -> str:
    stages: Sequence[Any] = outcome.stages
    return ", ".join(f"{stage.name} {100 * stage.evaluation.accuracy:.1f}" for stage in stages[1:])


if __name__ == "__main__":
    main()
