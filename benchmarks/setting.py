"""What every benchmark of the engine shares: data, a run without a service, and a table on the terminal."""

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workers.pruning.types import Json, Memo, Phase, Run

CIFAR_PREPROCESSING: Mapping[str, Json] = {
    "scale": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "layout": "NHWC",
}


def data_dir() -> Path:
    """The folder of real models and images."""
    return Path(os.environ.get("ESPALIER_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass(slots=True)
class MemoryJournal:
    """A journal that lives as long as the process."""

    memos: dict[str, Memo] = field(default_factory=dict)

    def recall(self, step: str) -> Memo | None:
        """Return what was recorded for `step`."""
        return self.memos.get(step)

    def record(self, step: str, memo: Memo) -> None:
        """Keep `memo` for `step`."""
        self.memos[step] = memo


def quiet(phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
    """Report nothing."""


def on_terminal(phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
    """Report on one line of standard error."""
    figures = " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
    print(f"\r{phase:<11}{100 * fraction:5.1f} %  {message} {figures}".ljust(100)[:100], end="", file=sys.stderr)


def bare_run(seed: int = 0, *, shown: bool = False) -> Run:
    """Give a run on one thread without a service."""
    report = on_terminal if shown and sys.stderr.isatty() else quiet
    return Run(seed=seed, num_threads=1, device="cpu", report=report, journal=MemoryJournal(), clock=time.perf_counter)


def cifar(folder: Path, *, held_out: bool) -> Path:
    """Write the lossless CIFAR-10 images as a dataset: 4,000 to train on, and 1,000 test images to judge by.

    With `held_out` the test images stay untouched: 3,500 training images train and the last 500 judge.
    """
    arrays = np.load(data_dir() / "cifar10_lossless_5000.npz")
    train_x, train_y = arrays["train_x"], arrays["train_y"]
    path = folder / "cifar.npz"
    if held_out:
        np.savez(path, x=train_x[:3500], y=train_y[:3500], x_val=train_x[3500:], y_val=train_y[3500:])
    else:
        np.savez(path, x=train_x, y=train_y, x_val=arrays["test_x"], y_val=arrays["test_y"])
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def host_line() -> str:
    """Name the machine."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
