"""What dynamic pruning needs of a network: a form that trains well, a schedule, slices from one size to the next."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.allocation.budget import total
from workers.pruning.graph import renormalise
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.scores.collect import Site
from workers.pruning.surgery.plan import plan
from workers.pruning.training.dynamic import COPIES, Slices
from workers.pruning.training.memory import BYTES
from workers.pruning.training.reset import reset
from workers.pruning.types import Budget, Grouping, InitializerAxis, Keep, Metric, Role, Term

STATISTICS_SAMPLES: Final = 256
_THROUGH: Final = ("scale", "mean", "variance")  # the shift is the convolution's bias, which is grouped already


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When events are, as shares of training, and how much may be left at each."""

    start: float
    stop: float
    interval: float = 0.02

    @property
    def count(self) -> int:
        """Number of all events."""
        return 1 + max(1, math.ceil((self.stop - self.start) / self.interval - 1e-9))

    def due(self, fraction: float) -> int:
        """Number of events that should be over; the last one is at the end of the window."""
        if fraction < self.start:
            return 0
        return self.count if fraction >= self.stop else 1 + int((fraction - self.start) / self.interval + 1e-9)

    def budgets(self, fraction: float, full: Mapping[Metric, int], final: Sequence[Budget]) -> tuple[Budget, ...]:
        """What may be left at this share of training.

        Source: derived; cubic as in gradual magnitude pruning, r = r_f + (1 - r_f) (1 - (t - t0) / (t1 - t0))^3.
        """
        left = 1.0 - min(1.0, max(0.0, (fraction - self.start) / (self.stop - self.start)))
        return tuple(
            replace(budget, limit=budget.limit + max(0.0, full[budget.metric] - budget.limit) * left**3)
            for budget in final
        )


def trainable(task: Task, *, from_scratch: bool) -> tuple[ir.Model, Grouping]:
    """The network that training begins with, folded normalisations put back, and the units of that network."""
    graph = reset(task.graph, task.run.seed) if from_scratch else task.graph
    graph, names = steps.ready_to_train(task, graph, steps.calibration_batches(task, STATISTICS_SAMPLES))
    return graph, _with_inserted(task.grouping, graph, names)


def _with_inserted(grouping: Grouping, graph: ir.Model, names: Sequence[str]) -> Grouping:
    """The same units, which now also lie on the parameters and outputs of the inserted normalisations."""
    outputs = {node.name: node.outputs[0].name or "" for node in graph.graph}
    axes, values = list(grouping.initializer_axes), [dict(grouping.value_axes), dict(grouping.head_axes)]
    for name, by_value in product(names, values):
        inserted = name + renormalise.SUFFIX
        by_axis = by_value.get(outputs[name])
        if by_axis is None or 1 not in by_axis:
            continue
        by_value[outputs[inserted]] = by_axis
        axes += [
            InitializerAxis(
                initializer=f"{inserted}/{part}", axis=0, node=inserted, role=Role.THROUGH, units=by_axis[1]
            )
            for part in _THROUGH
        ]
    inside, heads = values
    return replace(grouping, initializer_axes=tuple(axes), value_axes=inside, head_axes=heads)


def relative(grouping: Grouping, before: Keep, after: Keep) -> Slices:
    """Positions to keep on each axis of each initializer to get from one cut to the next.

    Shapes: positions count along the axis as it is under `before`.
    """
    masks_before = plan(grouping, before).weights
    return {
        name: {
            axis: np.flatnonzero(kept[masks_before[name][axis]] if axis in masks_before.get(name, {}) else kept)
            for axis, kept in masks.items()
        }
        for name, masks in plan(grouping, after).weights.items()
    }


def held_terms(
    params: Sequence[Term], elements: Sequence[Term], kept: Sequence[int], *, sample_bytes: int, num_samples: int
) -> Iterator[Term]:
    """Bytes that training holds as a function of the kept widths, for the question what a unit's removal would free.

    Source: derived. Parameters count with gradient and momentum. Of the activations only the sum is measured; it is
    shared out by the elements of each value.
    """
    for term in params:
        yield replace(term, coefficient=COPIES * BYTES * term.coefficient)
    each = num_samples * sample_bytes / max(1.0, total(elements, kept))
    for term in elements:
        yield replace(term, coefficient=each * term.coefficient)


def positions(site: Site, keep: Keep) -> Site:
    """A reading of units as it is after a cut."""
    stays = np.ones(len(site.units), np.bool_)
    for units in (site.units, *site.crossing):
        stays &= (units < 0) | keep.mask[np.maximum(units, 0)]
    return replace(site, units=site.units[stays], crossing=tuple(units[stays] for units in site.crossing))
