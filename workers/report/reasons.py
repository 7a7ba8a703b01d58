"""Why plans for two devices differ: what each group takes there, and what giving up a step of it saves. No markup here.

Figures are those of the devices' latency models when their plans were settled; a plan made without them says nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.report.differences import LOCAL, Difference, differing_layers, group_of
from workers.report.words import milliseconds, share

Facts = Mapping[str, Any]

_DEVICE: Final = re.compile(r"@(dev_\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the plans that are compared, with its device."""

    name: str  # of the device
    target: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one plan does with a layer, and what its device says of it."""

    width: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A layer of different widths, and whether the predictions tell why."""

    layer: str
    before: str
    cells: tuple[Cell, ...]  # one for each side
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several plans side by side."""

    sides: tuple[Side, ...]
    headline: str  # the best founded reason, or that there is none
    rows: tuple[Row, ...]
    same: int  # layers that all plans give the same width


def in_names(variant: Facts) -> Facts:
    """Give a variant whose targets call devices by their names; ids say nothing to a reader."""
    devices = [one for one in variant.get("devices") or () if one["device"] != LOCAL]
    names = {str(one["device"]): str(one.get("name") or one["device"]) for one in devices}

    def said(text: object) -> str:
        return _DEVICE.sub(lambda found: f" on {names.get(found[1], found[1])}", str(text))

    targets = [{**one, "target": said(one["target"])} for one in variant.get("targets") or ()]
    return {**variant, "target": said(variant["target"]), **({"targets": targets} if "targets" in variant else {})}


def compared(variants: Sequence[Facts]) -> Comparison | None:
    """Give plans for different devices side by side; nothing unless there are two, and each for one device."""
    plans = [(variant, *pursued[0]) for variant in variants if len(pursued := _pursued(variant)) == 1]
    if len(plans) < 2 or len({device for _, device, _ in plans}) < 2:
        return None
    layers = differing_layers([(str(variant["target"]), variant) for variant, _, _ in plans])
    rows = [
        Row(
            layer=one.layer,
            before=str(one.before),
            cells=tuple(
                Cell(width=str(width), reasons=tuple(_reasons(facts, one.layer)))
                for width, (_, _, facts) in zip(one.widths, plans, strict=True)
            ),
            verdict=one.verdict,
        )
        for one in layers
    ]
    shared = len([layer for layer in plans[0][0].get("layers", ()) if layer["before"]]) - len(rows)
    return Comparison(
        sides=tuple(_side(*plan) for plan in plans),
        headline=_headline(layers),
        rows=tuple(rows),
        same=max(0, shared),
    )


def _headline(layers: Sequence[Difference]) -> str:
    """Give the best founded difference, or say that the predictions tell none."""
    if not layers:
        return ""
    founded = [one for one in layers if one.beyond > 0]
    if not founded:
        return (
            "At none of these layers do the devices differ by more than the errors of the predictions: why the plans"
            " want other widths is not told by them."
        )
    first = founded[0]
    return (
        f"Best founded: {first.layer}, {first.verdict.removeprefix('told apart: ')}. At {len(founded)} of"
        f" {len(layers)} layers the devices differ by more than the errors of the predictions."
    )


def group_rows(facts: Facts) -> list[tuple[str, ...]]:
    """Give one row for each group of a plan: its layers, widths, step, and predicted milliseconds before and after."""
    return [_group_row(one, float(facts["original_ms"])) for one in facts.get("groups") or ()]


def _group_row(group: Facts, original_ms: float) -> tuple[str, ...]:
    layers = [str(layer) for layer in group["layers"]] or [str(group["group"])]
    return (
        f"{layers[0]} and {len(layers) - 1} more" if len(layers) > 1 else layers[0],
        f"{group['width']} → {group['kept']}",
        str(group["step"]),
        milliseconds(group["original_ms"]),
        milliseconds(group["kept_ms"]),
        share(group["original_ms"] / original_ms),
        share(group["saved_by_step_ms"] / original_ms),
    )


def _pursued(variant: Facts) -> list[tuple[str, Facts]]:
    found = (variant.get("facts") or {}).get("latency")
    return [(str(device), facts) for device, facts in found.items()] if isinstance(found, Mapping) else []


def _side(variant: Facts, device: str, facts: Facts) -> Side:
    known: Facts = next((one for one in variant.get("devices") or () if one["device"] == device), {})
    return Side(
        name=str(known.get("name") or device),
        target=str(variant["target"]),
        lines=tuple(_lines(known, facts)),
    )


def _lines(known: Facts, facts: Facts) -> Iterator[tuple[str, str]]:
    if known.get("processor"):
        yield "processor", str(known["processor"])
    if "after" in known:
        yield "threads of a run", str(known["after"]["threads"])
    yield "original", milliseconds(facts["original_ms"])
    yield "pruned", f"{milliseconds(facts['reached_ms'])} ({share(facts['reached_ms'] / facts['original_ms'])})"
    for kind, step in sorted((facts.get("steps") or {}).items()):
        yield f"step learned for {kind}", f"{step} channel{'s' if step != 1 else ''}"
    if facts.get("prediction_error") is not None:
        yield "error of its predictions", share(facts["prediction_error"])


def _reasons(facts: Facts, layer: str) -> Iterator[str]:
    group = group_of(facts, layer)
    if group is None:
        return
    whole = float(facts["original_ms"])
    yield (
        f"{milliseconds(group['original_ms'])} → {milliseconds(group['kept_ms'])},"
        f" {share(group['original_ms'] / whole)} of the original's time"
    )
    yield f"a step of {group['step']} saves {share(group['saved_by_step_ms'] / whole)}"
