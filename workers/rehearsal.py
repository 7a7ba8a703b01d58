"""A network run a little on made-up inputs, at analysis: how sensitive its groups are, and how fast it runs here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import PruningError
from workers.pruning.graph import cost
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.graph.open_batch import fixed_batch, open_batch
from workers.pruning.graph.shapes import known_shapes
from workers.pruning.graph.twin import fed_specs
from workers.pruning.groups.find import find
from workers.pruning.scores.sensitivity import MAX_SAMPLES, affordable, sensitivity
from workers.pruning.training.data import synthetic
from workers.pruning.types import AnyArray, Grouping, Json

SEED: Final = 0
_TIMED_RUNS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What was found, by group id; `note` says why there is nothing, or why not everything."""

    changes: dict[str, float | None]
    num_samples: int
    seconds_per_run: float | None  # of the forward pass in torch, whatever the batch
    seconds_per_sample: float | None
    note: str = ""

    @property
    def speed(self) -> Json:
        """Give the speed in the words of the analysis."""
        if self.seconds_per_run is None:
            return None
        return {"seconds_per_run": self.seconds_per_run, "seconds_per_sample": self.seconds_per_sample, "threads": 1}


# What torch raises at a node whose inputs do not fit together, which a file may say of itself and still be read.
_BREAKS: Final = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError)


def rehearse(graph: ir.Model, grouping: Grouping, shares: Sequence[float], *, macs: int) -> Rehearsal:
    """Measure sensitivities, the groups with the largest `shares` of the work first, and the forward pass's time.

    `grouping` is that of the graph, `macs` its work for one sample.

    A network that cannot be run on made-up inputs is analysed all the same; the note carries the reason.
    """
    try:
        opened = open_batch(graph)
        if (fixed_batch(graph) or 1) > 1:  # several samples become one; found and counted as a job will
            shapes = known_shapes(opened)
            grouping = find(opened, shapes=shapes.at_one)
            macs = sum(cost.node_macs(opened, shapes.nominal).values())
        return _rehearsed(opened, grouping, shares, macs)
    except (PruningError, *_BREAKS) as error:
        return Rehearsal(
            changes={}, num_samples=0, seconds_per_run=None, seconds_per_sample=None,
            note=f"Sensitivity was not measured: {error}",
        )  # fmt: skip


def _rehearsed(graph: ir.Model, grouping: Grouping, shares: Sequence[float], macs: int) -> Rehearsal:
    torch.set_num_threads(1)
    num_groups, num_samples = affordable(len(grouping.groups), macs, len(list(graph.graph)))
    made_up = synthetic(graph, fed_specs(graph), seed=SEED, num_samples=2 * MAX_SAMPLES)
    batch = made_up.train.batch(np.arange(num_samples, dtype=np.int64))
    order = sorted(range(len(grouping.groups)), key=lambda index: (-shares[index], index))[:num_groups]
    module = frozen_module(graph, "cpu")
    found = sensitivity(module, graph, grouping, batch, order=order)
    per_run, per_sample = _speed(module, batch)
    left_out = len(grouping.groups) - len(order)
    note = f"Sensitivity was measured for the {len(order)} groups with the most work; {left_out} are left out."
    return Rehearsal(
        changes={group.id: change for group, change in zip(grouping.groups, found.changes, strict=True)},
        num_samples=found.num_samples,
        seconds_per_run=per_run,
        seconds_per_sample=per_sample,
        note=note if left_out else "",
    )


def _speed(module: torch.nn.Module, batch: Sequence[AnyArray]) -> tuple[float, float]:
    """Give the seconds of a forward pass that do not grow with its batch, and those of each sample, by two points."""
    sizes = (1, len(batch[0])) if len(batch[0]) > 1 else (1, 1)
    times = []
    for size in sizes:
        inputs = tensors([array[:size] for array in batch], "cpu")
        times.append(min(_timed(module, inputs) for _ in range(_TIMED_RUNS)))
    if sizes[1] == 1:
        return 0.0, times[0]
    per_sample = max(0.0, (times[1] - times[0]) / (sizes[1] - 1))
    return max(0.0, times[0] - per_sample), per_sample


def _timed(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        module(*inputs)
    return time.perf_counter() - start
