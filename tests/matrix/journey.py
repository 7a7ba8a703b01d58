"""The way of a file through the engine, with every promise on it checked."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import torch

from workers.pruning.allocation.budget import cost, reachable
from workers.pruning.allocation.rank import allocate
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.scores.random_order import random_scores
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import AnyArray, Budget, Cost, CostModel, Grouping, Keep, Metric, Scores

MIN_KEEP = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What is known of a graph before anything is cut."""

    graph: ir.Model
    grouping: Grouping
    model: CostModel
    full: Cost

    @property
    def least(self) -> float:
        """Smallest reachable share of the MACs."""
        return reachable(self.model, min_keep=MIN_KEEP, round_to=1)[Metric.MACS] / max(self.full.macs, 1)


def analyse(graph: ir.Model) -> Analysis:
    """Groups and cost; the model of the cost tells for all widths what counting the graph tells."""
    grouping = find(graph)
    model = cost_model(graph, grouping)
    full = cost(model, model.widths)
    counted = count(graph)
    assert (full.macs, full.params, full.peak_activation_bytes) == (
        counted.macs,
        counted.params,
        counted.peak_activation_bytes,
    )
    return Analysis(graph=graph, grouping=grouping, model=model, full=full)


def prune(analysis: Analysis, share: float, *, seed: int = 0) -> ir.Model:
    """Cut to a share of the MACs, or to what can be reached, and check all that surgery promises; give the cut graph.

    An odd seed draws the scores, an even one takes the norms of the weights.
    """
    grouping, model = analysis.grouping, analysis.model
    limit = max(share, analysis.least) * analysis.full.macs
    keep = allocate(
        _scores(analysis, seed),
        grouping,
        model,
        [Budget(metric=Metric.MACS, limit=limit)],
        round_to=1,
        min_keep=MIN_KEEP,
    )
    smaller = cut(analysis.graph, grouping, keep)
    kept = [int(keep.mask[group.start : group.stop].sum()) for group in grouping.groups]
    predicted, counted = cost(model, kept), count(smaller)

    assert counted.macs <= limit
    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert predicted.peak_activation_bytes == counted.peak_activation_bytes
    assert predicted.size_bytes >= counted.size_bytes
    require_equal(analysis, keep, smaller)
    require_runs(smaller)
    return smaller


def _scores(analysis: Analysis, seed: int) -> Scores:
    return random_scores(analysis.grouping, seed) if seed % 2 else magnitude(analysis.graph, analysis.grouping)


def require_equal(analysis: Analysis, keep: Keep, smaller: ir.Model) -> None:
    """The cut network computes what the masked one computes."""
    masked = mask(analysis.graph, analysis.grouping, keep)
    tolerance = 2e-2 if any(value.dtype == ir.DataType.FLOAT16 for value in analysis.graph.graph.inputs) else 1e-4

    assert check(masked, smaller, seed=1, num_inputs=4) <= tolerance


def require_runs(graph: ir.Model) -> None:
    """The full checker accepts the file; ONNX Runtime runs it without and with optimisation and both agree."""
    data = to_bytes(graph)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    inputs = feed(graph)
    plain = Session(data, optimised=False).run(inputs)
    optimised = Session(data, optimised=True).run(inputs)
    half = any(array.dtype == np.float16 for array in plain)
    for one, other in zip(plain, optimised, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-2 if half else 1e-3, atol=2e-2 if half else 1e-4)


def feed(graph: ir.Model, seed: int = 3, batch: int = 1, side: int = 64) -> tuple[AnyArray, ...]:
    """Seeded inputs: Gaussian floats, integers 0 and 1; open axes but the first are `side` long."""
    random = np.random.default_rng(seed)
    arrays = []
    for value in graph.graph.inputs:
        open_lengths = [batch, *([side] * 7)]
        shape = [n if isinstance(n, int) else open_lengths[axis] for axis, n in enumerate(value.shape)]
        dtype = value.dtype.numpy()
        drawn = random.standard_normal(shape) if np.issubdtype(dtype, np.floating) else random.integers(0, 2, shape)
        arrays.append(drawn.astype(dtype))
    return tuple(arrays)


def require_trainable(graph: ir.Model) -> None:
    """The executor gives what ONNX Runtime gives, and every parameter that matters gets a gradient."""
    inputs = feed(graph)
    module = GraphModule(graph).eval()
    outputs = module(*(torch.from_numpy(array) for array in inputs))
    for expected, actual in zip(Session(to_bytes(graph), optimised=False).run(inputs), outputs, strict=True):
        largest = max(float(np.abs(expected).max()), 1e-3)
        np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-3, atol=1e-4 * largest)
    sum(output.float().sum() for output in outputs).backward()
    gradients = [parameter.grad for parameter in module.parameters()]

    assert sum(gradient is not None for gradient in gradients) >= 0.9 * len(gradients) > 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)
