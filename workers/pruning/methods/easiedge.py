"""`easiedge`: ADMM between training and a global ranking by information gain."""

from dataclasses import replace
from functools import partial

from workers.pruning.graph import renormalise
from workers.pruning.methods import admm, steps
from workers.pruning.methods.admm import Iterate, Problem
from workers.pruning.methods.iterates import recalled, record
from workers.pruning.methods.steps import Batches, Chosen
from workers.pruning.methods.subproblems import (
    Feasible,
    Gain,
    Options,
    Setting,
    Walk,
    improved,
    judged,
    point,
    prepared,
    projected,
    score,
)
from workers.pruning.methods.task import Outcome, Task
from workers.pruning.surgery.check import largest_difference
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Json, Phase


def easiedge(  # noqa: PLR0913  # the options of a job
    task: Task,
    *,
    gain: Gain = "half_fisher",
    probes: int = 4,
    calibration_samples: int = 512,
    rounds: int = 6,
    steps_per_round: int | None = None,
    rho: float = 1e-3,
    rho_growth: float = 10**0.5,
    rho_max: float = 0.1,
    learning_rate: float = 0.01,
    alpha: float = 0.0,
    compensate: bool = True,
) -> Outcome:
    """Prune by global information gain within ADMM, then cut, repair and fine-tune.

    Source: Yu, Cui et al., "EasiEdge" (IEEE IoT Journal 8(3), 2021), of which only the abstract could be read: ADMM
    with a performance-improving and a global pruning subproblem, filters ranked by information gain on the class
    distribution, a Taylor approximation of it. Everything else is our derivation (docs/methods/easiedge.md): the
    second-order gain, the cubic budgets, the growth of rho, the choice of the best feasible round, the repair after the
    cut. No labels enter unless fine-tuning asks for cross-entropy.

    Without training (`finetune.steps` 0, or no data) it is the ranking alone, and compensation is always on; so it is
    for a latency, which is reached by measuring widths and not by rounds.

    Raises:
        TargetUnreachable: the floor is above the target.
        InvalidDataset: the variant of the gain does not serve this output.
        SurgeryCheckFailed: cut and masked networks differ.
        TrainingDiverged: a loss is no longer finite.
        NonFiniteScore: a score is NaN or infinite.
    """
    options = Options(
        gain=gain,
        probes=probes,
        rounds=rounds,
        steps_per_round=steps_per_round,
        rho=rho,
        rho_growth=rho_growth,
        rho_max=rho_max,
        learning_rate=learning_rate,
        alpha=alpha,
    )
    task.run.report(Phase.SCORE, 0.0)
    batches = steps.calibration_batches(task, calibration_samples)
    if task.latency_budgets or task.finetune.steps == 0 or task.data.kind == "synthetic" or len(task.data.train) < 2:
        return _ranked_once(task, options, batches)
    return _walked(task, options, batches, compensated=compensate)


def _ranked_once(task: Task, options: Options, batches: Batches) -> Outcome:
    """ADMM without training: W stays, so the first projection is the last."""
    scores = steps.remembered_scores(task, lambda: score(task, task.graph, task.grouping, batches, options))
    chosen = steps.choose(task, scores, options.alpha)
    outcome = steps.recover(task, chosen, batches, compensated=True, score_source=scores.source)
    why = "The target is a latency" if task.latency_budgets else "There was nothing to train with"
    note = f"{why}, so EasiEdge was its ranking alone, with compensation and without ADMM."
    return replace(outcome, warnings=(*outcome.warnings, note), facts={**outcome.facts, "admm_rounds": []})


def _walked(task: Task, options: Options, batches: Batches, *, compensated: bool) -> Outcome:
    setting, walk = prepared(task, options, batches)
    problem = Problem(
        point=lambda state: point(state.graph, setting.trained),
        improve=partial(improved, setting),
        project=partial(projected, setting),
        growth=options.rho_growth,
        rho_max=options.rho_max,
    )
    iterate = recalled(setting, walk) or admm.start(problem, walk, options.rho)
    while len(iterate.residuals) < options.rounds and not iterate.settled:
        iterate = judged(setting, admm.advance(problem, iterate))
        record(setting, iterate)
    best = iterate.state.best
    if best is None:
        raise ValueError("ADMM takes one round at least")
    chosen = _cut(task, setting, best)
    outcome = steps.recover(
        task,
        chosen,
        batches,
        compensated=compensated,
        score_source=f"information_gain_{options.gain}",
        uncut=renormalise.fold(best.graph),
    )
    return replace(outcome, facts=_facts(iterate))


def _cut(task: Task, setting: Setting, best: Feasible) -> Chosen:
    """The hard prune: the units are cut out, and the BatchNormalization that was put back is folded."""
    task.run.report(Phase.CUT, 0.0)
    smaller = cut(best.graph, setting.grouping, best.keep)
    difference = largest_difference(mask(best.graph, setting.grouping, best.keep), smaller, seed=task.run.seed)
    return Chosen(keep=best.keep, graph=renormalise.fold(smaller), masked_vs_cut=difference)


def _facts(iterate: Iterate[Walk]) -> dict[str, Json]:
    """State the residuals of every round, how far each feasible cut was from the original, and which was taken."""
    rows: list[Json] = [
        {"round": number, **residuals.to_json(), "distance": distance}
        for number, (residuals, distance) in enumerate(
            zip(iterate.residuals, iterate.state.distances, strict=True), start=1
        )
    ]
    return {"admm_rounds": rows, "best_round": iterate.state.best_round, "settled": iterate.settled}
