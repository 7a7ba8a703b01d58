"""Short trainings between cuts: what they share is found out once, and each costs little but its steps."""

from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import says_no_memory
from workers.pruning.graph import renormalise
from workers.pruning.graph.feed import frozen_module, tensors
from workers.pruning.methods import steps
from workers.pruning.methods.regime import training_recipe
from workers.pruning.methods.task import Task
from workers.pruning.training.dynamic import DynamicTrainer
from workers.pruning.training.loop import NUM_PROBES, SECONDS_BETWEEN_RECORDS
from workers.pruning.training.probing import completed
from workers.pruning.training.recipe import Recipe, fallen
from workers.pruning.types import Phase

SMALL_BATCH: Final = 32
FEW_STEPS: Final = 32  # in an epoch, below which batches are smaller
STATISTICS_SAMPLES: Final = 128  # for the BatchNormalization that a lesson begins with


def recipe_of(task: Task, *, epochs: float, learning_rate: float) -> Recipe:
    """What all lessons of a task share: steps, batch, rate, and the views and the precision that the original bears.

    Source: ours. The original is asked once and not for every lesson. Where an epoch has fewer than 32 steps of the
    usual batch, batches are smaller, down to the 32 samples of the public code that pruning in rounds is of: 128 of 450
    samples would make an epoch three steps.
    """
    samples, asked = task.data.train, task.finetune.batch_size
    settings = replace(task.finetune, steps=None, epochs=epochs, learning_rate=learning_rate, distillation=0.0)
    recipe = training_recipe(replace(task, finetune=settings), task.graph, from_scratch=False)
    if asked is None:
        fewer = min(recipe.batch_size, max(SMALL_BATCH, len(samples) // FEW_STEPS))
        recipe = replace(recipe, batch_size=fewer, steps=max(1, round(epochs * max(1, len(samples) // fewer))))
    probes = samples.batch(np.arange(min(NUM_PROBES, len(samples)), dtype=np.int64))
    original = frozen_module(task.graph, task.run.device)
    return completed(recipe, original, tensors(probes, task.run.device), task.run.device)


def learned(task: Task, graph: ir.Model, recipe: Recipe) -> ir.Model:
    """Train a cut network on labels, with a rate that falls to zero as a cosine; gives a new graph.

    Differs from the fine-tuning of every method: nothing is undone where the loss did not fall, since whoever asks for
    a lesson judges what came of it. Where memory runs out, that fine-tuning takes over, which can do with less.

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    batches = steps.calibration_batches(task, STATISTICS_SAMPLES)
    ready, _ = steps.ready_to_train(task, graph, batches)
    try:
        return renormalise.fold(_taken(task, ready, recipe))
    except (RuntimeError, MemoryError) as error:
        if not says_no_memory(error):
            raise
    known = replace(
        task.finetune, steps=recipe.steps, epochs=None, learning_rate=recipe.learning_rate, distillation=0.0
    )
    fewer = replace(task, finetune=known, step_prefix=f"{task.step_prefix}less-")
    return steps.train(fewer, graph, batches)[0]


def _taken(task: Task, ready: ir.Model, recipe: Recipe) -> ir.Model:
    """Take every step that is left, recording on the way."""
    run, name = task.run, f"{task.step_prefix}finetune"
    trainer = DynamicTrainer(ready, None, task.data.train, recipe, batch_size=recipe.batch_size, run=run)
    trainer.recipe = recipe  # without the original the trainer cannot tell the precision that it bears
    memo = run.journal.recall(name)
    if memo is not None and memo.arrays:  # emptied ones made room for what came after
        trainer.restore(ready, memo)
    due = run.clock() + SECONDS_BETWEEN_RECORDS
    while trainer.fraction < 1.0:
        trainer.step(lambda _: {}, fallen(recipe.learning_rate, trainer.fraction))
        progress = trainer.progress
        told = f"step {progress.steps} of {recipe.steps}"
        run.report(Phase.FINETUNE, trainer.fraction, told, loss=progress.loss or 0.0, step=progress.steps)
        if run.clock() >= due:
            run.journal.record(name, trainer.memo())
            due = run.clock() + SECONDS_BETWEEN_RECORDS
    return trainer.trained()
