"""How much the answer moves when half of a group goes: what to expect of a network before anything is pruned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.feed import tensors
from workers.pruning.scores.collect import Site, find_sites, gate_edits
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.types import AnyArray, FloatArray, Group, Grouping

REMOVED_SHARE: Final = 0.5
# Work of a whole measurement, in multiply-adds: seconds on one core. A node costs its arithmetic and as much again as
# a million multiply-adds for being called.
WORK_MACS: Final = 4e10
NODE_MACS: Final = 1e6
MAX_SAMPLES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Per group, the relative change of the outputs without its weaker half; None where it was not measured."""

    changes: tuple[float | None, ...]
    num_samples: int


def affordable(num_groups: int, macs: int, num_nodes: int) -> tuple[int, int]:
    """Give how many groups and how many samples the budget of work allows: all groups first, then samples, up to 8."""
    passes = WORK_MACS / (macs + NODE_MACS * num_nodes)
    if passes < num_groups + 1:
        return max(0, int(passes) - 1), 1
    return num_groups, min(MAX_SAMPLES, max(1, int(passes / (num_groups + 1))))


def sensitivity(  # what is run, what is known of it, and what is asked
    module: GraphModule,
    graph: ir.Model,
    grouping: Grouping,
    batch: Sequence[AnyArray],
    *,
    order: Sequence[int],
    progress: Callable[[float], None] = lambda _: None,
) -> Sensitivity:
    """Measure the change of the outputs when the half of a group with the smaller filters is removed, group by group.

    Source: own; the layer-wise probing of Li et al. (2017, section 3.2) with the outputs in place of the accuracy, so
    that no labels are needed. Nothing repairs the network in between, which pruning does: the figure orders groups and
    is no forecast of accuracy. Random inputs give random figures, but groups keep their order well enough to look at.

    Args:
        module: The network as `frozen_module` gives it for the CPU; its outputs of floating point are compared, each in
            units of its own root mean square.
        graph: The network.
        grouping: Its groups.
        batch: One array per input; the first axis counts samples.
        order: Indices of the groups to measure; the others get None.
        progress: Told the share of the groups that are done.

    Units: changes are root mean squares of differences over root mean squares of values, 0 for no change.
    """
    sites = find_sites(graph, grouping)
    sizes = magnitude(graph, grouping).values
    inputs = tensors(batch, "cpu")
    with torch.no_grad():
        before = module(*inputs)
        changes: list[float | None] = [None] * len(grouping.groups)
        for number, index in enumerate(order):
            gates = _without_weak_half(grouping.groups[index], sizes, grouping.num_units)
            changes[index] = _change(before, _run(module, inputs, sites, gates))
            progress((number + 1) / len(order))
    return Sensitivity(changes=tuple(changes), num_samples=len(batch[0]))


def _without_weak_half(group: Group, sizes: FloatArray, num_units: int) -> torch.Tensor:
    gates = torch.ones(num_units)
    weak = np.argsort(sizes[group.start : group.stop], kind="stable")[: int(group.width * REMOVED_SHARE)]
    gates[torch.from_numpy(weak + group.start)] = 0.0
    return gates


def _run(
    module: GraphModule, inputs: Sequence[torch.Tensor], sites: Sequence[Site], gates: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    closed = set(torch.nonzero(gates == 0).flatten().tolist())
    touched = [site for site in sites if closed.intersection(site.units.tolist())]
    rows = gates.expand(len(inputs[0]), -1)
    return module.run(inputs, edits=gate_edits(touched, rows))


def _change(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Root mean square over outputs of each one's relative change."""
    changes = []
    for old, new in zip(before, after, strict=True):
        if old.is_floating_point():
            scale = float(old.double().square().mean())
            moved = float((new.double() - old.double()).square().mean())
            changes.append(moved / scale if scale else float(moved > 0))
    return float(np.sqrt(np.mean(changes))) if changes else 0.0
