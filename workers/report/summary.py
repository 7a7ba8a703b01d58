"""What a result says, in sentences and rows; no markup here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from workers.report.words import (
    milliseconds,
    points,
    quantity,
    seconds,
    share,
    share_range,
    significant,
    spelled,
)

Facts = Mapping[str, Any]

METRICS: Final = {
    "macs": "multiply-accumulates (MACs)",
    "params": "parameters",
    "size_bytes": "bytes",
    "peak_activation_bytes": "bytes of activations at once",
    "latency_ms": "milliseconds per run",
}
STAGES: Final = {  # by the engine's name: what the page calls it, and what that is
    "original": ("original", "as uploaded"),
    "raw": ("cut", "channels removed, nothing repaired"),
    "compensated": ("compensated", "kept channels take over by least squares"),
    "recalibrated": ("recalibrated", "normalisation statistics measured anew"),
    "trained": ("trained", "pruned in the course of its training"),
    "finetuned": ("fine-tuned", "trained towards the original's outputs"),
}
_STOPS: Final = {
    "accuracy": "accuracy would have fallen further than allowed",
    "floor": "nothing more may be removed",
}
_PHASES: Final = {
    "raw": ("score", "allocate", "cut"),
    "compensated": ("compensate",),
    "recalibrated": ("compensate",),
    "trained": ("finetune",),
    "finetuned": ("finetune",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table of figures before and after."""

    name: str
    before: str
    after: str
    change: str
    remains: float | None = None  # share of the original, for the bar
    note: str = ""
    intervals: tuple[str, str] = ("", "")  # of before and after


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """What one stage cost and gained."""

    name: str
    words: str
    quality: str
    interval: str
    gained: str
    agreement: str
    seconds: str


def headline(variant: Facts) -> list[str]:
    """Give the whole result in a few sentences: what was asked and reached, accuracy, latency."""
    return [*_reached(variant), _quality(variant), _latency(variant)]


def _reached(variant: Facts) -> Iterator[str]:
    before = variant["before"]
    for target in variant.get("targets", ()):
        metric, reached = target["metric"], target["reached"]
        if reached is None or target["limit"] is None:
            yield f"Asked for {target['target']}: it was not measured at the end."
            continue
        met = "met" if reached <= target["limit"] else "missed"
        remaining = _share_left(target, before.get(metric))
        of_whole = "" if remaining is None else f", {share(remaining)} of the original"
        yield (
            f"Asked for {target['target']}: {quantity(reached)} {METRICS.get(metric, metric)} remain{of_whole};"
            f" the limit of {quantity(target['limit'])} is {met}."
        )
    allowed = (variant.get("accuracy_drop") or {}).get("allowed")
    if not variant.get("targets") and allowed is not None:
        yield _smallest(variant)
        return
    if variant.get("stopped_by") in _STOPS:
        yield f"Less was pruned than asked for, because {_STOPS[variant['stopped_by']]}."


def _share_left(target: Facts, whole: float | None) -> float | None:
    """What is left of the original: of a latency as it was judged, on its own device."""
    if target.get("ratio") is not None:
        return float(target["ratio"])
    return target["reached"] / whole if whole and "device" not in target else None


def _smallest(variant: Facts) -> str:
    """What was reached where an accuracy to hold was all that was asked."""
    drop, left, whole = variant["accuracy_drop"], variant["after"]["macs"], variant["before"]["macs"]
    held = "This is the smallest that was found" if drop["held"] else "None was found; this one falls least"
    of_whole = f", {share(left / whole)} of the original" if whole else ""
    return (
        f"Asked for the smallest network whose held-out {drop['of']} falls by at most"
        f" {points(drop['allowed']).removeprefix('+')}. {held}: {quantity(left)} {METRICS['macs']} remain{of_whole}."
    )


def _quality(variant: Facts) -> str:
    before, after = variant["before"], variant["after"]
    if "accuracy" in after and "accuracy" in before:
        return (
            f"Held-out accuracy is {share(after['accuracy'])} {_interval(after)},"
            f" the original's {share(before['accuracy'])} {_interval(before)}:"
            f" {points(after['accuracy'] - before['accuracy'])} on {after['num_samples']} samples."
        )
    inputs = "held-out samples" if variant.get("verified", True) else "made-up inputs"
    if "agreement" in after:
        return (
            f"Accuracy is not known. On {after['num_samples']} {inputs} it gives the original's class for"
            f" {share(after['agreement'])}."
        )
    if "relative_mse" in after:
        return (
            f"Its outputs differ from the original's by a squared error of {share(after['relative_mse'])} of their"
            f" variance, on {after['num_samples']} {inputs}."
        )
    return "Its quality was not measured."


def _interval(figures: Facts) -> str:
    interval = figures.get("accuracy_interval")
    return f"(95 % interval {share_range(interval)})" if interval else ""


def _latency(variant: Facts) -> str:
    compared = variant.get("latency")
    if not compared:
        return "Latency was not measured."
    low, high = compared["ratio_interval"]
    if compared["is_real"]:
        said = (
            f"One run takes {share(compared['ratio'])} of the original's time (95 % interval"
            f" {share_range((low, high))}), {significant(1 / compared['ratio'])} times as fast"
        )
    else:
        said = f"No difference in latency could be shown (ratio {share_range((low, high))} with 95 % confidence)"
    if compared["doubts"]:
        return f"{said}, but the machine was not quiet: measure again before relying on it."
    return f"{said}."


def rows(variant: Facts) -> list[Row]:
    """Give the table of figures before and after; what was not measured has no row."""
    before, after = variant["before"], variant["after"]
    table = [
        _ratio_row("Multiply-accumulates (MACs)", variant, "macs", note="per sample; FLOPs are twice that"),
        _ratio_row("Parameters", variant, "params"),
        _ratio_row("Size", variant, "size_bytes", unit="B"),
        _ratio_row("Peak activations", variant, "peak_activation_bytes", unit="B", note="held at once, one sample"),
        _accuracy_row(before, after),
        _share_row("Agreement with the original", before, after, "agreement"),
        _number_row("Divergence from the original", before, after, "mean_kl", "nats per sample"),
        _number_row("Error relative to the original", before, after, "relative_mse", "squared, over output variance"),
        *_latency_rows(variant),
    ]
    return [row for row in table if row is not None]


def _ratio_row(name: str, variant: Facts, key: str, *, unit: str = "", note: str = "") -> Row | None:
    was, now = variant["before"].get(key), variant["after"].get(key)
    if was is None or now is None:
        return None
    remains = now / was if was else None
    change = "" if remains is None else share(remains)
    return Row(
        name=name, before=quantity(was, unit), after=quantity(now, unit), change=change, remains=remains, note=note
    )


def _accuracy_row(before: Facts, after: Facts) -> Row | None:
    row = _share_row("Held-out accuracy", before, after, "accuracy")
    if row is None or not all("accuracy_interval" in side for side in (before, after)):
        return row
    was, now = (share_range(side["accuracy_interval"]) for side in (before, after))
    return replace(row, note=f"with its 95 % interval; {after['num_samples']} samples", intervals=(was, now))


def _share_row(name: str, before: Facts, after: Facts, key: str) -> Row | None:
    if after.get(key) is None:
        return None
    was = before.get(key)
    change = "" if was is None else points(after[key] - was)
    return Row(name=name, before="" if was is None else share(was), after=share(after[key]), change=change)


def _number_row(name: str, before: Facts, after: Facts, key: str, note: str) -> Row | None:
    if after.get(key) is None:
        return None
    was = before.get(key)
    text = "" if was is None else significant(was)
    return Row(name=name, before=text, after=significant(after[key]), change="", note=note)


def _latency_rows(variant: Facts) -> Iterator[Row]:
    measured = sides(variant)
    if measured is None:
        return
    before, after = measured
    count = f"{len(after['samples_ms']):,} runs each, batch {after['batch']}, {after['threads']} thread(s)"
    for name, key in (("Latency, median (p50)", "p50_ms"), ("Latency, p90", "p90_ms"), ("Latency, p99", "p99_ms")):
        remains = after[key] / before[key]
        yield Row(
            name=name,
            before=milliseconds(before[key]),
            after=milliseconds(after[key]),
            change=share(remains),
            remains=remains,
            note=count if key == "p50_ms" else "",
        )
    was, now = (side["host"].get("on_cpu_p50_ms") for side in measured)
    if was and now:
        yield Row(
            name="Processor time, median",
            before=milliseconds(was),
            after=milliseconds(now),
            change=share(now / was),
            remains=now / was,
            note="what a run takes where nothing else wants the processor",
        )
    yield Row(
        name="Time to load", before=milliseconds(before["load_ms"]), after=milliseconds(after["load_ms"]), change=""
    )


def sides(variant: Facts) -> tuple[Facts, Facts] | None:
    """Give the latency measurements of the original and the pruned network, or None where there are none."""
    by_side = {measured["of"]: measured for measured in variant.get("measurements", ())}
    return (by_side["before"], by_side["after"]) if {"before", "after"} <= set(by_side) else None


def stages(variant: Facts) -> list[StageRow]:
    """Give what each stage cost in seconds and gained in held-out quality, the original first."""
    judged = [{"stage": "original", **variant["before"]}, *judged_points(variant)]
    timing = variant.get("timing", {})
    table = []
    for previous, point in zip([None, *judged], judged, strict=False):
        spent = [timing[phase] for phase in _PHASES.get(point["stage"], ()) if phase in timing]
        table.append(
            StageRow(
                name=stage_name(point),
                words=STAGES.get(point["stage"], ("", ""))[1],
                quality=_stage_quality(point),
                interval=share_range(point.get("accuracy_interval", ())),
                gained=_gained(previous, point),
                agreement=share(point["agreement"]) if "agreement" in point else "",
                seconds=seconds(sum(spent)) if spent else "",
            )
        )
    return table


def stage_name(point: Facts) -> str:
    """Give the name of a stage as the page has it."""
    return STAGES.get(point["stage"], (spelled(str(point["stage"])), ""))[0]


def judged_points(variant: Facts) -> list[Facts]:
    """Give the points of the curve that state held-out quality, in order."""
    return [point for point in variant.get("curve", ()) if "num_samples" in point]


def training_points(variant: Facts) -> list[Facts]:
    """Give the points of the curve that state a training loss."""
    return [point for point in variant.get("curve", ()) if "loss" in point and "step" in point]


def _stage_quality(point: Facts) -> str:
    if "accuracy" in point:
        return share(point["accuracy"])
    return f"relative error {significant(point['relative_mse'])}" if "relative_mse" in point else ""


def _gained(previous: Facts | None, point: Facts) -> str:
    if previous is None:
        return ""
    for key in ("accuracy", "agreement"):
        if key in previous and key in point:
            return points(point[key] - previous[key])
    return ""


def target_rows(variants: Sequence[Facts]) -> list[Mapping[str, str]]:
    """Give one row for each of several targets."""
    return [
        {
            "target": variant["target"],
            "met": "met" if variant["target_met"] else "missed",
            "macs": quantity(variant["after"]["macs"]),
            "macs_share": share(_remains(variant, "macs")),
            "params": quantity(variant["after"]["params"]),
            "params_share": share(_remains(variant, "params")),
            "quality": _stage_quality(variant["after"]) or _agreement(variant["after"]),
            "interval": share_range(variant["after"].get("accuracy_interval", ())),
            "latency": share(variant["latency"]["ratio"]) if variant.get("latency") else "",
            "file": str(variant.get("file", "")),
        }
        for variant in variants
    ]


def _agreement(figures: Facts) -> str:
    return f"{share(figures['agreement'])} agreement" if "agreement" in figures else ""


def _remains(variant: Facts, key: str) -> float:
    whole = variant["before"][key]
    return float(variant["after"][key] / whole) if whole else 1.0
