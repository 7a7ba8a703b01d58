"""Whether the worker has the memory to train a network whole, or only one that shrinks while it trains."""

from dataclasses import dataclass
from typing import Final

from workers.pruning.graph import cost
from workers.pruning.methods.regime import training_recipe
from workers.pruning.methods.shrinking import trainable
from workers.pruning.methods.task import Task
from workers.pruning.training import batch_size
from workers.pruning.training.dynamic import COPIES, DynamicTrainer
from workers.pruning.training.memory import BYTES
from workers.pruning.training.recipe import activation_bytes
from workers.pruning.types import Json

USUAL_BATCH: Final = 32
ROOM_SHARE: Final = 0.7  # of what is unused; short-lived gradients, workspaces and the data take the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Training the network whole needs more than there is."""

    needed_bytes: int  # of training with the usual batch, by the measured model of memory
    room_bytes: int

    @property
    def warning(self) -> str:
        """Say what was done and why."""
        need, room = (f"{figure / 2**20:,.0f} MiB" for figure in (self.needed_bytes, self.room_bytes))
        return (
            f"Training this network with batches of {USUAL_BATCH} needs {need}, and the worker has {room}: in place of"
            " auto, dynhp was chosen, which cuts while it trains and stays within that."
        )

    def to_json(self) -> dict[str, Json]:
        """Give the figures of the report."""
        return {"chosen_method": "dynhp", "needed_bytes": self.needed_bytes, "room_bytes": self.room_bytes}


def lack(task: Task) -> Lack | None:
    """Say what is lacking to train the whole network; None where it fits, or where shrinking would not help either.

    Source: derived; the rule M(k_0, 32) > memory of the worker, M measured as in `training.memory`. Without a limit,
    training or data, and for a latency, which `dynhp` cannot aim at, there is nothing to choose.
    """
    free = task.run.memory_bytes
    if free is None or task.finetune.steps == 0 or task.latency_budgets or task.data.kind == "synthetic":
        return None
    room = int(ROOM_SHARE * free)
    most = COPIES * BYTES * cost.count(task.graph).params + 2 * USUAL_BATCH * activation_bytes(task.graph)
    if most <= room:
        return None
    start, _ = trainable(task, from_scratch=False)
    recipe = training_recipe(task, start, from_scratch=False)
    trainer = DynamicTrainer(start, task.graph, task.data.train, recipe, batch_size=recipe.batch_size, run=task.run)
    model = trainer.memory(lambda _: {})
    usual, least = (min(each, len(task.data.train)) for each in (USUAL_BATCH, batch_size.MULTIPLE))
    if model.at(usual) <= room or model.at(least) > room:
        return None
    return Lack(needed_bytes=model.at(usual), room_bytes=room)
