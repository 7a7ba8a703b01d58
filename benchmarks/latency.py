"""Latency in ONNX Runtime, one thread, against MACs: what the default rounding of widths is worth.

    python -m benchmarks.latency [--networks vgg16 mobilenetv2 resnet56] [--round-to 0 1 4 8]

Half the FLOPs, magnitude per MAC, no training: latency depends on widths alone. 0 stands for the default rounding,
which is chosen per group. Runs of the original and the pruned network alternate. Times are in milliseconds; the last of
each three columns is the latency ratio over the MACs ratio, by the wall clock as jobs measure it, and by processor
time, which other work on the machine stretches far less. The bound: with the default rounding it is at most 1.15 for
VGG-16 and MobileNetV2.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.networks import MobileNetV2, Vgg16, export, seeded
from benchmarks.setting import data_dir, host_line, table
from workers.pruning.allocation.rank import allocate
from workers.pruning.graph import cost, load, save
from workers.pruning.graph.runtime import Session, random_inputs
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.measure.latency import measure
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Budget, Metric

HEADER = (
    "network",
    "round_to",
    "MACs",
    "p50 before",
    "p50 after",
    "p50 / MACs",
    "CPU before",
    "CPU after",
    "CPU / MACs",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["vgg16", "mobilenetv2", "resnet56"])
    parser.add_argument("--round-to", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--ratio", type=float, default=0.5)
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread, {arguments.side} x {arguments.side} inputs\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            path = _file(name, Path(folder), arguments.side)
            for round_to in arguments.round_to:
                rows.append(_row(name, path, round_to, arguments.ratio))
                print(rows[-1], flush=True)
    print()
    table(HEADER, rows)


def _file(name: str, folder: Path, side: int) -> Path:
    if name == "resnet56":
        return data_dir() / "models" / "resnet56_cifar10_legacy_bnfolded.onnx"
    networks = {"vgg16": lambda: Vgg16(side=side), "mobilenetv2": lambda: MobileNetV2(side=side)}
    path = folder / f"{name}.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        path.write_bytes(export(seeded(networks[name]), "legacy", folded=True, side=side))
    return path


def _row(name: str, path: Path, round_to: int, ratio: float) -> list[object]:
    graph = load.load(path)
    grouping = find(graph)
    model = cost_model(graph, grouping)
    before = cost.count(graph)
    budget = Budget(metric=Metric.MACS, limit=ratio * before.macs)
    keep = allocate(
        magnitude(graph, grouping), grouping, model, [budget], alpha=1.0, round_to=round_to or None, min_keep=0.1
    )
    smaller = cut(graph, grouping, keep)
    macs = cost.count(smaller).macs / before.macs
    measured = measure({"before": path.read_bytes(), "after": save.to_bytes(smaller)}, threads=1)
    medians = [measured[of].p50_ms for of in ("before", "after")]
    on_cpu = processor_ms([path.read_bytes(), save.to_bytes(smaller)])
    row: list[object] = [name, round_to or "default", macs]
    for before_ms, after_ms in (medians, on_cpu):
        row += [before_ms, after_ms, after_ms / before_ms / macs]
    return row


def processor_ms(networks: list[bytes], rounds: int = 40) -> list[float]:
    """Give the median processor time of a run of each network at batch 1, in turn, one thread."""
    sessions = [Session(content, threads=1) for content in networks]
    inputs = random_inputs(sessions[0].inputs, seed=0)
    samples: list[list[float]] = [[] for _ in networks]
    for _ in range(rounds):
        for session, taken in zip(sessions, samples, strict=True):
            session.run(inputs)
            for _ in range(3):
                started = time.thread_time()
                session.run(inputs)
                taken.append(1e3 * (time.thread_time() - started))
    return [statistics.median(taken) for taken in samples]


if __name__ == "__main__":
    main()
