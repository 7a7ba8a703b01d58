"""The states of a job and their legal steps as one table; nothing else may change a state."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from app.errors import IllegalTransition


class JobState(StrEnum):
    """Where a job is; the words of the API."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobKind(StrEnum):
    """What a job does. Only `prune` is seen by users; the others set the state of a model or dataset."""

    PRUNE = "prune"
    ANALYSE_MODEL = "analyse_model"
    ANALYSE_DATASET = "analyse_dataset"


class InputState(StrEnum):
    """Whether a model or dataset may be used."""

    ANALYSING = "analysing"
    READY = "ready"
    REJECTED = "rejected"


class Phase(StrEnum):
    """Where an attempt is; the words of the API, in the order of the flow."""

    INSPECT = "inspect"
    LOAD = "load"
    GROUP = "group"
    SCORE = "score"
    ALLOCATE = "allocate"
    CUT = "cut"
    COMPENSATE = "compensate"
    FINETUNE = "finetune"
    EXPORT = "export"
    VERIFY = "verify"
    MEASURE = "measure"


# queued -> failed: an input was deleted or rejected while the job waited.
# running -> queued: the worker was lost or gave the job back.
# cancelling ends as cancelled whatever the attempt answers: whoever cancelled is told one thing only.
TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
TERMINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
HELD: Final = frozenset({JobState.RUNNING, JobState.CANCELLING})  # a worker holds a lease on these


def check_transition(before: JobState, after: JobState) -> None:
    """Pass if the table knows this step.

    Raises:
        IllegalTransition: it does not; the message names both states and what is legal.
    """
    if after not in TRANSITIONS[before]:
        legal = ", ".join(sorted(TRANSITIONS[before])) or "nothing: the state is final"
        raise IllegalTransition(f"A job cannot go from {before} to {after}; legal is {legal}.")
