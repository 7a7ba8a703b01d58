"""First-order Taylor scores: how much the loss feels each unit."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import InvalidDataset
from workers.pruning.scores.collect import accumulate
from workers.pruning.scores.information_gain import output_deviations
from workers.pruning.scores.output import Kind, probe, pseudo_labels, read_outputs
from workers.pruning.types import AnyArray, Grouping, IntArray, Run, Scores

Criterion = Literal["absolute", "square"]
_STREAM: Final = 106  # keeps these draws apart from others of the same seed
_REDUCTIONS: Final = {"absolute": torch.abs, "square": torch.square}


def taylor(
    graph: ir.Model,
    grouping: Grouping,
    batches: Sequence[Sequence[AnyArray]],
    labels: Sequence[IntArray] | None = None,
    *,
    criterion: Criterion = "square",
    run: Run,
) -> Scores:
    """Score each unit by the gradient of the cross-entropy with respect to its gate, per sample.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference" (absolute) and
    "Importance Estimation for Neural Network Pruning" (square, on gates). Differs: the absolute value or the square is
    taken of every sample's gradient and then averaged. Over minibatches, or whole epochs as in widely copied code,
    gradients of opposite sign cancel first, and the order of the units suffers.
    Without labels the classes that the network itself chooses stand in for them. Units whose gradient a node stops are
    scored by what enters that node (an inner output of `graph.trunk`): along a random direction, in its deviations.

    Shapes: batches[i][j] (samples, ...), labels[i] (samples,); values (num_units,).
    Units: nats (absolute) or squared nats (square) per sample.

    Raises:
        InvalidDataset: no samples, labels that do not fit, or an output that holds no class scores.
        NonFiniteScore: an output or a score is NaN or infinite.
        NothingToPrune: no output is a floating-point value.
    """
    readings = read_outputs(graph)
    reading = readings[0]
    if reading.kind is not Kind.CATEGORICAL:
        raise InvalidDataset(
            "Taylor scores need an output with one score per class",
            where=graph.graph.outputs[reading.index].name or "",
            advice="Use information gain, which serves every kind of output.",
        )
    num_samples = sum(len(batch[0]) for batch in batches)
    _check(batches, labels, num_samples)
    deviations = output_deviations(graph, [reading for reading in readings if reading.inner], batches, run)

    def objectives(number: int, part: slice, zs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        z = zs[0]
        wanted = pseudo_labels(z, reading) if labels is None else labels[number][part]
        target = torch.from_numpy(np.ascontiguousarray(wanted)).to(z.device)
        log_p = torch.log_softmax(z, dim=reading.axis)
        loss = -log_p.gather(reading.axis, target.unsqueeze(reading.axis)).sum()
        rng = np.random.default_rng([run.seed, _STREAM, number, part.start])
        for inner, entering in zip(readings, zs, strict=True):
            if inner.inner:
                direction = probe(inner, entering.detach(), deviations.get(inner.index), rng)
                loss = loss + (entering * direction).sum()
        yield loss

    reduction = _REDUCTIONS[criterion]
    total = accumulate(
        graph, grouping, batches, objectives, reduction, readings=readings, run=run, message="Taylor score"
    )
    return Scores(values=total / num_samples, source=f"taylor_{criterion}")


def _check(batches: Sequence[Sequence[AnyArray]], labels: Sequence[IntArray] | None, num_samples: int) -> None:
    if num_samples == 0:
        raise InvalidDataset("Taylor scores need calibration inputs", actual=0, allowed="at least 1")
    if labels is not None and [len(batch[0]) for batch in batches] != [len(part) for part in labels]:
        raise InvalidDataset(
            "labels and inputs do not have the same lengths",
            actual=[len(part) for part in labels],
            allowed=[len(batch[0]) for batch in batches],
        )
