"""Information gain: how much the distribution of the outputs changes when a unit goes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.graph.head import Head
from workers.pruning.scores.collect import accumulate, parts
from workers.pruning.scores.output import Kind, Reading, exact_directions, num_exact, probe, read_outputs
from workers.pruning.types import AnyArray, Grouping, Phase, Run, Scores

_STREAM: Final = 102  # keeps these draws apart from others of the same seed
_TINY: Final = 1e-12
_SMALLEST_VARIANCE: Final = 1e-3  # of an element, relative to the mean variance of its output


def information_gain(
    graph: ir.Model,
    grouping: Grouping,
    batches: Sequence[Sequence[AnyArray]],
    *,
    probes: int = 4,
    run: Run,
    head: Head | Kind | None = None,
) -> Scores:
    """Score each unit by the expected divergence KL(p(y|x) || p(y|x; unit removed)), to second order.

    Source: Yu, Cui et al., "EasiEdge" (IEEE IoT Journal 8(3), 2021) define the score and estimate it by a Taylor
    expansion. Ours expands the divergence in the gate m around 1, where it and its slope vanish, so
    IG = 1/2 E_x J^T M J with J = dz/dm and M the Fisher information of the output: diag(p) - p p^T for classes,
    diag(p (1 - p)) for independent labels, diag(1 / variance) for anything else; over several outputs and positions the
    divergences add up. J^T M J is the mean square of d<z, v>/dm over random directions v (`output.probe`), one backward
    pass per probe; where the output has no more elements than `probes`, every direction is taken and it is exact.
    No labels enter. Differs: the abstract of the paper leaves the order of the expansion open; this choice is ours.

    Shapes: batches[i][j] (samples, ...), input j of batch i; values (num_units,).
    Units: nats per sample. `head` as in `output.read_outputs`.

    Raises:
        InvalidDataset: there is no calibration sample.
        NonFiniteScore: an output or a score is NaN or infinite.
        NothingToPrune: no output is a floating-point value.
    """
    num_samples = sum(len(batch[0]) for batch in batches)
    if num_samples == 0:
        raise InvalidDataset("information gain needs calibration inputs", actual=0, allowed="at least 1")
    readings = read_outputs(graph, head)
    deviations = output_deviations(graph, readings, batches, run)

    objectives = fisher_objectives(readings, deviations, probes=probes, seed=run.seed)
    total = accumulate(
        graph, grouping, batches, objectives, torch.square, readings=readings, run=run, message="information gain"
    )
    return Scores(values=0.5 * total / num_samples, source="information_gain")


Objectives = Callable[[int, slice, Sequence[torch.Tensor]], Iterator[torch.Tensor]]


def fisher_objectives(
    readings: Sequence[Reading], deviations: Mapping[int, torch.Tensor], *, probes: int, seed: int
) -> Objectives:
    """Give the scalars whose squared gradients add up to the Fisher information, for `collect.accumulate`.

    `probes` random directions per sample; where the output has no more elements than that, every direction.
    """

    def objectives(number: int, part: slice, zs: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        rng = np.random.default_rng([seed, _STREAM, number, part.start])
        exact = num_exact(readings, zs)
        if exact is not None and exact <= probes:
            for v in exact_directions(readings[0], zs[0].detach(), deviations.get(readings[0].index)):
                yield (zs[0] * v).sum()
            return
        for _ in range(probes):
            drawn = [probe(r, z.detach(), deviations.get(r.index), rng) for r, z in zip(readings, zs, strict=True)]
            scale = probes**-0.5
            yield scale * torch.stack([(z * v).sum() for z, v in zip(zs, drawn, strict=True)]).sum()

    return objectives


def output_deviations(
    graph: ir.Model, readings: Sequence[Reading], batches: Sequence[Sequence[AnyArray]], run: Run
) -> dict[int, torch.Tensor]:
    """The standard deviation of every element of the Gaussian outputs over the calibration samples.

    An inner output has one deviation for all its elements, since its samples may lie along any axis. It is widened by
    the root of their number over that of the network's own figures (a distribution over classes is one), so that all
    inner outputs together weigh as much as the answer that is made of them.
    """
    gaussian = [reading for reading in readings if reading.kind is Kind.GAUSSIAN]
    if not gaussian:
        return {}
    module = frozen_module(graph, run.device)
    count = 0
    sums: dict[int, torch.Tensor] = {}
    squares: dict[int, torch.Tensor] = {}
    widening = 1.0
    for batch in batches:
        run.report(Phase.SCORE, 0.0, "output variance")
        for part in parts(graph, batch):
            inputs = tensors([array[part] for array in batch], run.device)
            with torch.no_grad():
                outputs = module.run(inputs)
            count += len(inputs[0])
            widening = _widening(readings, outputs)
            for reading in gaussian:
                index, out = reading.index, outputs[reading.index].double()
                out = (out - out.mean()).reshape(len(inputs[0]), -1) if reading.inner else out
                sums[index] = sums.get(index, torch.zeros_like(out[0])) + out.sum(0)
                squares[index] = squares.get(index, torch.zeros_like(out[0])) + out.square().sum(0)
    inner = {reading.index for reading in gaussian if reading.inner}
    return {
        index: widening * (squares[index].mean() / count).clamp_min(_TINY).sqrt().float()
        if index in inner
        else _deviation(sums[index], squares[index], count)
        for index in sums
    }


def _widening(readings: Sequence[Reading], outputs: Sequence[torch.Tensor]) -> float:
    """Root of the number of inner figures over that of the network's own, where it has both."""
    inner = sum(outputs[reading.index].numel() for reading in readings if reading.inner)
    own = sum(
        outputs[reading.index].numel()
        / (outputs[reading.index].shape[reading.axis] if reading.kind is Kind.CATEGORICAL else 1)
        for reading in readings
        if not reading.inner
    )
    return float((inner / own) ** 0.5) if inner and own else 1.0


def _deviation(total: torch.Tensor, squares: torch.Tensor, count: int) -> torch.Tensor:
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    floor = _SMALLEST_VARIANCE * variance.mean()
    variance = variance.clamp_min(floor) if floor > 0 else torch.ones_like(variance)
    return variance.sqrt().float()
