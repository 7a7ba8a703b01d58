"""What the tables say to the questions that they were made for, in words, from stored rows alone."""

from collections.abc import Sequence
from typing import Final

from benchmarks.deciding.ledger import Line
from benchmarks.deciding.statistics import by, figure, mean, of_method

AUTHORS_EVALUATIONS: Final = 400
PEER: Final = "torch_pruning_l2"


def total(line: Line) -> float:
    """All processor seconds of a row: search, compensation, training."""
    return sum(figure(line, "seconds", "cpu", kind) or 0.0 for kind in ("search", "compensation", "training"))


def untrained(rows: Sequence[Line]) -> str:
    """How far `auto` is above everything that has no compensation."""
    means: dict[str, float] = {}
    for method, found in of_method(rows).items():
        without = mean(found, lambda line: figure(line, "accuracy", "recalibrated", "test"))
        raw = mean(found, lambda line: figure(line, "accuracy", "raw", "test"))
        best = max((value for value in (without, raw) if value is not None), default=None)
        if best is not None and method != "auto":
            means[method] = best
    ours = mean(of_method(rows).get("auto", []), lambda line: figure(line, "accuracy", "compensated", "test"))
    if ours is None or not means:
        return ""
    best_method = max(means, key=lambda name: means[name])
    lead = ours - means[best_method]
    return (
        f"`auto` {ours:.2f}; the best without compensation is {best_method} with {means[best_method]:.2f}: "
        f"{lead:+.2f} points (wanted: 5 or more{'' if lead >= 5 else '; missed'})."
    )


def time(rows: Sequence[Line]) -> str:
    """When `auto` has what the peer reaches, everything included."""
    said = []
    for (seed, recipe, count), peers in by(rows, "time", ("seed", "recipe", "steps")).items():
        peer = next((line for line in peers if line.key["method"] == PEER), None)
        if peer is None:
            continue
        ours = [line for line in rows if line.key["method"] == "auto" and line.key["seed"] == seed]
        wanted = figure(peer, "accuracy", "trained", "test")
        reached = None if wanted is None else when(ours, wanted)
        name = f"{PEER}, {count} steps, {str(recipe).replace('_', '-')} recipe, seed {seed}"
        what = f"{name}: {wanted:.2f} after {total(peer):.0f} s"
        bar = 0.4 if recipe == "cross_entropy" else 1.0
        if reached is None:
            said.append(f"{what}; `auto` does not reach that within its budgets.")
        else:
            share = reached / total(peer)
            missed = "" if share <= bar else "; missed"
            said.append(f"{what}; `auto` has that after {reached:.0f} s, {share:.2f} of it (wanted: {bar:g}{missed}).")
    return "\n".join(f"- {one}" for one in said)


def when(lines: Sequence[Line], wanted: float) -> float | None:
    """The seconds at which an accuracy is reached: interpolated between the two budgets around it."""
    points = sorted((total(line), figure(line, "accuracy", "trained", "test") or 0.0) for line in lines)
    for number, (seconds, accuracy) in enumerate(points):
        if accuracy >= wanted:
            if number == 0:
                return seconds
            before, lower = points[number - 1]
            return before + (seconds - before) * (wanted - lower) / (accuracy - lower)
    return None


def long(rows: Sequence[Line]) -> str:
    """How far `auto` is from the original after long training, and from the peer."""
    said = []
    for (ratio, epochs), found in by([*rows], rows[0].table, ("ratio", "epochs")).items():
        ours, theirs = (of_method(found).get(name, []) for name in ("auto", PEER))
        lost, others = mean(ours, lost_points), mean(theirs, lost_points)
        if lost is None:
            continue
        bar = "" if ratio != 0.5 else f" (wanted at 50 %: 0.5 or less{'' if lost <= 0.5 else '; missed'})"
        beside = "" if others is None else f"; {PEER} loses {others:.2f}"
        said.append(f"{100 * ratio:.4g} % of the MACs, {epochs:g} epochs: `auto` loses {lost:.2f} points{bar}{beside}.")
    return "\n".join(f"- {one}" for one in said)


def filters(rows: Sequence[Line]) -> str:
    """What EasiEdge loses and wins with a fifth of the filters."""
    found = [line for line in rows if line.key["method"] == "easiedge"]
    lost, ratio = mean(found, lost_points), mean(found, lambda line: figure(line, "latency_ratio"))
    if lost is None or ratio is None:
        return ""
    missed = "" if ratio <= 0.2 else "; missed"
    return f"EasiEdge loses {lost:.2f} points and is {1 / ratio:.1f} times faster (wanted: 5 or more{missed})."


def search(rows: Sequence[Line]) -> str:
    """`auto`'s search and compensation as a share of LcP's search at the authors' settings."""
    ours = mean([line for line in rows if line.key["method"] == "auto"], total)
    theirs = {int(line.key["evaluations"]): line for line in rows if line.key["method"] == "lcp_authors"}
    if ours is None or not theirs:
        return ""
    seconds = {count: figure(line, "seconds", "cpu", "search") or 0.0 for count, line in theirs.items()}
    if AUTHORS_EVALUATIONS in seconds:
        whole, how = seconds[AUTHORS_EVALUATIONS], "measured"
    elif len(seconds) < 2:
        return ""
    else:
        least, most = min(seconds), max(seconds)
        each = (seconds[most] - seconds[least]) / (most - least)
        whole = seconds[most] + (AUTHORS_EVALUATIONS - most) * each
        how = f"extrapolated from {least} and {most} evaluations, {each:.2f} s each"
    missed = "" if ours <= whole / 10 else "; missed"
    return (
        f"Search and compensation of `auto` take {ours:.0f} s; {AUTHORS_EVALUATIONS} evaluations of LcP {whole:.0f} s "
        f"({how}): {ours / whole:.3f} (wanted: 0.1 or less{missed})."
    )


def rounds(rows: Sequence[Line]) -> str:
    """What ten epochs a round cost beside one, and what they save."""
    groups = {epochs: found for (epochs,), found in by(rows, "rounds", ("epochs",)).items()}
    if len(groups) < 2:
        return ""
    few, many = groups[min(groups)], groups[max(groups)]
    times = (mean(many, per_round) or 0.0) / (mean(few, per_round) or 1.0)
    lost = [mean(found, lost_points) or 0.0 for found in (few, many)]
    missed = "" if times >= 4 else "; missed"
    return (
        f"A round with {max(groups):g} epochs takes {times:.1f} times what one with {min(groups):g} takes "
        f"(wanted: 4 or more{missed}). Points lost on the test images: {lost[0]:.2f} with {min(groups):g}, "
        f"{lost[1]:.2f} with {max(groups):g}."
    )


def per_round(line: Line) -> float:
    """Processor seconds for each round."""
    return total(line) / max(1, len(line.figures["facts"]["rounds"]))  # type: ignore[index,call-overload,arg-type]  # written by us


def lost_points(line: Line) -> float | None:
    """Points of accuracy lost against the original on the same images."""
    before, after = (figure(line, "accuracy", stage, "test") for stage in ("original", "trained"))
    return None if before is None or after is None else before - after


def misprediction(line: Line) -> float | None:
    """The largest relative error of predicted memory over all events at which it was measured."""
    events = line.figures["facts"]["events"]  # type: ignore[index,call-overload]  # written by us
    pairs = [(e["predicted_bytes"], e["measured_bytes"]) for e in events if e.get("measured_bytes")]
    return max((abs(predicted / measured - 1) for predicted, measured in pairs), default=None)


def dynamic(rows: Sequence[Line]) -> str:
    """Error and memory of both modes beside dense training, and whether the budget held."""
    said = []
    for (network, seed, epochs), found in by(rows, "dynamic", ("network", "seed", "epochs")).items():
        modes = {str(line.key["mode"]): line for line in found}
        if "dense" not in modes:
            continue
        for mode in sorted(modes.keys() - {"dense"}):
            judged = _mode(modes[mode], modes["dense"])
            said += [f"{network}, seed {seed}, {epochs:g} epochs, {mode}: {judged}"]
    return "\n".join(f"- {one}" for one in said)


def _mode(line: Line, dense: Line) -> str:
    worse = _error(line) / _error(dense) - 1 if _error(dense) else float("nan")
    held = {name: figure(line, "facts", f"memory_bytes_{name}") or 0.0 for name in ("first", "last", "most")}
    lower = 1 - held["last"] / (figure(dense, "facts", "memory_bytes_most") or 1.0)
    budget = figure(line, "facts", "memory_budget_bytes") or 0.0
    return (
        f"{1 / (figure(line, 'params') or 1):.1f} times smaller, error {_error(line):.2f} % against "
        f"{_error(dense):.2f} % ({100 * worse:+.1f} %; wanted: 5 % or less), memory at the end {100 * lower:.0f} % "
        f"lower than dense training's, at most {held['most'] / budget:.3f} of the budget, predicted within "
        f"{100 * (misprediction(line) or 0):.1f} %."
    )


def _error(line: Line) -> float:
    return 100 - (figure(line, "accuracy", "trained", "test") or 0.0)
