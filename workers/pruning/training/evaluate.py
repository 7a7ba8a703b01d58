"""How good a network is on held-out samples: accuracy where labels are known, agreement with the original everywhere.

Everything is computed by ONNX Runtime on the bytes that a user would get, never by the graph that was trained.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from workers.pruning.errors import InvalidDataset, InvalidGraph
from workers.pruning.graph import head as heads
from workers.pruning.graph.head import Head
from workers.pruning.graph.runtime import Session, fixed_batch
from workers.pruning.graph.twin import session as open_session
from workers.pruning.training.samples import Samples
from workers.pruning.types import AnyArray, FloatArray, Json

BATCH_BYTES: Final = 16 << 20  # of inputs
LARGEST_BATCH: Final = 128
ROWS_AT_ONCE: Final = 4096  # of answers, in double precision
Z_95: Final = 1.959963984540054  # normal quantile of 0.975
SMALLEST_PROBABILITY: Final = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found on held-out samples; None where it does not apply."""

    num_samples: int
    accuracy: float | None = None  # top-1, share of samples
    accuracy_interval: tuple[float, float] | None = None  # Wilson, 95 %
    agreement: float | None = None  # share of samples with the original's top-1
    mean_kl: float | None = None  # KL(original || network), nats per sample
    relative_mse: float | None = None  # squared difference to the original's outputs, over their variance

    def to_json(self) -> dict[str, Json]:
        """Return the figures that apply."""
        figures: dict[str, Json] = {"num_samples": self.num_samples}
        for name in ("accuracy", "agreement", "mean_kl", "relative_mse"):
            if getattr(self, name) is not None:
                figures[name] = getattr(self, name)
        if self.accuracy_interval is not None:
            figures["accuracy_interval"] = list(self.accuracy_interval)
        return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a classifier says to each sample; kept so that an original is run once, not once for every stage."""

    log_probabilities: npt.NDArray[np.float32]  # (number of samples, classes)


def evaluate(
    graph: ir.Model,
    samples: Samples,
    *,
    reference: ir.Model | Answers | None = None,
    threads: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> Evaluation:
    """Judge a network on samples, beside the original where it is given.

    Classification: top-1 accuracy with its Wilson interval (labels), top-1 agreement and mean KL to the original.
    Other heads: squared error to the original's outputs over their variance, all outputs weighed alike.
    Source: algorithms of agreement and KL direction as in knowledge distillation, KL(original || network); the interval
    is Wilson, JASA 22 (1927), which unlike the normal one stays within [0, 1] and holds for few samples.

    Raises:
        InvalidDataset: there are no samples.
        InvalidGraph: a network does not run on them.
    """
    require_samples(samples)
    if heads.find(graph).is_classification:
        if reference is graph:
            given = answer(graph, samples, threads=threads, progress=progress)
            return judge(given, samples, reference=given)
        if isinstance(reference, ir.Model):
            reference = answer(reference, samples, threads=threads, progress=lambda part: progress(part / 2))
        given = answer(graph, samples, threads=threads, progress=progress)
        return judge(given, samples, reference=reference)
    if not isinstance(reference, ir.Model):
        return Evaluation(num_samples=len(samples))
    error = relative_error(graph, reference, samples, threads=threads, progress=progress)
    return Evaluation(num_samples=len(samples), relative_mse=error)


def answer(
    graph: ir.Model, samples: Samples, *, threads: int = 1, progress: Callable[[float], None] = lambda _: None
) -> Answers:
    """Run a classifier on samples.

    Raises:
        InvalidDataset: there are no samples.
        InvalidGraph: the network does not run on them, or is no classifier.
    """
    require_samples(samples)
    head = heads.find(graph)
    if not head.is_classification:
        raise InvalidGraph("The network is no classifier", allowed="one output of shape (batch, classes)")
    session = open_session(graph, threads=threads)
    rows = [log_probabilities(outputs[0], head).astype(np.float32) for outputs in run_all(session, samples, progress)]
    return Answers(log_probabilities=np.concatenate(rows))


def judge(given: Answers, samples: Samples, *, reference: Answers | None = None) -> Evaluation:
    """Compare a classifier's answers with the labels and with the original's answers."""
    chosen = given.log_probabilities.argmax(axis=1)
    accuracy, interval = None, None
    if samples.labels is not None:
        num_right = int((chosen == samples.labels).sum())
        accuracy, interval = num_right / len(samples), wilson(num_right, len(samples))
    agreement, mean_kl = None, None
    if reference is not None:
        agreement = float((chosen == reference.log_probabilities.argmax(axis=1)).mean())
        mean_kl = divergence(reference.log_probabilities, given.log_probabilities)
    return Evaluation(
        num_samples=len(samples),
        accuracy=accuracy,
        accuracy_interval=interval,
        agreement=agreement,
        mean_kl=mean_kl,
    )


def relative_error(
    graph: ir.Model, reference: ir.Model, samples: Samples, *, threads: int, progress: Callable[[float], None]
) -> float:
    """Return the mean over outputs of E|network - original|^2 / Var(original), batch by batch in bounded memory.

    0 is equality; 1 is as far off as answering the original's mean. A constant output counts by its mean square. Inner
    outputs (see `graph.trunk`) are compared where the network has no others that can be.
    """
    session, original = (open_session(one, threads=threads) for one in (graph, reference))
    compared = _compared(reference)
    sums = np.zeros((len(compared), 4))  # count, sum, sum of squares, sum of squared differences
    pairs = zip(run_all(session, samples, progress), run_all(original, samples, lambda _: None), strict=True)
    for given, wanted in pairs:
        for row, number in enumerate(compared):
            target = wanted[number].astype(np.float64)
            difference = given[number].astype(np.float64) - target
            sums[row] += (target.size, target.sum(), np.square(target).sum(), np.square(difference).sum())
    count, total, squares, errors = sums.T
    variance = squares / count - np.square(total / count)
    scale = np.where(variance > 1e-12 * squares / count, variance, squares / count)
    return float(np.mean(np.divide(errors / count, scale, out=(errors > 0).astype(np.float64), where=scale > 0)))


def _compared(graph: ir.Model) -> list[int]:
    """Positions of the network's own outputs, or of the inner ones where it has none."""
    added, carried = heads.added_outputs(graph), heads.carried_outputs(graph)
    names = [value.name for value in graph.graph.outputs]
    own = [index for index, name in enumerate(names) if name not in added]
    return own or [index for index, name in enumerate(names) if name not in carried]


def run_all(session: Session, samples: Samples, progress: Callable[[float], None]) -> Iterator[tuple[AnyArray, ...]]:
    """Yield a network's outputs batch by batch; where its batch is fixed, the last one is filled up and cut."""
    fixed = working_batch(session, samples)
    size = fixed or free_batch(samples)
    for start in range(0, len(samples), size):
        count = min(size, len(samples) - start)
        wanted = start + np.arange(size if fixed else count, dtype=np.int64)
        outputs = session.run(samples.batch(np.minimum(wanted, len(samples) - 1)))
        yield tuple(output[:count] if output.shape[:1] == (len(wanted),) else output for output in outputs)
        progress((start + count) / len(samples))


def working_batch(session: Session, samples: Samples) -> int | None:
    """Return the batch that a network is fixed to, or None where it takes any.

    Some exports call the batch free and hold 1 in a constant all the same: whether 2 works is tried.
    """
    fixed = fixed_batch(session.inputs) or fixed_batch(session.outputs)
    if fixed:
        return fixed
    try:
        outputs = session.run(samples.batch(np.minimum(np.arange(2), len(samples) - 1)))
    except InvalidGraph:
        return 1
    return None if all(output.shape[:1] == (2,) for output in outputs) else 1


def free_batch(samples: Samples) -> int:
    """Return a batch size whose inputs stay within a few megabytes."""
    sample_bytes = sum(array.nbytes for array in samples.batch(np.zeros(1, dtype=np.int64)))
    return max(1, min(LARGEST_BATCH, BATCH_BYTES // max(1, sample_bytes)))


def log_probabilities(output: AnyArray, head: Head) -> FloatArray:
    """Turn a classifier's output into log-probabilities, in double precision.

    Shapes: (N, K) or (N, K, 1, 1) -> (N, K).

    Raises:
        InvalidGraph: the output is not finite.
    """
    scores = output.reshape(len(output), -1).astype(np.float64)
    if not np.isfinite(scores[~np.isneginf(scores)]).all():
        raise InvalidGraph("The network answers NaN or infinity", allowed="finite outputs on the samples given")
    if head is Head.PROBABILITIES:
        scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def divergence(original: npt.NDArray[np.float32], given: npt.NDArray[np.float32]) -> float:
    """Return the mean KL(original || given) over samples, from log-probabilities; nats."""
    floor = math.log(SMALLEST_PROBABILITY)
    total = 0.0
    for start in range(0, len(original), ROWS_AT_ONCE):
        wanted, found = (rows[start : start + ROWS_AT_ONCE].astype(np.float64) for rows in (original, given))
        total += float((np.exp(wanted) * (np.maximum(wanted, floor) - np.maximum(found, floor))).sum())
    return max(0.0, total / len(original))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    share, square = successes / trials, Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def require_samples(samples: Samples) -> None:
    """Refuse to judge on nothing."""
    if not len(samples):
        raise InvalidDataset("There are no held-out samples to judge the network on")
