"""What a result says of devices: latencies on each, what was predicted and measured, why plans differ. No markup here.

A result lists the worker's own processor first, then the devices that a job named; a device that did not answer has a
problem in place of figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.report.differences import LOCAL
from workers.report.drawing import TEXT_WIDTH, WIDTH, Drawing, axis_below, axis_left, scale
from workers.report.reasons import group_rows
from workers.report.words import milliseconds, share, shortened, significant

Facts = Mapping[str, Any]

NAME_LENGTH: Final = 24
_PAIRED: Final = "paired ratio"  # what a target is judged by, as results say it
_LATENCY: Final = "latency_ms"
_CSS: Final = {True: "before", False: "after"}  # grey is the server, blue a device


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device's line in the table of latencies."""

    name: str
    how: str = ""
    before: str = ""
    before_interval: str = ""
    after: str = ""
    after_interval: str = ""
    change: str = ""
    remains: float | None = None
    speedup: str = ""
    doubts: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """How a latency target on one device was pursued."""

    device: str
    headline: str
    lines: tuple[tuple[str, str], ...]
    plans: tuple[tuple[str, ...], ...]
    layers: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, ...], ...]


def listed(variant: Facts) -> list[Facts]:
    """Give what a variant says of each device."""
    return list(variant.get("devices") or ())


def named(device: Facts) -> str:
    """Give what a device is called; the worker's own processor is the server's."""
    name = str(device.get("name") or device["device"])
    return "server (dev_local)" if device["device"] == LOCAL else name


def columns(variants: Sequence[Facts]) -> list[str]:
    """Give the names of all devices of a result, as the table of targets heads its columns."""
    return list({str(one["device"]): named(one) for variant in variants for one in listed(variant)}.values())


def cells(variant: Facts, names: Sequence[str]) -> list[tuple[str, str]]:
    """Give the pruned network's latency and its share of the original's on each named device; nothing where unknown."""
    found = {named(one): one for one in listed(variant)}
    return [_cell(found.get(name)) for name in names]


def _cell(device: Facts | None) -> tuple[str, str]:
    if device is None:
        return "", ""
    if "problem" in device:
        return "not stated", ""
    doubted = ", not stable" if device["doubts"] else ""
    return milliseconds(device["after"]["p50_ms"]), f"{share(device['ratio'])}{doubted}"


def rows(variant: Facts) -> list[DeviceRow]:
    """Give the table of latencies on devices; a result of one device alone has it in its table of figures already."""
    found = listed(variant)
    return [_row(one) for one in found] if any(one["device"] != LOCAL for one in found) else []


def _row(device: Facts) -> DeviceRow:
    if "problem" in device:
        return DeviceRow(name=named(device), problem=str(device["problem"]["detail"]))
    before, after = device["before"], device["after"]
    threads = f"{after['threads']} thread{'s' if after['threads'] != 1 else ''}"
    provider = str(after["provider"]).removesuffix("ExecutionProvider")
    how = f"{threads}, batch {after['batch']}, {provider}, {after['runtime']} {after['runtime_version']}"
    if device.get("processor"):
        how = f"{device['processor']}; {how}"
    return DeviceRow(
        name=named(device),
        how=how,
        before=milliseconds(before["p50_ms"]),
        before_interval=_interval(before),
        after=milliseconds(after["p50_ms"]),
        after_interval=_interval(after),
        change=share(device["ratio"]),
        remains=float(device["ratio"]),
        speedup=f"{significant(device['speedup'])} times",
        doubts=tuple(map(str, device["doubts"])),
    )


def _interval(measured: Facts) -> str:
    low, high = measured["p50_interval_ms"]
    return f"{significant(low)} to {milliseconds(high)}"


def aims(variant: Facts) -> list[Aim]:
    """Give how each latency target was pursued: predictions and corrections, steps, and what takes the time."""
    pursued = (variant.get("facts") or {}).get("latency")
    if not isinstance(pursued, Mapping):
        return []
    names = {str(one["device"]): named(one) for one in listed(variant)}
    last = {one.get("device"): one for one in variant.get("targets", ()) if one.get("metric") == _LATENCY}
    return [_aim(names.get(str(device), str(device)), facts, last.get(device)) for device, facts in pursued.items()]


def _aim(name: str, facts: Facts, last: Facts | None) -> Aim:
    headline = (
        f"Asked for {milliseconds(facts['target_ms'])}: {milliseconds(facts['reached_ms'])} were measured in planning,"
        f" {share(facts['reached_ms'] / facts['target_ms'])} of that,"
        f" after {facts['corrections']} correction{'s' if facts['corrections'] != 1 else ''}. {_verdict(facts, last)}"
    )
    return Aim(
        device=name,
        headline=headline,
        lines=tuple(_aim_lines(facts)),
        plans=tuple(_plan(number, plan) for number, plan in enumerate(facts.get("plans", ()), start=1)),
        layers=tuple(_layer(layer) for layer in facts.get("layers", ())),
        groups=tuple(group_rows(facts)),
    )


def _verdict(facts: Facts, last: Facts | None) -> str:
    """Give the one word on the target: that of the last measurement, of the finished network, where there is one."""
    if last is None or last.get("reached") is None:
        return f"The target is {'met' if facts['met'] else 'missed'}."
    clock = " of processor time, as other programs ran," if last.get("clock") == "processor" else ""
    met = "met" if last["met"] else "missed"
    took = f"{milliseconds(last['reached'])}{clock} of {milliseconds(last['limit'])}"
    if last.get("judged_by") == _PAIRED:
        pairs = f"{share(last['ratio'])} of the original's time, in runs side by side"
        return f"The finished network took {pairs}: {took} at the original's median; the target is {met}."
    return f"The finished network, timed in turn with the original, took {took}; the target is {met}."


def _aim_lines(facts: Facts) -> Iterator[tuple[str, str]]:
    predicted = facts.get("original_predicted_ms")
    yield "original, measured", milliseconds(facts["original_ms"])
    if predicted is not None:
        yield "original, predicted", f"{milliseconds(predicted)} ({share(predicted / facts['original_ms'])})"
    if facts.get("prediction_error") is not None:
        yield "error of predictions on widths held out", share(facts["prediction_error"])
    for kind, step in sorted((facts.get("steps") or {}).items()):
        yield f"step learned for {kind}", f"{step} channel{'s' if step != 1 else ''}"
    for kind, factor in sorted((facts.get("factors") or {}).items()):
        yield f"correction of {kind}", f"times {significant(factor)}"
    yield "layers timed for this", f"{facts.get('rows_asked', 0)} new, {facts.get('rows_reused', 0)} known before"


def _plan(number: int, plan: Facts) -> tuple[str, ...]:
    return (
        str(number),
        milliseconds(plan["predicted_ms"]),
        milliseconds(plan["measured_ms"]),
        share(plan["measured_over_predicted"] - 1),
        share(plan["of_target"]),
        significant(plan["factor"]),
    )


def _layer(layer: Facts) -> tuple[str, ...]:
    slopes = ", ".join(f"{significant(1000 * ms)} µs" for ms in layer["ms_per_channel"].values())
    return str(layer["layer"]), str(layer["row"]), milliseconds(layer["ms"]), share(layer["share"]), slopes


def gains(variants: Sequence[Facts]) -> Drawing | None:
    """Draw the speed-up on each device beside that on the server, for each target."""
    groups = [(str(one["target"]), [device for device in listed(one) if "problem" not in device]) for one in variants]
    shown = [(target, devices) for target, devices in groups if any(one["device"] != LOCAL for one in devices)]
    if not shown:
        return None
    left, right, row = NAME_LENGTH * TEXT_WIDTH + 6, float(WIDTH - 60), 20.0
    height = sum(22 + row * len(devices) for _, devices in shown)
    said = "; ".join(
        f"{target}: " + ", ".join(f"{named(one)} {significant(one['speedup'])} times" for one in devices)
        for target, devices in shown
    )
    drawing = Drawing(label=f"Speed-up on each device. {said}.", height=height + 40)
    axis = scale([0.0, 1.0, *(one["speedup"] for _, devices in shown for one in devices)], left, right, ticks=4)
    axis_below(drawing, axis, height, 4, name="times as fast as the original", count=4)
    y = 0.0
    for target, devices in shown:
        drawing.write(shortened(target, 48), 0, y + 14, css="name", title=target)
        y += 22
        for one in devices:
            _gain(drawing, one, y, left, axis.at(one["speedup"]))
            y += row
    drawing.line((axis.at(1.0), 4), (axis.at(1.0), height), "mark")
    return drawing


def _gain(drawing: Drawing, device: Facts, y: float, left: float, end: float) -> None:
    name, css = named(device), _CSS[device["device"] == LOCAL]
    said = f"{name}: {significant(device['speedup'])} times as fast"
    drawing.write(shortened(name, NAME_LENGTH), left - 6, y + 11, anchor="end", title=name)
    drawing.add("rect", css=css, x=left, y=y, width=end - left, height=14, title=said)
    drawing.write(f"{significant(device['speedup'])}×", end + 5, y + 11, css="value")


def tradeoffs(variants: Sequence[Facts]) -> list[tuple[str, Drawing]]:
    """Draw held-out quality against latency, for each device that timed several targets."""
    key = next((key for key in ("accuracy", "agreement") if all(key in one["after"] for one in variants)), None)
    if key is None or len(variants) < 2:
        return []
    found = []
    for name in columns(variants):
        placed = _placed(variants, name, key)
        if len(placed) > 2:
            found.append((name, _tradeoff(placed, name, key)))
    return found


def _placed(variants: Sequence[Facts], name: str, key: str) -> list[tuple[str, float, float]]:
    """Give name, milliseconds and quality of the original and of each target, fastest first."""
    placed: dict[str, tuple[str, float, float]] = {}
    for variant in variants:
        for one in listed(variant):
            if named(one) == name and "problem" not in one:
                target = str(variant["target"])
                placed[target] = (target, float(one["after"]["p50_ms"]), float(variant["after"][key]))
                if key in variant["before"]:
                    first = ("original", float(one["before"]["p50_ms"]), float(variant["before"][key]))
                    placed.setdefault("original", first)
    return sorted(placed.values(), key=lambda one: (one[1], one[0]))


def _tradeoff(placed: Sequence[tuple[str, float, float]], name: str, key: str) -> Drawing:
    left, right, top, bottom = 48.0, float(WIDTH - 30), 40.0, 226.0
    said = "; ".join(f"{target}: {significant(ms)} ms, {share(quality)}" for target, ms, quality in placed)
    drawing = Drawing(label=f"Held-out {key} against latency on {name}. {said}.", height=bottom + 38)
    across = scale([0.0, *(ms for _, ms, _ in placed)], left, right)
    up = scale([100 * quality for _, _, quality in placed], bottom - 16, top, bound=100.0)
    axis_below(drawing, across, bottom, top, name="median of a run, ms")
    axis_left(drawing, up, left, right, name=f"held-out {key}, %")
    drawing.path([(across.at(ms), up.at(100 * quality)) for _, ms, quality in placed], "after link")
    for number, (target, ms, quality) in enumerate(placed):
        x, y, text = across.at(ms), up.at(100 * quality), shortened(target, NAME_LENGTH)
        css, half = _CSS[target == "original"], len(text) * TEXT_WIDTH / 2
        drawing.add("circle", css=css, cx=x, cy=y, r=5, title=f"{target}: {significant(ms)} ms, {share(quality)}")
        drawing.write(text, min(x, WIDTH - half), y + 18 if number % 2 else y - 9, anchor="middle", css="value")
    return drawing
