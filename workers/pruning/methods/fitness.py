"""What a candidate of a search is worth: how far its answers are from the original's, or from the labels.

The original is never touched. The network that is run is the cut one: it computes what the masked one computes, in a
fraction of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from workers.pruning.compensation.batch_statistics import channel_statistics, reestimate
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph import renormalise
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.scores.collect import parts, run_to_parameters
from workers.pruning.scores.output import Kind, Reading, read_outputs
from workers.pruning.surgery.cut import cut
from workers.pruning.training.loop import finetune
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import AnyArray, FloatArray, IntArray, Keep, Memo, Phase, Run

Repair = Literal["recalibrated", "compensated", "raw"]
RECALIBRATION_SAMPLES: Final = 256
ANSWER_BYTES: Final = 256 << 20  # of the original's answers in memory; dense predictions are compared on fewer samples
LABELLED_SHARE: Final = 0.1  # of the training set, for the cross-entropy
_LABEL_STREAM: Final = 302  # keeps these draws apart from others of the same seed
_BATCH: Final = 128


class Divergence:
    """Distance of a candidate's answers from the original's, on fixed calibration samples. No labels enter.

    Source: Kullback-Leibler divergence of the original's distribution from the candidate's; outputs that are no
    distributions are taken as Gaussian with the original's variance.
    Units: nats per sample, added up over outputs and positions.
    """

    def __init__(self, task: Task, batches: steps.Batches) -> None:
        self._device = task.run.device
        self._readings = read_outputs(task.graph, task.head)
        module = frozen_module(task.graph, self._device)
        self._pairs: list[tuple[list[AnyArray], list[torch.Tensor]]] = []
        room = ANSWER_BYTES
        for batch in batches:
            for part in parts(task.graph, batch):
                inputs = [array[part] for array in batch]
                if room > 0:
                    self._pairs.append((inputs, self._answers(module, inputs)))
                    room -= sum(z.nbytes for z in self._pairs[-1][1])
        self._variances = [
            float(torch.cat([wanted[number].flatten() for _, wanted in self._pairs]).var(correction=0).clamp_min(1e-12))
            for number in range(len(self._readings))
        ]

    def __call__(self, graph: ir.Model) -> float:
        """Run a candidate and give its distance."""
        module = frozen_module(graph, self._device)
        total, count = 0.0, 0
        for inputs, wanted in self._pairs:
            count += len(inputs[0])
            answers = self._answers(module, inputs)
            for reading, variance, p, q in zip(self._readings, self._variances, wanted, answers, strict=True):
                total += float(_divergence(reading, p, q, variance))
        return total / count

    def _answers(self, module: GraphModule, inputs: Sequence[AnyArray]) -> list[torch.Tensor]:
        with torch.no_grad():
            return run_to_parameters(module, tensors(inputs, self._device), self._readings)


class CrossEntropy:
    """Mean cross-entropy on the labels of a tenth of the training set, without augmentation, as the authors have it.

    Units: nats per sample.

    Raises:
        InvalidDataset: the data have no labels, or the network no class scores.
    """

    def __init__(self, task: Task) -> None:
        samples = task.data.train
        self._device = task.run.device
        self._reading = read_outputs(task.graph, task.head)[0]
        if samples.labels is None or not task.head.is_classification:
            raise InvalidDataset(
                "The authors' fitness is the cross-entropy on labels",
                where="options.preset",
                actual="no labels" if samples.labels is None else "an output without one score per class",
                advice='Use preset "ours", which compares with the original and needs no labels.',
            )
        count = max(1, int(LABELLED_SHARE * len(samples)))
        drawn = np.random.default_rng([task.run.seed, _LABEL_STREAM]).permutation(len(samples))[:count]
        self._indices = np.sort(drawn).astype(np.int64)
        self._labels: IntArray = samples.labels[self._indices]
        self._samples = samples

    def __call__(self, graph: ir.Model) -> float:
        """Run a candidate and give its loss."""
        module = frozen_module(graph, self._device)
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self._indices), _BATCH):
                chosen = slice(start, start + _BATCH)
                inputs = tensors(self._samples.batch(self._indices[chosen]), self._device)
                (z,) = run_to_parameters(module, inputs, [self._reading])
                labels = torch.from_numpy(np.ascontiguousarray(self._labels[chosen])).to(z.device)
                total += float(functional.cross_entropy(z.float().flatten(1), labels, reduction="sum"))
        return total / len(self._indices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Makes the network of a Keep: cut, then repaired as cheaply as the fitness asks for."""

    task: Task
    repair: Repair
    batches: steps.Batches  # what the repair looks at
    statistics: dict[str, tuple[FloatArray, FloatArray]]  # of the original's folded convolutions
    training: FinetuneSettings | None = None  # what every candidate gets before it is judged

    def graph(self, keep: Keep, run: Run) -> ir.Model:
        """The network that is judged. `run` hears of the progress of the repair."""
        repaired = self._repaired(keep, run)
        return repaired if self.training is None else self._trained(repaired, self.training, run)

    def _trained(self, graph: ir.Model, settings: FinetuneSettings, run: Run) -> ir.Model:
        """Source: authors' code (their tau_hat): a few steps for every candidate. What it learns is thrown away."""
        task, unkept = self.task, replace(run, journal=_NoJournal())
        return finetune(graph, task.graph, task.data, settings, unkept, head=task.head).graph

    def _repaired(self, keep: Keep, run: Run) -> ir.Model:
        task = self.task
        smaller = cut(task.graph, task.grouping, keep)
        if self.repair == "raw":
            return smaller
        if self.repair == "compensated":
            return compensate(task.graph, smaller, task.grouping, keep, self.batches, run=run)
        if self.statistics:
            kept = steps.kept_statistics(task.graph, task.grouping, keep, self.statistics)
            smaller = renormalise.insert(smaller, kept)
        return reestimate(smaller, self.batches, run)


class _NoJournal:
    """Keeps nothing: a candidate's training is shorter than the evaluation that is recorded."""

    def recall(self, step: str) -> Memo | None:  # noqa: ARG002
        """Nothing was kept."""
        return None

    def record(self, step: str, memo: Memo) -> None:
        """Keep nothing."""


def candidates(
    task: Task, repair: Repair, batches: steps.Batches, training: FinetuneSettings | None = None
) -> Candidates:
    """Prepare what all candidates share: the first 256 calibration samples, and the original's statistics on them."""
    few = _first(batches, RECALIBRATION_SAMPLES)
    names = renormalise.to_insert(task.graph) if repair == "recalibrated" else ()
    run = replace(task.run, report=lambda *_, **__: task.run.report(Phase.SCORE, 0.0, "channel statistics"))
    statistics = channel_statistics(task.graph, names, few, run) if names else {}
    return Candidates(task=task, repair=repair, batches=few, statistics=statistics, training=training)


def _first(batches: steps.Batches, count: int) -> steps.Batches:
    taken: list[Sequence[AnyArray]] = []
    for batch in batches:
        if count <= 0:
            break
        taken.append([array[:count] for array in batch])
        count -= len(batch[0])
    return taken


def _divergence(reading: Reading, wanted: torch.Tensor, given: torch.Tensor, variance: float) -> torch.Tensor:
    wanted, given = wanted.double(), given.double()
    if reading.kind is Kind.CATEGORICAL:
        p, q = (torch.log_softmax(z, dim=reading.axis) for z in (wanted, given))
        return (p.exp() * (p - q)).sum()
    if reading.kind is Kind.BERNOULLI:
        p = torch.sigmoid(wanted)
        cross = functional.binary_cross_entropy_with_logits(given, p, reduction="sum")
        return cross - functional.binary_cross_entropy_with_logits(wanted, p, reduction="sum")
    return (wanted - given).square().sum() / (2 * variance)
