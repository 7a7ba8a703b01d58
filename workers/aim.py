"""From what was asked to one pruned network: the target, or where accuracy is limited the smallest that holds it."""

from dataclasses import dataclass

from workers.admissible import Search, Try
from workers.judged import Drop, Pruned, fall, pruned
from workers.prune_spec import PruneSpec, UnsupportedTarget
from workers.pruning.methods.task import Task
from workers.pruning.training.evaluate import Evaluation

TARGET, ACCURACY, FLOOR = "target", "accuracy", "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aimed:
    """The network that is shipped for a target, what stopped the pruning, and what a user should know."""

    pruned: Pruned
    drop: Drop | None
    stopped_by: str  # target, accuracy, floor
    warnings: tuple[str, ...] = ()
    tries: tuple[Try, ...] = ()  # every network that was looked at, where accuracy is limited


def aim(spec: PruneSpec, task: Task, before: Evaluation, metadata: dict[str, str]) -> Aimed:
    """Prune to the target; without one, or where accuracy falls further than allowed, search for the most that may go.

    Held-out samples decide, so they choose between a few networks, which makes the figure of the chosen one a little
    too good; the result lists every network that was looked at.

    Raises:
        UnsupportedTarget: neither a target nor an accuracy that could be compared.
        PruningError: whatever a stage refuses, each by its own class.
    """
    has_target = bool(task.budgets or task.latency_budgets)
    if not has_target:
        _require_accuracy(spec, task)
    if spec.max_accuracy_drop is None:
        shipped = pruned(spec, task, metadata)
        return Aimed(pruned=shipped, drop=fall(spec, before, shipped.evaluation), stopped_by=_stop(shipped))
    search = Search(spec, task, before, metadata)
    if not has_target:
        return _smallest(search)
    asked = search.asked()
    if asked.drop is None:
        unchecked = ("max_accuracy_drop was not checked: there is no accuracy to compare.",)
        return Aimed(pruned=asked.pruned, drop=None, stopped_by=_stop(asked.pruned), warnings=unchecked)
    if asked.drop.held:
        return Aimed(
            pruned=asked.pruned, drop=asked.drop, stopped_by=_stop(asked.pruned), tries=search.tries_shipping(asked)
        )
    best = search.run()
    return Aimed(
        pruned=best.pruned,
        drop=best.drop,
        stopped_by=ACCURACY,
        warnings=(_explained(asked.drop, best.drop, search.num_milder),),
        tries=search.tries_shipping(best),
    )


def _smallest(search: Search) -> Aimed:
    """The smallest network within the drop, where nothing else is asked."""
    best = search.run()
    stopped_by = FLOOR if search.at_floor(best) else ACCURACY
    warnings: tuple[str, ...] = ()
    if best.drop is not None and not best.drop.held:
        mildest = f"the mildest of {search.num_milder} falls by {best.drop.found:.4f} and is shipped."
        warnings = (f"No network within the allowed drop was found; {mildest}",)
    return Aimed(
        pruned=best.pruned,
        drop=best.drop,
        stopped_by=stopped_by,
        warnings=warnings,
        tries=search.tries_shipping(best),
    )


def _require_accuracy(spec: PruneSpec, task: Task) -> None:
    if spec.max_accuracy_drop is None or not task.head.is_classification:
        raise UnsupportedTarget(
            "A job without a target needs an accuracy to hold",
            where="target",
            actual="no max_accuracy_drop" if spec.max_accuracy_drop is None else "an output that names no classes",
            allowed="a target, or max_accuracy_drop with a classifier",
            advice="Give a target, for example flops=50%.",
        )


def _stop(shipped: Pruned) -> str:
    """Give what ended the pruning: the target, unless the method itself stopped before it."""
    return str(shipped.outcome.facts.get("stopped_by", TARGET))


def _explained(asked: Drop, shipped: Drop | None, num_milder: int) -> str:
    missed = f"At the target, held-out {asked.of} fell by {asked.found:.4f}; allowed were {asked.allowed:.4f}."
    if shipped is None or shipped.held:
        found = asked.found if shipped is None else shipped.found
        return f"{missed} This network was pruned less and falls by {found:.4f}; held-out data chose it."
    return f"{missed} Even the mildest of {num_milder} further tries falls by {shipped.found:.4f}; it is shipped."
