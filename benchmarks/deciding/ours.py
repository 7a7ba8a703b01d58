"""The methods of the product as contenders: search and repair under watch, each stage kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import onnx_ir as ir

from benchmarks.deciding.spending import Spending
from benchmarks.deciding.workbench import Pruned
from benchmarks.setting import MemoryJournal
from workers.pruning.methods import METHODS, steps
from workers.pruning.methods.steps import Chosen
from workers.pruning.methods.task import Task
from workers.pruning.surgery.cut import cut
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A method of the product with its options."""

    method: str
    options: Mapping[str, Json] = field(default_factory=dict)
    compensates: bool = True

    def prune(self, task: Task, spending: Spending, settings: FinetuneSettings) -> Pruned:
        """Run the method; where `settings` has steps, its training is part of it."""
        with spending.on("search"):
            outcome = METHODS[self.method](replace(task, finetune=settings), **self.options)
        return Pruned(
            final=outcome.graph,
            keep=outcome.keep,
            spending=spending,
            facts=outcome.facts,
        )

    def stages(self, task: Task, pruned: Pruned) -> dict[str, ir.Model]:
        """The network right after the cut, with BatchNormalization re-estimated, and as the method left it.

        Nothing here is timed: these are intermediate states made again.
        """
        assert pruned.keep is not None
        chosen = Chosen(keep=pruned.keep, graph=cut(task.graph, task.grouping, pruned.keep), masked_vs_cut=0.0)
        apart = replace(task, run=replace(task.run, journal=MemoryJournal(), report=lambda *_, **__: None))
        batches = steps.calibration_batches(apart, steps.CALIBRATION_SAMPLES)
        recalibrated = steps.repair(apart, chosen, batches, compensated=False)
        stages = {"raw": chosen.graph, "recalibrated": recalibrated}
        return {**stages, "compensated": pruned.final} if self.compensates else stages


def _without(method: str) -> Ours:
    return Ours(method=method, options={"compensate": False}, compensates=False)


OURS: Final[Mapping[str, Ours]] = {
    "auto": Ours(method="auto"),
    "easiedge": Ours(method="easiedge"),
    "lcp": Ours(method="lcp"),
    "legr": Ours(method="lcp", options={"mode": "legr"}),
    "lcp_authors": Ours(method="lcp", options={"preset": "authors"}, compensates=False),
    "magnitude": Ours(method="magnitude"),
    "random": Ours(method="random"),
    "magnitude_alone": _without("magnitude"),
    "random_alone": _without("random"),
    "auto_alone": _without("auto"),
    # Ranked anew in each round, on as many samples as the others have; no accuracy stops it before the target.
    "taylor": Ours(method="taylor", options={"max_accuracy_drop": 1.0, "ranking_samples": 512}, compensates=False),
    "dynhp": Ours(method="dynhp", compensates=False),
}
TRAINS: Final = ("dynhp",)  # cannot be had without training
