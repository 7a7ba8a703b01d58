"""Other readings of information gain, for comparison with the default of `information_gain`.

None of them is better than the default where they were compared (docs/methods/easiedge.md); they are offered because
the paper's own expansion is not known.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.graph.head import Head
from workers.pruning.scores.collect import Site, accumulate, find_sites, gate_edits, parts, run_to_parameters
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.scores.output import Kind, Reading, probabilities, read_outputs
from workers.pruning.types import AnyArray, Grouping, Phase, Run, Scores

_GRADIENT_BYTES: Final = 512 * 2**20  # of the gradients of all logits held at a time


def exact_gain(
    graph: ir.Model, grouping: Grouping, batches: Sequence[Sequence[AnyArray]], *, run: Run, head: Head | None = None
) -> Scores:
    """Score with the exact Fisher information: one backward pass per element of the output, no random directions.

    Raises:
        InvalidDataset: the network has several outputs, or one that is no vector per sample.
        NonFiniteScore: an output or a score is NaN or infinite.
    """
    num_elements = _vector_length(graph, "The exact information gain")
    gain = information_gain(graph, grouping, batches, probes=num_elements, run=run, head=head)
    return Scores(values=gain.values, source="information_gain_exact")


def entropy_gain(
    graph: ir.Model, grouping: Grouping, batches: Sequence[Sequence[AnyArray]], *, run: Run, head: Head | None = None
) -> Scores:
    """Score each unit by E_x |d H(p(y|x)) / d gate|: how much the uncertainty of the answer hangs on it.

    Source: information gain in Quinlan's sense, a change of entropy, to first order; the reading is ours. One backward
    pass. Entropies of several outputs and positions add up.
    Units: nats per sample.

    Raises:
        InvalidDataset: an output is no distribution over classes or labels, or there is no sample.
        NonFiniteScore: an output or a score is NaN or infinite.
    """
    readings = read_outputs(graph, head)
    num_samples = _count(batches)
    for reading in readings:
        if reading.kind is Kind.GAUSSIAN:
            raise _no_distribution(graph, reading, "The entropy variant")

    def objectives(_number: int, _part: slice, zs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        yield torch.stack([_entropy(reading, z) for reading, z in zip(readings, zs, strict=True)]).sum()

    total = accumulate(
        graph, grouping, batches, objectives, torch.abs, readings=readings, run=run, message="entropy of the answers"
    )
    return Scores(values=total / num_samples, source="information_gain_entropy")


def linearised_gain(
    graph: ir.Model, grouping: Grouping, batches: Sequence[Sequence[AnyArray]], *, run: Run, head: Head | None = None
) -> Scores:
    """Score each unit by E_x KL(softmax(z) || softmax(z - J)) with J = dz/d gate: Taylor on the logits, KL exact.

    Source: derivation; what the abstract's "Taylor-based approximate algorithm" may also mean. One backward pass per
    class. For small J it equals the default.
    Units: nats per sample.

    Raises:
        InvalidDataset: the network has no single vector of class scores, or there is no sample.
        NonFiniteScore: an output or a score is NaN or infinite.
    """
    readings = read_outputs(graph, head)
    num_samples = _count(batches)
    num_classes = _vector_length(graph, "The linearised variant")
    if readings[0].kind is not Kind.CATEGORICAL:
        raise _no_distribution(graph, readings[0], "The linearised variant")
    module, sites = frozen_module(graph, run.device), find_sites(graph, grouping)
    total = torch.zeros(grouping.num_units, dtype=torch.float64, device=run.device)
    step = max(1, _GRADIENT_BYTES // (4 * num_classes * max(1, grouping.num_units)))
    for number, batch in enumerate(batches):
        run.report(Phase.SCORE, number / len(batches), "linearised information gain")
        for part in parts(graph, batch):
            for rows in _pieces(part, len(batch[0]), step):
                inputs = tensors([array[rows] for array in batch], run.device)
                z, gradients = _logit_gradients(module, inputs, readings, sites, grouping.num_units)
                total += _divergence(z, gradients).double().sum(0)
    run.report(Phase.SCORE, 1.0, "linearised information gain")
    return Scores(values=total.cpu().numpy() / num_samples, source="information_gain_linearised")


def _logit_gradients(
    module: GraphModule,
    inputs: Sequence[torch.Tensor],
    readings: Sequence[Reading],
    sites: Sequence[Site],
    num_units: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes: logits (batch, classes), their gradients (batch, classes, units)."""
    gates = torch.ones(len(inputs[0]), num_units, device=inputs[0].device, requires_grad=True)
    (z,) = run_to_parameters(module, inputs, readings, gate_edits(sites, gates))
    rows = []
    for k in range(z.shape[1]):
        (gradient,) = torch.autograd.grad(z[:, k].sum(), gates, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros_like(gates) if gradient is None else gradient)
    return z.detach(), torch.stack(rows, dim=1)


def _divergence(z: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """KL(softmax(z) || softmax(z - J)) of every sample and unit; never below zero."""
    log_p = torch.log_softmax(z, dim=1).unsqueeze(2)
    log_q = torch.log_softmax(z.unsqueeze(2) - gradients, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1).clamp_min(0)


def _entropy(reading: Reading, z: torch.Tensor) -> torch.Tensor:
    p = probabilities(reading, z)
    if reading.kind is Kind.BERNOULLI:
        return -(p * p.log() + (1 - p) * (1 - p).log()).sum()
    return -(p * p.log()).sum()


def _pieces(part: slice, num_samples: int, step: int) -> Iterator[slice]:
    start, stop, _ = part.indices(num_samples)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _vector_length(graph: ir.Model, what: str) -> int:
    outputs = graph.graph.outputs
    lengths = list(outputs[0].shape or ())[1:]
    if len(outputs) == 1 and len(lengths) == 1 and isinstance(lengths[0], int):
        return prod(length for length in lengths if isinstance(length, int))
    raise InvalidDataset(
        f"{what} needs one output with one vector per sample",
        where=", ".join(value.name or "" for value in outputs),
        actual=f"{len(outputs)} outputs; the first has the shape {outputs[0].shape}",
        advice="Use the default, half_fisher, which serves every kind of output.",
    )


def _no_distribution(graph: ir.Model, reading: Reading, what: str) -> InvalidDataset:
    return InvalidDataset(
        f"{what} needs an output that is a distribution over classes",
        where=graph.graph.outputs[reading.index].name or "",
        advice="Use the default, half_fisher, which serves every kind of output.",
    )


def _count(batches: Sequence[Sequence[AnyArray]]) -> int:
    num_samples = sum(len(np.asarray(batch[0])) for batch in batches)
    if num_samples == 0:
        raise InvalidDataset("information gain needs calibration inputs", actual=0, allowed="at least 1")
    return num_samples
