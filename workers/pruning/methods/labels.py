"""Samples for methods that decide by accuracy: labels where there are none, and a part that only decides."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from workers.pruning.errors import InvalidDataset
from workers.pruning.methods.steps import BATCH_ACTIVATION_BYTES, CALIBRATION_BATCH, Batches
from workers.pruning.methods.task import Task
from workers.pruning.training.data import Dataset
from workers.pruning.training.evaluate import answer
from workers.pruning.training.recipe import activation_bytes
from workers.pruning.training.samples import Samples, hold_out
from workers.pruning.types import IntArray, Phase

RANKING_BYTES: Final = 1 << 30  # of inputs in memory
DECISION_STREAM: Final = 205  # these keep draws apart from others of the same seed
RANKING_STREAM: Final = 206

PSEUDO: Final = (
    "There are no labels: the original's own answers stand in for them, and accuracy means agreement with it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divided:
    """Training data of a method: samples to learn from, and samples of it that only decide."""

    learning: Dataset  # its training samples are all but those that decide
    deciding: Samples
    warnings: tuple[str, ...]


def divided(task: Task) -> Divided:
    """Hold a tenth of the training samples back for decisions; the validation samples are not touched.

    Where there are no labels the classes that the original chooses stand in for them.

    Raises:
        InvalidDataset: the network is no classifier, or there are fewer than two training samples.
    """
    if not task.head.is_classification:
        raise InvalidDataset(
            "This method ranks by the cross-entropy of class labels",
            where="output",
            actual="an output without one score per class",
            allowed="one output of shape (batch, classes)",
            advice="Use auto or easiedge, which serve every kind of output.",
        )
    if len(task.data.train) < 2:
        raise InvalidDataset(
            "One training sample cannot both teach and decide", actual=len(task.data.train), allowed="2 or more"
        )
    labelled = task.data.train
    warnings: tuple[str, ...] = ()
    if labelled.labels is None:
        labelled, warnings = replace(labelled, labels=chosen_classes(task, labelled)), (PSEUDO,)
    learning, deciding = hold_out(
        labelled, int(np.random.default_rng([task.run.seed, DECISION_STREAM]).integers(2**31))
    )
    return Divided(learning=replace(task.data, train=learning, kind="labelled"), deciding=deciding, warnings=warnings)


def chosen_classes(task: Task, samples: Samples) -> IntArray:
    """Give the class that the original chooses for each sample."""
    given = answer(
        task.graph,
        samples,
        threads=task.run.num_threads,
        progress=lambda part: task.run.report(Phase.SCORE, part, "the original's answers stand in for labels"),
    )
    classes: IntArray = given.log_probabilities.argmax(axis=1).astype(np.int64)
    return classes


def ranking_batches(task: Task, samples: Samples, count: int, number: int) -> tuple[Batches, list[IntArray]]:
    """Draw labelled training samples for the ranking of round `number`: inputs and labels, batch by batch."""
    sample_bytes = sum(array.nbytes for array in samples.batch(np.zeros(1, np.int64)))
    count = min(count, len(samples), max(1, RANKING_BYTES // max(1, sample_bytes)))
    order = np.random.default_rng([task.run.seed, RANKING_STREAM, number]).permutation(len(samples))[:count]
    size = min(CALIBRATION_BATCH, max(1, BATCH_ACTIVATION_BYTES // max(1, activation_bytes(task.graph))))
    drawn = [np.sort(order[start : start + size]) for start in range(0, count, size)]
    labels = samples.labels
    if labels is None:
        raise ValueError("samples to rank on have labels")
    return [samples.batch(indices) for indices in drawn], [labels[indices] for indices in drawn]
