"""Every network here at half its FLOPs: what is reached, and whether the result is the same network, only smaller.

    python -m benchmarks.coverage [--networks vgg16 unet ...] [--ratio 0.5]

The given CIFAR and crack networks, and VGG-16, MobileNetV2, a DenseNet and a U-Net of our own with random weights, each
by both torch exporters, BatchNormalization kept and folded. No training: this is about surgery and export. Checked:
MACs between 48 and 50 % at `round_to` 1, names, dtypes and axes of inputs and outputs, the full ONNX checker, ONNX
Runtime with optimisation off and on at two batch sizes, and the metadata.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from benchmarks.networks import NETWORKS, export, seeded
from benchmarks.setting import bare_run, data_dir, host_line, table
from workers.pipeline import prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.training.recipe import FinetuneSettings

GIVEN = ("resnet56_cifar10_*", "resnet20_cifar10_*", "resnet32_cifar10_*", "resnet44_cifar10_*", "crackcnn_*")
HEADER = ("network", "MACs", "params", "file", "torch vs ORT", "masked vs cut", "off vs on", "seconds", "interface")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=None)
    parser.add_argument("--ratio", type=float, default=0.5)
    arguments = parser.parse_args()
    print(f"{host_line()}, one thread, seed 0, flops={100 * arguments.ratio:g}%, round_to 1\n")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in _files(folder, arguments.networks):
            rows.append(_row(path, folder / "out", arguments.ratio))
            print(rows[-1], flush=True)
    print()
    table(HEADER, rows)


def _files(folder: Path, chosen: list[str] | None) -> list[Path]:
    paths = [path for pattern in GIVEN for path in sorted((data_dir() / "models").glob(f"{pattern}.onnx"))]
    paths = [path for path in paths if chosen is None or any(name in path.name for name in chosen)]
    for name, build in NETWORKS.items():
        if chosen is not None and name not in chosen:
            continue
        for exporter in ("dynamo", "legacy"):
            for folded in (False, True):
                path = folder / f"{name}_{exporter}_{'bnfolded' if folded else 'bn'}.onnx"
                with contextlib.redirect_stdout(io.StringIO()):
                    path.write_bytes(export(seeded(build), exporter, folded=folded))
                paths.append(path)
    return paths


def _row(path: Path, out: Path, ratio: float) -> list[object]:
    spec = PruneSpec(
        target_sets=((Target(metric="flops", ratio=ratio),),),
        options={"calibration_samples": 64},
        finetune=FinetuneSettings(steps=0),
        round_to=1,
        measure=False,
    )
    started = time.perf_counter()
    result = prune(spec, network=path, dataset=None, out=out, run=bare_run())
    seconds = time.perf_counter() - started
    before, after = result["before"], result["after"]
    return [
        path.stem,
        after["macs"] / before["macs"],
        after["params"] / before["params"],
        result["size_bytes"] / path.stat().st_size,
        result["parity"]["torch_vs_runtime_max_abs"],
        result["parity"]["masked_vs_cut_max_abs"],
        off_against_on(out / "pruned.onnx"),
        seconds,
        interface_kept(path, out / "pruned.onnx"),
    ]


def interface_kept(before: Path, after: Path) -> str:
    """Compare what a user of the file sees, and run the full checker."""
    old, new = onnx.load(before), onnx.load(after)
    onnx.checker.check_model(new, full_check=True)
    initializers = {tensor.name for tensor in old.graph.initializer}
    same = [value for value in old.graph.input if value.name not in initializers] == list(new.graph.input)
    same = same and list(old.graph.output) == list(new.graph.output)
    versions = [{entry.domain: entry.version for entry in model.opset_import} for model in (old, new)]
    same = same and versions[0] == versions[1]
    metadata = {entry.key for entry in new.metadata_props}
    return "kept" if same and "espalier.source_sha256" in metadata else "CHANGED"


def off_against_on(path: Path) -> float:
    """Run with ONNX Runtime's optimisation off and on, batches of 1 and 3, and give the largest difference."""
    sessions = []
    levels = onnxruntime.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.intra_op_num_threads = 1
        sessions.append(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    rng = np.random.default_rng(0)
    shape = sessions[0].get_inputs()[0].shape[1:]
    largest = 0.0
    for batch in (1, 3):
        feed = {sessions[0].get_inputs()[0].name: rng.standard_normal((batch, *shape)).astype(np.float32)}
        off, on = (session.run(None, feed) for session in sessions)
        largest = max(largest, *(float(np.abs(a - b).max()) for a, b in zip(off, on, strict=True)))
    return largest


if __name__ == "__main__":
    main()
