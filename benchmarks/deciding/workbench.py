"""One pruning under watch: the task, what a contender makes of it, how good that is, and what it cost.

Everything is done with the functions of the product: the task is prepared by the pipeline, methods come from METHODS,
training is the product's loop for every contender, those from outside too. What is judged is what ONNX Runtime answers.
"""

import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import onnx_ir as ir
import torch

from benchmarks.deciding import subjects
from benchmarks.deciding.images import Labelled
from benchmarks.deciding.spending import TRAINING, Spending
from benchmarks.deciding.subjects import Subject
from benchmarks.setting import MemoryJournal, host_line
from workers.pipeline import prepare
from workers.prune_spec import PruneSpec, Target
from workers.pruning.errors import UnstableTiming
from workers.pruning.graph import cost, load, save
from workers.pruning.measure.latency import measure
from workers.pruning.measure.stats import compare
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.training.evaluate import evaluate
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.training.samples import Samples, StoredRows
from workers.pruning.types import Cost, Json, Keep, Run

NO_TRAINING: Final = FinetuneSettings(steps=0)
RECIPES: Final[Mapping[str, FinetuneSettings]] = {
    "ours": FinetuneSettings(),
    # As networks of this kind are usually trained on after a cut: labels alone, a rate of 0.02, a cosine.
    "cross_entropy": FinetuneSettings(distillation=0.0, learning_rate=0.02),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all rows of a run have in common."""

    cache: Path
    device: str = "cpu"
    threads: int = 1
    num_test: int | None = None  # None: all
    num_train: int | None = None
    latency_seconds: float = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a contender made: the network after each of its stages, and what that cost."""

    final: ir.Model
    spending: Spending
    keep: Keep | None = None
    stages: Mapping[str, ir.Model] = field(default_factory=dict)  # raw, recalibrated, compensated; in this order
    facts: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """A subject, a seed, and the means."""

    subject: Subject
    seed: int
    means: Means

    def network(self) -> Path:
        """The file that is pruned."""
        return self.subject.network(self.means.cache)

    def task(self, targets: tuple[Target, ...], spending: Spending, **spec: Json) -> Task:
        """Give the task as the pipeline prepares it, with an empty journal; its time is part of the search."""
        torch.set_num_threads(self.means.threads)
        run = Run(
            seed=self.seed,
            num_threads=self.means.threads,
            device=self.means.device,
            report=spending,
            journal=MemoryJournal(),
            clock=time.perf_counter,
        )
        asked = PruneSpec(
            target_sets=(targets,),
            preprocessing=self.subject.preprocessing,
            finetune=NO_TRAINING,
            measure=False,
            **spec,  # type: ignore[arg-type]  # round_to and min_keep, named by the tables
        )
        data = subjects.dataset(self.subject, self.means.cache, num_train=self.means.num_train)
        task = prepare(asked, self.network(), data, run)
        return replace(task, budgets=task.job_budgets[0])

    def accuracies(self, graph: ir.Model, task: Task, *, only: str | None = None) -> dict[str, Json]:
        """Top-1 accuracy on the test sets, in percent."""
        tests = self.subject.images(self.means.cache).tests
        return {
            name: self.accuracy(graph, task, test.part(slice(None, self.means.num_test)))
            for name, test in tests.items()
            if only in {None, name}
        }

    def accuracy(self, graph: ir.Model, task: Task, images: Labelled) -> float:
        """Top-1 accuracy on some images, in percent, preprocessed as the training data are."""
        stored = task.data.train.rows[0]
        assert isinstance(stored, StoredRows)
        held = Samples(
            rows=(replace(stored, stored=images.x),),
            index=torch.arange(len(images.y)).numpy(),
            labels=images.y,
            origin="test",
        )
        found = evaluate(graph, held, threads=self.means.threads).accuracy
        return round(100 * (found or 0.0), 3)

    def latency(self, graph: ir.Model) -> dict[str, Json]:
        """Time of one image in ONNX Runtime on one thread, beside the original's in the same rounds."""
        networks = {"before": self.network().read_bytes(), "after": save.to_bytes(graph)}
        try:
            timed = measure(networks, threads=1, budget_seconds=self.means.latency_seconds)
        except UnstableTiming as error:
            return {"latency_doubt": error.message}
        compared = compare(timed["before"], timed["after"])
        return {
            "latency_ms": timed["after"].p50_ms,
            "latency_ms_before": timed["before"].p50_ms,
            "latency_ratio": compared.ratio.value,
            "latency_ratio_interval": [compared.ratio.low, compared.ratio.high],
            "latency_cpu_ratio": compared.on_cpu_ratio,
        }


def trained(task: Task, graph: ir.Model, num_steps: int, recipe: str, spending: Spending) -> ir.Model:
    """Train a cut network with the product's loop; the time is the training's."""
    return trained_with(task, graph, replace(RECIPES[recipe], steps=num_steps), spending)


def trained_with(task: Task, graph: ir.Model, settings: FinetuneSettings, spending: Spending) -> ir.Model:
    """As `trained`, with any settings."""
    if settings.steps == 0:
        return graph
    fresh = replace(task, finetune=settings, run=replace(task.run, journal=MemoryJournal(), report=_silent))
    with spending.on(TRAINING):
        batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
        return steps.train(fresh, graph, batches)[0]


def cost_figures(task: Task, graph: ir.Model) -> dict[str, Json]:
    """What the network costs, as a share of the original, and how close to its limits it is."""
    before, after = cost.count(task.graph), cost.count(graph)
    figures: dict[str, Json] = {
        name: share(before, after, name) for name in ("macs", "params", "size_bytes", "peak_activation_bytes")
    }
    reached = {b.metric.value: float(getattr(after, b.metric.value)) / b.limit for b in task.budgets}
    return {**figures, "reached_over_limit": reached, "target_met": all(value <= 1 for value in reached.values())}


def share(before: Cost, after: Cost, name: str) -> float:
    """What is left of one figure."""
    return round(float(getattr(after, name)) / float(getattr(before, name)), 6)


def setting(bench: Bench) -> dict[str, Json]:
    """What a figure depends on beside its row: machine, versions, network."""
    return {
        "host": host_line(),
        "platform": platform.machine(),
        "threads": bench.means.threads,
        "device": torch.cuda.get_device_name() if bench.means.device == "cuda" else "cpu",
        "network_sha256": subjects.digest(bench.network()),
        "versions": {name: _installed(name) for name in ("torch", "onnxruntime", "torch-pruning", "onnxsim")},
        "num_test": bench.means.num_test,
        "num_train": bench.means.num_train,
    }


def peak_memory() -> int:
    """Bytes that this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reloaded(content: bytes) -> ir.Model:
    """Read a network that a tool wrote, as an upload is read."""
    return load.load(content)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _silent(*_: object, **__: object) -> None:
    """Report nothing: the whole is timed as training."""
