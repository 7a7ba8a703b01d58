"""`auto`: information gain per multiply-add, closed-form compensation, distillation."""

from workers.pruning.methods import steps
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.types import Phase


def auto(
    task: Task,
    *,
    calibration_samples: int = 512,
    probes: int = 4,
    alpha: float = 1.0,
    compensate: bool = True,
) -> Outcome:
    """Prune by what each channel tells about the answer, per multiply-add that it costs.

    Source: the score is the information gain of EasiEdge (Yu, Cui et al. 2021) in its half-Fisher form, estimated with
    Rademacher probes; the sequential least-squares repair and the order by score over cost are our own. Differs from
    EasiEdge: no ADMM, no labels. With probability outputs the gain is exact to second order; other outputs are taken
    as Gaussian.

    Raises:
        TargetUnreachable: the floor is above the target.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: the loss of fine-tuning is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    task.run.report(Phase.SCORE, 0.0)
    batches = steps.calibration_batches(task, calibration_samples)
    scores = steps.remembered_scores(
        task,
        lambda: information_gain(task.graph, task.grouping, batches, probes=probes, run=task.run),
    )
    chosen = steps.choose(task, scores, alpha)
    return steps.recover(task, chosen, batches, compensated=compensate, score_source=scores.source)
