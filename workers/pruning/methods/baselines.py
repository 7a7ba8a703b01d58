"""The baselines that every method is compared with: filter magnitude, and chance."""

from typing import Literal

from workers.pruning.methods import steps
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.scores.magnitude import magnitude as magnitude_scores
from workers.pruning.scores.random_order import random_scores
from workers.pruning.types import Phase, Scores


def magnitude(task: Task, *, norm: Literal["l1", "l2"] = "l2", alpha: float = 0.0, compensate: bool = True) -> Outcome:
    """Prune the channels whose filters are smallest; with alpha 0 one threshold holds for the whole network.

    Source: Li et al. 2017 (l1 norm of filters). Differs: all filters tied to a channel count together, and the
    ranking is global.

    Raises:
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    return _baseline(task, magnitude_scores(task.graph, task.grouping, norm=norm), alpha, compensated=compensate)


def random(task: Task, *, compensate: bool = True) -> Outcome:
    """Prune channels by chance, seeded: what a score has to beat.

    Raises:
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
    """
    return _baseline(task, random_scores(task.grouping, task.run.seed), 0.0, compensated=compensate)


def _baseline(task: Task, scores: Scores, alpha: float, *, compensated: bool) -> Outcome:
    task.run.report(Phase.SCORE, 1.0)
    batches = steps.calibration_batches(task, steps.CALIBRATION_SAMPLES)
    chosen = steps.choose(task, scores, alpha)
    return steps.recover(task, chosen, batches, compensated=compensated, score_source=scores.source)
