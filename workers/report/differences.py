"""Where the plans of two results differ, and why: for the report, and as a process of its own for `espalier compare`.

`python -m workers.report.differences` reads plans, pairs of a name and a result, as JSON and answers in JSON: the web
side loads nothing of the workers, and a sandboxed attempt reads nothing of the web side.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


def differing_layers(plans: Sequence[tuple[str, Facts]]) -> list[Difference]:
    """Give the layers whose widths differ between plans of one network, those that differ most first.

    Each plan is its name and a result, or a variant of one. The reason is what the devices' latency models say of the
    layer's channels: their share of the time, and what giving up a step of them saves.
    """
    tables = [{str(layer["name"]): layer for layer in plan.get("layers", ())} for _, plan in plans]
    found = []
    for name, layer in tables[0].items() if tables else ():
        if not all(name in table for table in tables) or not layer["before"]:
            continue
        widths = tuple(int(table[name]["after"] or 0) for table in tables)
        if len(set(widths)) > 1:
            why = "; ".join(filter(None, (_why(title, plan, name) for title, plan in plans)))
            found.append(Difference(layer=name, before=int(layer["before"]), widths=widths, why=why))
    found.sort(key=lambda one: ((min(one.widths) - max(one.widths)) / one.before, one.layer))
    return found[:ROWS_AT_MOST]


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
    names = {str(one["device"]): str(one.get("name") or one["device"]) for one in plan.get("devices") or ()}
    said = [_cost(names.get(device, device), facts, layer) for device, facts in _pursued(plan).items()]
    words = ", ".join(filter(None, said))
    return f"{title}: {words}" if words else ""


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
