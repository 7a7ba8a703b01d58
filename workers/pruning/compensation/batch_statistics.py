"""Statistics of channels: those that BatchNormalization should hold after a cut, and those of any layer's output."""

from collections.abc import Sequence

import onnx_ir as ir
import torch

from workers.pruning.compensation.calibration import fitting_inputs
from workers.pruning.compensation.walk import Walk
from workers.pruning.errors import InvalidDataset, InvalidGraph, NonFiniteScore
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.graph.weights import clone, replace_weights
from workers.pruning.types import AnyArray, FloatArray, Phase, Run


def reestimate(graph: ir.Model, batches: Sequence[Sequence[AnyArray]], run: Run) -> ir.Model:
    """Return a graph whose BatchNormalization holds the mean and variance of what it reads on the calibration data.

    Source: the usual recalibration puts a network into training mode, runs it and averages the statistics of the
    batches. Differs: each node gets the statistics of all samples together before its output is used, which is what
    the average approaches for large batches; nothing depends on how the samples are split into batches.

    Raises:
        InvalidDataset: there is no calibration sample.
        NonFiniteScore: activations overflow.
    """
    nodes = [node for node in graph.graph if node.op_type == "BatchNormalization"]
    if not nodes:
        return clone(graph)
    module = frozen_module(graph, run.device)
    walk = Walk(graph, module, fitting_inputs([graph], batches, run.device))
    changed: list[str] = []
    for node in walk.nodes():
        if node.op_type == "BatchNormalization":
            run.report(Phase.COMPENSATE, len(changed) / 2 / len(nodes), "normalisation statistics")
            changed += refresh(walk, node)
    run.report(Phase.COMPENSATE, 1.0, "normalisation statistics")
    return replace_weights(graph, {name: module.initializers[name].detach().cpu().numpy() for name in changed})


def refresh(walk: Walk, node: ir.Node) -> list[str]:
    """Store the statistics of what a BatchNormalization is about to read; return the initializers that changed.

    One that is applied several times keeps what it has: what it reads later is not known yet.
    """
    source, mean, variance = (node.inputs[index] for index in (0, 3, 4))
    names = [value.name for value in (mean, variance) if value is not None and value.name is not None]
    shared = any(value is not None and len(value.uses()) > 1 for value in node.inputs[1:])
    if shared or source is None or source.name is None or any(n not in walk.module.initializers for n in names):
        return []
    for name, moment in zip(names, moments(walk[source.name], node), strict=True):
        stored = walk.module.initializers[name]
        with torch.no_grad():
            stored.copy_(moment.to(stored))
    return names


def channel_statistics(
    graph: ir.Model, names: Sequence[str], batches: Sequence[Sequence[AnyArray]], run: Run
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return mean and variance over samples and positions of the first output of each named node.

    Shapes: each (channels,), channels being axis 1.

    Raises:
        InvalidDataset: there is no calibration sample.
        InvalidGraph: the graph has no such node.
    """
    missing = set(names) - {node.name for node in graph.graph}
    if missing:
        raise InvalidGraph("no such node", where=", ".join(sorted(missing)))
    if not sum(len(batch[0]) for batch in batches):
        raise InvalidDataset("channel statistics need calibration inputs", actual=0, allowed="at least 1")
    module = frozen_module(graph, run.device)
    sums = {name: _Sums() for name in names}
    watch = {name: sums[name].watch for name in names}
    for number, batch in enumerate(batches):
        run.report(Phase.COMPENSATE, number / len(batches), "channel statistics")
        with torch.no_grad():
            module.run(tensors(batch, run.device), watch=watch)
    return {name: sums[name].result() for name in names}


def moments(parts: Sequence[torch.Tensor], node: ir.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population variance per channel over batches, samples and positions, in float64.

    Raises:
        NonFiniteScore: they are NaN or infinite; the message names `node`, which reads the values.
    """
    sums = _Sums()
    for part in parts:
        sums.add(part)
    mean, variance = sums.moments()
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
        raise NonFiniteScore(
            "activations overflow on the calibration data",
            where=node.name or "",
            advice="Check the calibration data and its scaling for very large values.",
        )
    return mean, variance


class _Sums:
    """Running sums around a first guess of the mean, so that the variance does not cancel."""

    def __init__(self) -> None:
        self._count = 0
        self._guess: torch.Tensor | None = None
        self._first = torch.zeros(())
        self._second = torch.zeros(())

    def watch(self, _inputs: Sequence[torch.Tensor | None], outputs: Sequence[torch.Tensor]) -> None:
        self.add(outputs[0])

    def add(self, value: torch.Tensor) -> None:
        rows = value.detach().float().movedim(1, 0).flatten(1)
        if self._guess is None:
            self._guess = rows.mean(1, keepdim=True)
        rows = rows - self._guess
        self._first = self._first + rows.sum(1).double()
        self._second = self._second + rows.square().sum(1).double()
        self._count += rows.shape[1]

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self._first / self._count
        guess = self._guess[:, 0].double() if self._guess is not None else torch.zeros(())
        return mean + guess, (self._second / self._count - mean.square()).clamp_min(0)

    def result(self) -> tuple[FloatArray, FloatArray]:
        mean, variance = self.moments()
        return mean.cpu().numpy(), variance.cpu().numpy()
