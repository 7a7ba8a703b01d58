"""How a network that shrinks while it trains is trained: what the job must allow, and at which rate."""

from dataclasses import replace
from typing import Final

import onnx_ir as ir

from workers.pruning.errors import InvalidDataset, PruningError
from workers.pruning.graph import cost
from workers.pruning.graph.head import inner_outputs
from workers.pruning.methods.task import Task
from workers.pruning.training.recipe import Recipe, Workload, activation_bytes, choose

SCRATCH_RATE: Final = 0.05  # from scratch, where the job names none


class TrainingNeeded(PruningError):
    """A job that forbids training, for a method that is training."""

    code = "training-needed"
    title = "This method needs training"


def training_recipe(task: Task, start: ir.Model, *, from_scratch: bool) -> Recipe:
    """The job's recipe; from scratch it is cross-entropy, with a rate for networks that know nothing."""
    settings = task.finetune
    if from_scratch:
        rate = settings.learning_rate or SCRATCH_RATE
        settings = replace(settings, distillation=0.0, temperature=None, learning_rate=rate)
    workload = Workload(
        student_macs=cost.count(start).macs,
        teacher_macs=0 if from_scratch else cost.count(task.graph).macs,
        num_nodes=len(list(start.graph)) + (0 if from_scratch else len(list(task.graph.graph))),
        activation_bytes=activation_bytes(start),
        num_samples=len(task.data.train),
        labelled=task.data.train.labels is not None,
        device=task.run.device,
    )
    return choose(settings, workload, task.head)


def require_training(task: Task, *, from_scratch: bool) -> None:
    """Refuse what cannot be trained.

    Raises:
        TrainingNeeded: the job forbids training.
        InvalidDataset: from scratch without labels, without one score per class, or where a gradient is stopped.
    """
    if task.finetune.steps == 0:
        raise TrainingNeeded(
            "Dynamic pruning cuts while it trains",
            where="finetune.steps",
            actual=0,
            allowed="1 or more",
            advice="Leave finetune.steps out, or use another method.",
        )
    if from_scratch and (task.data.train.labels is None or not task.head.is_classification):
        raise InvalidDataset(
            "Training from scratch needs labels and an output with one score per class",
            where="options.from_scratch",
            actual="no labels" if task.data.train.labels is None else "another kind of output",
            advice="Upload labelled data, or start from the uploaded weights.",
        )
    stopped = inner_outputs(task.graph)
    if from_scratch and stopped:
        raise InvalidDataset(
            "Training from scratch needs a gradient in every layer",
            where="options.from_scratch",
            actual=f"nodes that no gradient passes, which read {', '.join(sorted(stopped))}",
            advice="Start from the uploaded weights: what is in front of such nodes then learns what to give.",
        )
