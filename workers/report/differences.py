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
    layer: its share of the time, what a channel costs, and the step in which the device likes its widths.
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


def _why(title: str, plan: Facts, layer: str) -> str:
    """Say what a plan's devices found about a layer; nothing where it is not among those that take longest."""
    names = {str(one["device"]): str(one.get("name") or one["device"]) for one in plan.get("devices") or ()}
    said = [
        _cost(names.get(device, device), known, facts.get("steps") or {})
        for device, facts in _pursued(plan).items()
        for known in facts.get("layers", ())
        if known["layer"] == layer
    ]
    return f"{title}: {', '.join(said)}" if said else ""


def _cost(device: str, known: Facts, learned: Mapping[str, int]) -> str:
    slope = max((float(ms) for ms in known["ms_per_channel"].values()), default=0.0)
    step = learned.get(str(known.get("kind")))
    words = f"{100 * known['share']:.0f} % of the time on {device}, {1000 * slope:.3g} µs a channel"
    return words if step is None else f"{words} in steps of {step}"


def main() -> None:
    """Answer with the layers that differ, and the steps that each plan's devices like."""
    plans = [(str(name), plan) for name, plan in json.load(sys.stdin)]
    layers = [asdict(one) for one in differing_layers(plans)]
    json.dump({"layers": layers, "steps": [steps(plan) for _, plan in plans]}, sys.stdout)


if __name__ == "__main__":
    main()
