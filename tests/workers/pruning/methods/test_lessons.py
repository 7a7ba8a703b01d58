"""Trainings between cuts: their batches, what they share, and what happens where memory runs out."""

from dataclasses import dataclass, field, replace

import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import task_of
from workers.pruning.graph.save import to_bytes
from workers.pruning.methods.lessons import learned, recipe_of
from workers.pruning.types import Phase


@dataclass
class OutOfMemoryOnce:
    """A report that finds no memory when the first step is told."""

    left: int = 1
    heard: list = field(default_factory=list)

    def __call__(self, phase, fraction, message="", **metrics):
        """Keep the message, or fail."""
        self.heard.append(message)
        if message.startswith("step") and self.left:
            self.left -= 1
            raise RuntimeError("CUDA out of memory")


def lesson(task, epochs=2.0):
    recipe = recipe_of(task, epochs=epochs, learning_rate=0.01)
    return recipe, learned(task, task.graph, recipe)


def chosen(task):
    """The task of a job that leaves the batch to the method."""
    return replace(task, finetune=replace(task.finetune, batch_size=None))


def test_few_samples_are_taken_in_small_batches():
    """Two epochs of 180 samples are ten steps of 32, where the usual batch of 128 would make them two."""
    task = chosen(task_of(labelled=True))
    recipe = recipe_of(task, epochs=2.0, learning_rate=0.01)

    assert len(task.data.train) == 180
    assert (recipe.batch_size, recipe.steps) == (32, 10)


def test_many_samples_are_taken_in_the_usual_batches():
    """With 4,500 samples an epoch has 32 steps of 140 and more of 128; batches of 128 it is, and 35 steps."""
    recipe = recipe_of(chosen(task_of(labelled=True, num_samples=5000)), epochs=1.0, learning_rate=0.01)

    assert (recipe.batch_size, recipe.steps) == (128, 35)


def test_the_batch_of_the_job_stays():
    """A batch that was asked for is taken, however many samples there are."""
    task = task_of(labelled=True)
    few = replace(task, finetune=replace(task.finetune, batch_size=48))

    assert recipe_of(few, epochs=1.0, learning_rate=0.01).batch_size == 48


def test_labels_are_learned():
    """The loss at the end of eight epochs is below that of the first step, and the graph that came in is untouched."""
    task = task_of(labelled=True)
    before = to_bytes(task.graph)
    _, trained = lesson(task, epochs=8.0)
    losses = [metrics["loss"] for _, _, _, metrics in task.run.report.heard if "loss" in metrics]

    assert losses[-1] < losses[0]
    assert to_bytes(task.graph) == before != to_bytes(trained)


def test_a_killed_lesson_ends_with_the_same_bytes():
    """What was recorded within a lesson is gone on with."""
    undisturbed = to_bytes(lesson(task_of(labelled=True))[1])
    journal = KeptInMemory()
    with pytest.raises(Killed):
        lesson(task_of(labelled=True, run=run_of(journal=journal, tick=6, report=Watch(Phase.FINETUNE, 0.6))))

    assert journal.memos["finetune"].state["steps"] > 0
    assert to_bytes(lesson(task_of(labelled=True, run=run_of(journal=journal)))[1]) == undisturbed


def test_less_memory_is_made_do_with():
    """Where a step does not fit, fine-tuning takes over and takes as many steps."""
    report = OutOfMemoryOnce()
    recipe, _ = lesson(task_of(labelled=True, run=run_of(report=report)))

    assert any(message.startswith(f"step {recipe.steps} of {recipe.steps}") for message in report.heard)
