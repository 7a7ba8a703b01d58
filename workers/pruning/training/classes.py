"""Which class folder belongs to which output: folders have names, outputs only numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.graph import head as heads
from workers.pruning.training.data import Dataset
from workers.pruning.training.evaluate import answer
from workers.pruning.training.samples import Samples
from workers.pruning.types import IntArray

NUM_SAMPLES: Final = 256  # training samples that decide, evenly spaced, so from every folder of equal size
LEAST_SHARE: Final = 0.5  # of each class that must go to one output
LEAST_GAIN: Final = 2.0  # times the accuracy of the order as it is


def match_classes(dataset: Dataset, graph: ir.Model) -> Dataset:
    """Number class folders as the network does, where its own answers leave no doubt that the order is another.

    Source: own. Folders are numbered in sorted order, as training tools do; a network trained otherwise is then right
    far less often than by chance, and cross-entropy would teach it nonsense. The order is changed if the network's most
    frequent answers to the classes are all different, each covers at least half of its class, and together they make it
    right at least twice as often. Labels that were uploaded as numbers are the user's word: they get a note instead.
    Only training samples are asked.

    Raises:
        InvalidGraph: the network does not run on the samples.
    """
    labels = dataset.train.labels
    if labels is None or not heads.find(graph).is_classification:
        return dataset
    asked = np.linspace(0, len(labels) - 1, min(NUM_SAMPLES, len(labels))).astype(np.int64)
    some = Samples(rows=dataset.train.rows, index=dataset.train.index[asked], labels=labels[asked])
    answers = answer(graph, some).log_probabilities
    order = other_order(labels[asked], answers.argmax(axis=1), answers.shape[1])
    if order is None:
        return dataset
    right, before = (float(np.mean(answers.argmax(axis=1) == guess)) for guess in (order[labels[asked]], labels[asked]))
    shares = f"{right:.1%} of {len(asked)} training samples right instead of {before:.1%}"
    if not dataset.classes:
        note = (
            f"Labels seem to be numbered in another order than the network's outputs: with {order.tolist()}, {shares}."
        )
        return replace(dataset, notes=(*dataset.notes, note))
    names = reordered(dataset.classes, order)
    note = f"Class folders are numbered as the network answers, not sorted: {', '.join(names)}; so it has {shares}."
    return replace(
        dataset,
        train=relabelled(dataset.train, order),
        validation=relabelled(dataset.validation, order),
        classes=names,
        notes=(*dataset.notes, note),
    )


def other_order(labels: IntArray, chosen: IntArray, num_classes: int) -> IntArray | None:
    """Return the output that answers each class, or None where the order as it is stands."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (labels, chosen), 1)
    order = counts.argmax(axis=1)
    best = counts.max(axis=1)
    clear = (best >= LEAST_SHARE * counts.sum(axis=1)) & (best > 0)
    if not clear.all() or len(set(order.tolist())) < num_classes:
        return None
    return order if best.sum() >= LEAST_GAIN * max(1, int(np.trace(counts))) else None


def reordered(names: Sequence[str], order: IntArray) -> tuple[str, ...]:
    """Return the class names in the order of the outputs."""
    placed = dict(zip(order.tolist(), names, strict=True))
    return tuple(placed[output] for output in range(len(names)))


def relabelled(samples: Samples, order: IntArray) -> Samples:
    """Return samples whose labels are numbers of outputs."""
    return replace(samples, labels=None if samples.labels is None else order[samples.labels])
