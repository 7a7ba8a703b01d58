"""Where the plans of two results differ, and why: for the report, and as a process of its own for `espalier compare`.

`python -m workers.report.differences` reads plans, pairs of a name and a result, as JSON and answers in JSON: the web
side loads nothing of the workers, and a sandboxed attempt reads nothing of the web side.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final

LOCAL: Final = "dev_local"
ROWS_AT_MOST: Final = 40

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A layer to which plans give different widths."""

    layer: str
    before: int
    widths: tuple[int, ...]  # in the order of the plans
    why: str
    verdict: str  # whether the predictions tell devices apart here; empty where the plans are for one device
    beyond: float  # by how much, beyond their errors, of the original's time; at most 0 where they do not


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What one device's model says of a group, in shares of the original's time."""

    device: str
    name: str
    takes: float
    saves: float  # a channel
    step: int
    error: float | None


def differing_layers(plans: Sequence[tuple[str, Facts]]) -> list[Difference]:
    """Give the layers whose widths differ between plans of one network, those for the best founded reason first.

    Each plan is its name and a result, or a variant of one. The reason is what the devices' latency models say of the
    layer's channels: their share of the time, and what giving up a step of them saves. It is founded as far as figures
    of two devices differ by more than the errors of both models together; where they do not, that is said, and those
    layers come last, those whose widths differ most first.
    """
    tables = [{str(layer["name"]): layer for layer in plan.get("layers", ())} for _, plan in plans]
    found = []
    for name, layer in tables[0].items() if tables else ():
        if not all(name in table for table in tables) or not layer["before"]:
            continue
        widths = tuple(int(table[name]["after"] or 0) for table in tables)
        if len(set(widths)) > 1:
            why = "; ".join(filter(None, (_why(title, plan, name) for title, plan in plans)))
            verdict, beyond = _judged([_said(plan, name) for _, plan in plans])
            found.append(
                Difference(
                    layer=name,
                    before=int(layer["before"]),
                    widths=widths,
                    why="; ".join(filter(None, (why, verdict))),
                    verdict=verdict,
                    beyond=beyond,
                )
            )
    found.sort(key=lambda one: (-max(0.0, one.beyond), (min(one.widths) - max(one.widths)) / one.before, one.layer))
    return found[:ROWS_AT_MOST]


def _said(plan: Facts, layer: str) -> list[_Said]:
    """What each device of a plan says of the group that a layer writes."""
    names = _names(plan)
    found = []
    for device, facts in _pursued(plan).items():
        if (group := group_of(facts, layer)) is not None:
            whole, step = float(facts["original_ms"]), max(1, min(int(group["step"]), int(group.get("width", 2)) - 1))
            error = facts.get("prediction_error")
            found.append(
                _Said(
                    device=device,
                    name=names.get(device, device),
                    takes=float(group["original_ms"]) / whole,
                    saves=float(group["saved_by_step_ms"]) / whole / step,
                    step=step,
                    error=None if error is None else float(error),
                )
            )
    return found


def _judged(said: Sequence[Sequence[_Said]]) -> tuple[str, float]:
    """Whether figures of two devices differ by more than the errors of both; in words, and by how much."""
    pairs = [(a, b) for one, other in combinations(said, 2) for a in one for b in other if a.device != b.device]
    if not pairs:
        return "", 0.0
    known = [(a, b, a.error, b.error) for a, b in pairs if a.error is not None and b.error is not None]
    if not known:
        return "not told apart: the errors of the predictions are not known", 0.0
    best = max((_beyond(*pair) for pair in known), key=lambda each: each[1])
    if best[1] > 0:
        return best
    errors = sorted({f"{100 * error:.0f} %" for _, _, *two in known for error in two})
    return f"not told apart: within the errors of the predictions ({' and '.join(errors)})", best[1]


def _beyond(one: _Said, other: _Said, one_error: float, other_error: float) -> tuple[str, float]:
    """The figure by which two devices differ most, in words, and by how much beyond their errors."""
    channels = max(one.step, other.step)
    figures = {
        "{:.2g} % of the time on {} and {:.2g} % on {}": (one.takes, other.takes),
        f"{channels} channels save {{:.2g}} % on {{}} and {{:.2g}} % on {{}}": (
            channels * one.saves,
            channels * other.saves,
        ),
    }
    beyond = {
        words: abs(left - right) - one_error * abs(left) - other_error * abs(right)
        for words, (left, right) in figures.items()
    }
    words = max(beyond, key=lambda each: beyond[each])
    left, right = figures[words]
    return "told apart: " + words.format(100 * left, one.name, 100 * right, other.name), beyond[words]


def steps(plan: Facts) -> dict[str, dict[str, int]]:
    """Give the steps in channels that each device of a plan was found to like, by kind of layer."""
    return {device: dict(facts.get("steps") or {}) for device, facts in _pursued(plan).items()}


def _pursued(plan: Facts) -> dict[str, Facts]:
    latency = (plan.get("facts") or {}).get("latency")
    return {str(name): facts for name, facts in latency.items()} if isinstance(latency, Mapping) else {}


def group_of(facts: Facts, layer: str) -> Facts | None:
    """Give what a latency model says of the group that a layer writes; None where it says nothing."""
    return next((one for one in facts.get("groups") or () if layer in one["layers"]), None)


def _why(title: str, plan: Facts, layer: str) -> str:
    """Say what a plan's devices found about a layer; nothing where they say nothing of it."""
    names = _names(plan)
    said = [_cost(names.get(device, device), facts, layer) for device, facts in _pursued(plan).items()]
    words = ", ".join(filter(None, said))
    return f"{title}: {words}" if words else ""


def _names(plan: Facts) -> dict[str, str]:
    return {str(one["device"]): str(one.get("name") or one["device"]) for one in plan.get("devices") or ()}


def _cost(device: str, facts: Facts, layer: str) -> str:
    group = group_of(facts, layer)
    if group is None:
        return ""
    whole = float(facts["original_ms"])
    takes, saves = (100 * float(group[key]) / whole for key in ("original_ms", "saved_by_step_ms"))
    return f"{takes:.0f} % of the time on {device}, a step of {group['step']} saves {saves:.2g} %"


def main() -> None:
    """Answer with the layers that differ, and the steps that each plan's devices like."""
    plans = [(str(name), plan) for name, plan in json.load(sys.stdin)]
    layers = [asdict(one) for one in differing_layers(plans)]
    json.dump({"layers": layers, "steps": [steps(plan) for _, plan in plans]}, sys.stdout)


if __name__ == "__main__":
    main()
