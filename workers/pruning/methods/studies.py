"""What pruning in rounds would have given otherwise: other lengths of training in a round, other parts of the data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, pstdev
from typing import Final

import numpy as np

from workers.pruning.methods.labels import Divided
from workers.pruning.methods.rounds import Round, Within
from workers.pruning.methods.task import Task
from workers.pruning.training.samples import Samples, select
from workers.pruning.types import Json, Memo, Phase

FOLD_STREAM: Final = 209  # keeps these draws apart from others of the same seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a course of rounds went."""

    rounds: tuple[Round, ...]
    stopped_by: str
    base: float  # accuracy before the first round

    @property
    def last(self) -> Round | None:
        """The last round that was accepted, if one was."""
        return next((each for each in reversed(self.rounds) if each.accepted), None)

    def to_json(self) -> dict[str, Json]:
        """What is shipped of it: size, accuracy on the samples that decide, and what ended it."""
        last = self.last
        return {
            "rounds": len(self.rounds),
            "stopped_by": self.stopped_by,
            "accuracy_before": self.base,
            "accuracy": self.base if last is None else last.accuracy,
            "channels": None if last is None else last.channels,
            "macs": None if last is None else last.macs,
        }


Course = Callable[[Task, float, Divided], Ran]  # (task, epochs per round, data) -> how it went


def sensitivity(task: Task, data: Divided, course: Course, epochs: Sequence[float], share: "Share") -> list[Json]:
    """Repeat the course with other lengths of training in every round.

    Source: Wu, Singla, Jahanshahi, Bertino 2019, the study of 1 to 10 epochs a round. `seconds` are of this attempt,
    and absent where an earlier one had begun.
    """
    rows: list[Json] = []
    for number, length in enumerate(epochs):
        name = f"epochs{length:g}-"
        found, seconds = _timed(share.of(task, number, name, f"{length:g} epochs a round"), course, length, data)
        total = length * len(found.rounds)
        rows.append({"epochs_per_round": length, "epochs": total, "seconds": seconds, **found.to_json()})
    return rows


def cross_validated(task: Task, parts: Sequence[Divided], course: Course, epochs: float, share: "Share") -> list[Ran]:
    """Repeat the course with each part of the training samples deciding, and the others learned from.

    Source: the same, five folds, each class in proportion.
    """
    found = []
    for number, part in enumerate(parts):
        inner = share.of(task, number, f"fold{number + 1}-", f"fold {number + 1} of {len(parts)}")
        found.append(_timed(inner, course, epochs, part)[0])
    return found


def by_fold(found: Sequence[Ran]) -> list[Json]:
    """One row for each fold."""
    return [{"fold": number, **ran.to_json()} for number, ran in enumerate(found, start=1)]


def by_round(found: Sequence[Ran]) -> list[Json]:
    """Mean and spread over folds after each round that all of them took."""
    rows: list[Json] = []
    for entries in zip(*(ran.rounds for ran in found), strict=False):
        accuracies = [entry.accuracy for entry in entries]
        rows.append(
            {
                "round": entries[0].number,
                "channels": mean(entry.channels for entry in entries),
                "accuracy_mean": mean(accuracies),
                "accuracy_deviation": pstdev(accuracies),
                "accuracy_least": min(accuracies),
                "accuracy_most": max(accuracies),
            }
        )
    return rows


def parted(data: Divided, folds: int, seed: int) -> list[Divided]:
    """Divide all labelled training samples into folds, each of which decides once."""
    learning, deciding = data.learning.train, data.deciding
    if learning.labels is None or deciding.labels is None:
        raise ValueError("samples that decide have labels")
    whole = replace(
        learning,
        index=np.concatenate([learning.index, deciding.index]),
        labels=np.concatenate([learning.labels, deciding.labels]),
    )
    fold = _folds(whole, folds, seed)
    return [
        Divided(
            learning=replace(data.learning, train=select(whole, fold != number)),
            deciding=select(whole, fold == number),
            warnings=(),
        )
        for number in range(folds)
    ]


def _folds(samples: Samples, folds: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The fold of each sample; in the order of classes every fold takes its turn."""
    order = np.random.default_rng([seed, FOLD_STREAM]).permutation(len(samples))
    if samples.labels is not None:
        order = order[np.argsort(samples.labels[order], kind="stable")]
    fold = np.empty(len(samples), np.int64)
    fold[order] = np.arange(len(samples)) % folds
    return fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of the rounds' progress that studies have, one after the other."""

    first: int
    count: int

    def of(self, task: Task, number: int, prefix: str, message: str) -> Task:
        """The task of one study: its journal entries and its part of the progress."""
        return within(task, self.first + number, self.count, prefix=prefix, message=message)


def within(task: Task, number: int, count: int, *, prefix: str = "", message: str = "") -> Task:
    """The task of the course number `number` of `count`."""
    if count == 1:
        return task
    phase = Phase.SCORE if task.finetune.steps == 0 else Phase.FINETUNE
    shares = {phase: (0.0, 1.0)}
    report = Within(
        report=task.run.report,
        start=number / count,
        stop=(number + 1) / count,
        message=message or "rounds",
        shares=shares,
        phase=phase,
    )
    return replace(task, run=replace(task.run, report=report), step_prefix=f"{task.step_prefix}{prefix}")


def _timed(task: Task, course: Course, epochs: float, data: Divided) -> tuple[Ran, float | None]:
    """Run a course; gives the seconds where this attempt did it all, and remembers them."""
    journal, name = task.run.journal, f"{task.step_prefix}study"
    begun = journal.recall(name)
    if begun is None:
        journal.record(name, Memo(state={"seconds": None}))
    started = task.run.clock()
    found = course(task, epochs, data)
    if begun is not None:
        seconds = begun.state["seconds"]
        return found, float(seconds) if isinstance(seconds, int | float) else None
    taken = task.run.clock() - started
    journal.record(name, Memo(state={"seconds": taken}))
    return found, taken
