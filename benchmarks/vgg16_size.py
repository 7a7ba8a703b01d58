"""A file of 553 MB: load, groups, cut and save, with the time and the memory that they take.

    python -m benchmarks.vgg16_size

VGG-16 for 224 x 224 images and 1,000 classes with random weights; magnitude scores, half the FLOPs. Memory is the
peak resident size of a fresh process that does nothing else, against the size of the file. The bounds: 10 s, 5 times.
"""

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.setting import host_line, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="an existing file instead of a new VGG-16")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _measure(arguments.file)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "vgg16.onnx"
        if arguments.file is None:
            subprocess.run([sys.executable, "-c", _EXPORT, str(path)], check=True, stdout=subprocess.DEVNULL)
        print(f"{host_line()}, {path.stat().st_size / 1e6:.0f} MB\n")
        subprocess.run([sys.executable, "-m", __spec__.name, "--worker", "--file", str(path)], check=True)


_EXPORT = """
import sys
from benchmarks.networks import Vgg16, export, seeded
network = seeded(lambda: Vgg16(num_classes=1000, side=224, hidden=4096, norm=False))
open(sys.argv[1], "wb").write(export(network, "legacy", folded=True, side=224))
"""


def _measure(path: Path) -> None:
    from workers.pruning.allocation.rank import allocate
    from workers.pruning.graph import cost, load, save
    from workers.pruning.groups.cost_model import cost_model
    from workers.pruning.groups.find import find
    from workers.pruning.scores.magnitude import magnitude
    from workers.pruning.surgery.cut import cut
    from workers.pruning.types import Budget, Metric

    file_bytes = path.stat().st_size
    rows: list[list[object]] = []
    begun = started = _now()

    def note(step: str) -> None:
        nonlocal started
        now = _now()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        rows.append([step, *(b - a for a, b in zip(started, now, strict=True)), peak / 1e6, peak / file_bytes])
        started = now

    graph = load.load(path)
    note("load")
    grouping = find(graph)
    model = cost_model(graph, grouping)
    note("groups")
    before = cost.count(graph)
    scores = magnitude(graph, grouping)
    note("magnitude scores")
    keep = allocate(scores, grouping, model, [Budget(metric=Metric.MACS, limit=before.macs / 2)], alpha=1.0)
    note("allocate")
    smaller = cut(graph, grouping, keep)
    note("cut")
    with contextlib.closing(io.BytesIO()) as sink:
        sink.write(save.to_bytes(smaller))
        note("save")
    rows.append(["all", *(b - a for a, b in zip(begun, _now(), strict=True)), *rows[-1][3:]])
    table(("step", "seconds", "CPU seconds", "peak MB so far", "x file"), rows)


def _now() -> tuple[float, float]:
    """Wall clock, and processor time, which other work on the machine does not stretch as much."""
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
