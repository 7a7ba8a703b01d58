"""One pruned network: run the method, write the file, judge the file, and say how far its quality fell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.prune_spec import PruneSpec
from workers.pruning.export.parity import first, parity
from workers.pruning.export.write import write
from workers.pruning.graph import load
from workers.pruning.graph.open_batch import close_batch, fixed_batch
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.storage import rounded
from workers.pruning.graph.trunk import cut_off, restored
from workers.pruning.graph.twin import runnable
from workers.pruning.methods import METHODS, require_aim
from workers.pruning.methods.room import lack
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.training.evaluate import Answers, Evaluation, evaluate
from workers.pruning.types import AnyArray, Json, Phase

PARITY_SAMPLES: Final = 8
CHOOSING, SHRINKING = "auto", "dynhp"
_ROUNDING: Final = 1e-9  # 0.93 - 0.90 is more than 0.03 in floating point


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """One pruned network as bytes, and how good it is on held-out samples."""

    outcome: Outcome
    content: bytes
    parity: float
    evaluation: Evaluation
    before: Evaluation | None = None  # of the network that the method made of the upload before it pruned, if it did


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """How far held-out quality fell, and how far it may."""

    of: str  # accuracy, or agreement with the original where there are no labels
    found: float
    allowed: float | None

    @property
    def held(self) -> bool:
        """Whether the fall is within what is allowed."""
        return self.allowed is None or self.found <= self.allowed + _ROUNDING

    def to_json(self) -> dict[str, Json]:
        """Give the figures of the report."""
        held = None if self.allowed is None else self.held
        return {"of": self.of, "found": self.found, "allowed": self.allowed, "held": held}


def pruned(spec: PruneSpec, task: Task, metadata: dict[str, str]) -> Pruned:
    """Run the method, write the file, and judge the file rather than the graph it came from.

    Raises:
        LatencyNotAimedAt: the target is a latency and the method decides in rounds.
        PruningError: whatever a stage refuses, each by its own class.
    """
    run = task.run
    require_aim(spec.method, task)
    outcome = _outcome(spec, task)
    if outcome.pruned_task is not None:
        task = outcome.pruned_task
    run.report(Phase.EXPORT, 0.0)
    final = rounded(close_batch(outcome.graph, task.uploaded), task.uploaded)
    content = _file(final, task, metadata)
    run.report(Phase.VERIFY, 0.0)
    samples = task.data.validation
    count = fixed_batch(task.uploaded) or PARITY_SAMPLES
    inputs = samples.batch(np.arange(count, dtype=np.int64) % len(samples))
    read = _part_read(content, inputs, task)
    difference = parity(content if task.trunk is None else to_bytes(read), final, inputs, run)
    run.report(Phase.VERIFY, 0.3, "held-out samples")
    evaluation = _judged(read, task)
    before = None if outcome.pruned_task is None else _judged(task.uploaded, task)
    return Pruned(outcome=outcome, content=content, parity=difference, evaluation=evaluation, before=before)


def _file(final: ir.Model, task: Task, metadata: dict[str, str]) -> bytes:
    """The file of a pruned network, with what was left out of the task put back."""
    if task.trunk is None:
        return write(final, task.uploaded, metadata)
    return write(restored(final, task.trunk), task.trunk.whole, metadata)


def _part_read(content: bytes, inputs: Sequence[AnyArray], task: Task) -> ir.Model:
    """What the file holds of the part that can be compared; all of the file has to run."""
    graph = load.load(content)
    if task.trunk is None:
        return graph
    own = inputs[: len(graph.graph.inputs)]  # without what the file computes of them
    Session(runnable(graph, content)).run([first(array, fixed_batch(task.uploaded) or 1) for array in own])
    return cut_off(graph, task.uploaded)


def _outcome(spec: PruneSpec, task: Task) -> Outcome:
    """Run the method; `auto` gives way to `dynhp` where training the network whole would not fit the worker."""
    lacking = lack(task) if spec.method == CHOOSING else None
    if lacking is None:
        return METHODS[spec.method](task, **spec.options)
    outcome = METHODS[SHRINKING](task, memory_budget_bytes=lacking.room_bytes)
    return replace(outcome, warnings=(lacking.warning, *outcome.warnings), facts={**lacking.to_json(), **outcome.facts})


def _judged(graph: ir.Model, task: Task) -> Evaluation:
    return evaluate(
        graph,
        task.data.validation,
        reference=task.reference if isinstance(task.reference, Answers) else task.uploaded,
        threads=task.run.num_threads,
        progress=lambda part: task.run.report(Phase.VERIFY, part, "held-out samples"),
    )


def fall(spec: PruneSpec, before: Evaluation, after: Evaluation) -> Drop | None:
    """Compare held-out accuracy; agreement stands in where there are no labels, nothing where there are no classes."""
    if before.accuracy is not None and after.accuracy is not None:
        return Drop(of="accuracy", found=before.accuracy - after.accuracy, allowed=spec.max_accuracy_drop)
    if after.agreement is not None:
        return Drop(of="agreement", found=1.0 - after.agreement, allowed=spec.max_accuracy_drop)
    return None
