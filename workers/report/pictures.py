"""The pictures of a report. Grey is the original, blue the pruned network, orange a training loss, everywhere.

The three differ in lightness too, so they are told apart without seeing colours, and in print.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from workers.report.drawing import TEXT_WIDTH, WIDTH, Drawing, Scale, axis_below, axis_left, scale
from workers.report.summary import Facts, judged_points, sides, stage_name, training_points
from workers.report.words import milliseconds, quantity, share, shortened, significant

ROWS_AT_MOST: Final = 40  # layers that have a row each; more become columns
NAME_LENGTH: Final = 22
BINS: Final = 48
SMOOTHED_FROM: Final = 40  # points of a curve
SHOWN: Final = 1.4  # times the larger 90th percentile of latencies is inside the picture


def widths(layers: Sequence[Facts]) -> Drawing | None:
    """Draw the output channels of every layer, before and after."""
    if not layers:
        return None
    return _width_rows(layers) if len(layers) <= ROWS_AT_MOST else _width_columns(layers)


def _width_rows(layers: Sequence[Facts]) -> Drawing:
    left, right, row = NAME_LENGTH * TEXT_WIDTH + 6, WIDTH - 78, 19
    bottom = 8 + row * len(layers)
    drawing = Drawing(label=_widths_in_words(layers), height=bottom + 38)
    axis = scale([0, *(layer["before"] for layer in layers)], left, right, ticks=4)
    axis_below(drawing, axis, bottom, 4, name="output channels", count=4)
    for number, layer in enumerate(layers):
        y, now = 8 + row * number, _width(layer)
        said = f"{layer['name']} ({layer['kind']}): {layer['before']} to {now}"
        drawing.write(shortened(layer["name"], NAME_LENGTH), left - 6, y + 11, anchor="end", title=layer["name"])
        drawing.add("rect", css="before", x=left, y=y, width=axis.at(layer["before"]) - left, height=14, title=said)
        drawing.add("rect", css="after", x=left, y=y + 3, width=axis.at(now) - left, height=8, title=said)
        text = f"{layer['before']} → {now}" if now != layer["before"] else f"{now}"
        drawing.write(text, axis.at(layer["before"]) + 5, y + 11, css="value")
    return drawing


def _width_columns(layers: Sequence[Facts]) -> Drawing:
    left, right, top, bottom = 44.0, float(WIDTH - 4), 22.0, 190.0
    drawing = Drawing(label=_widths_in_words(layers), height=bottom + 38)
    axis = scale([0, *(layer["before"] for layer in layers)], bottom, top, ticks=4)
    axis_left(drawing, axis, left, right, name="output channels", count=4)
    pitch = (right - left) / len(layers)
    for number, layer in enumerate(layers):
        x, now = left + pitch * number, _width(layer)
        said = f"{layer['name']} ({layer['kind']}): {layer['before']} to {now}"
        for css, width, value in (("before", pitch * 0.9, layer["before"]), ("after", pitch * 0.5, now)):
            y = axis.at(value)
            drawing.add("rect", css=css, x=x + (pitch - width) / 2, y=y, width=width, height=bottom - y, title=said)
    drawing.write("first layer", left, bottom + 15)
    drawing.write(f"layer {len(layers)}", right, bottom + 15, anchor="end")
    drawing.write("layers in the order of computation", (left + right) / 2, bottom + 32, anchor="middle", css="name")
    return drawing


def _width(layer: Facts) -> int:
    return int(layer["after"] or 0)


def _widths_in_words(layers: Sequence[Facts]) -> str:
    narrower = sum(_width(layer) < layer["before"] for layer in layers)
    return f"Output channels of {len(layers)} layers before and after; {narrower} are narrower."


def stage_quality(variant: Facts) -> Drawing | None:
    """Draw held-out accuracy, or agreement where there are no labels, after each stage, with its interval."""
    judged = [{"stage": "original", **variant["before"]}, *judged_points(variant)]
    key = next((key for key in ("accuracy", "agreement") if all(key in point for point in judged)), None)
    if key is None or len(judged) < 2:
        return None
    left, right, row = 104.0, float(WIDTH - 66), 30
    bottom = 6.0 + row * len(judged)
    said = ", ".join(f"{point['stage']} {share(point[key])}" for point in judged)
    drawing = Drawing(label=f"Held-out {key} after each stage: {said}.", height=bottom + 38)
    axis = scale([100 * value for point in judged for value in (point[key], *_interval(point, key))], left, right)
    axis_below(drawing, axis, bottom, 4, name=f"held-out {key}, %")
    for number, point in enumerate(judged):
        y, css = 6.0 + row * (number + 0.5), "before" if number == 0 else "after"
        low, high = (axis.at(100 * value) for value in _interval(point, key))
        drawing.write(stage_name(point), left - 10, y + 4, anchor="end")
        drawing.line((low, y), (high, y), f"{css} whisker")
        drawing.add("circle", css=css, cx=axis.at(100 * point[key]), cy=y, r=5, title=share(point[key]))
        drawing.write(share(point[key]), WIDTH, y + 4, anchor="end", css="value")
    return drawing


def _interval(point: Facts, key: str) -> Sequence[float]:
    value = point[key]
    return point.get("accuracy_interval", (value, value)) if key == "accuracy" else (value, value)


def training(variant: Facts) -> Drawing | None:
    """Draw the training loss over the steps: each point faint, a running mean strong."""
    points = training_points(variant)
    if len(points) < 2:
        return None
    losses = [float(point["loss"]) for point in points]
    return curve(
        [float(point["step"]) for point in points],
        losses,
        x_name="training step",
        y_name="loss (mean since last point)",
    )


def curve(xs: Sequence[float], ys: Sequence[float], *, x_name: str, y_name: str) -> Drawing:
    """Draw figures over an order: each point faint, a running mean strong where there are many points."""
    left, right, top, bottom = 52.0, float(WIDTH - 48), 24.0, 184.0
    said = f"{y_name} over {x_name}: from {quantity(ys[0])} to {quantity(ys[-1])}."
    drawing = Drawing(label=said, height=bottom + 38)
    unit, size = _unit(max(ys))
    ys = [value / size for value in ys]
    across = scale(xs, left, right)
    up = scale([0.0, *ys] if min(ys) >= 0 else ys, bottom, top, ticks=4)
    axis_below(drawing, across, bottom, bottom, name=x_name)
    axis_left(drawing, up, left, right, name=f"{y_name}{unit}", count=4)
    mean = running_mean(ys, len(ys) // 20 if len(ys) >= SMOOTHED_FROM else 0)
    drawing.path([(across.at(x), up.at(y)) for x, y in zip(xs, ys, strict=True)], "loss faint")
    drawing.path([(across.at(x), up.at(y)) for x, y in zip(xs, mean, strict=True)], "loss")
    drawing.write(significant(mean[-1], 2), across.at(xs[-1]) + 5, up.at(mean[-1]) + 4, css="value")
    return drawing


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Give the mean of each value and up to `reach` before and behind it."""
    return [
        sum(values[max(0, at - reach) : at + reach + 1]) / len(values[max(0, at - reach) : at + reach + 1])
        for at in range(len(values))
    ]


def latency(variant: Facts) -> Drawing | None:
    """Draw how latencies spread before and after, on one axis; the slowest runs are counted, not drawn."""
    measured = sides(variant)
    if measured is None:
        return None
    samples = [side["samples_ms"] for side in measured]
    cut = min(max(max(each) for each in samples), SHOWN * max(side["p90_ms"] for side in measured))
    left, right, height = 4.0, float(WIDTH - 4), 74.0
    bottom = 2 * (height + 26)
    said = f"Latency before and after: medians {' and '.join(milliseconds(side['p50_ms']) for side in measured)}."
    drawing = Drawing(label=said, height=bottom + 38)
    axis = scale([0.0, cut], left, right)
    axis_below(drawing, axis, bottom, 4, name="milliseconds per run")
    for number, (css, name) in enumerate((("before", "before"), ("after", "after"))):
        base = (number + 1) * (height + 26)
        _histogram(drawing, axis, samples[number], (base, base - height), css)
        x, top, side = axis.at(measured[number]["p50_ms"]), base - height - 3, measured[number]
        drawing.line((x, base), (x, top), "mark")
        text = f"{name}: p50 {milliseconds(side['p50_ms'])}, p90 {milliseconds(side['p90_ms'])}"
        drawing.write(text, left, top - 4, css="value")
        if slower := sum(value > axis.high for value in samples[number]):
            drawing.write(f"{slower} slower than shown", right, top - 4, anchor="end", css="note")
    return drawing


def _histogram(drawing: Drawing, axis: Scale, samples: Sequence[float], span: tuple[float, float], css: str) -> None:
    base, top = span
    size = (axis.high - axis.low) / BINS
    counts = [0] * BINS
    for value in samples:
        if value <= axis.high:
            counts[min(BINS - 1, int((value - axis.low) / size))] += 1
    most = max(*counts, 1)
    for number, count in enumerate(counts):
        if count:
            low = axis.low + number * size
            tall = max(1.0, (base - top) * count / most)
            said = f"{count} runs between {milliseconds(low)} and {milliseconds(low + size)}"
            wide = axis.at(low + size) - axis.at(low) - 0.5
            drawing.add("rect", css=css, x=axis.at(low), y=base - tall, width=wide, height=tall, title=said)


def tradeoff(variants: Sequence[Facts]) -> Drawing | None:
    """Draw held-out quality against MACs for several targets, the original among them."""
    key = next((key for key in ("accuracy", "agreement") if all(key in one["after"] for one in variants)), None)
    if key is None or len(variants) < 2:
        return None
    sides_of = [variants[0]["before"], *(one["after"] for one in variants)]
    names = ["original", *(str(one["target"]) for one in variants)]
    placed = sorted(
        [{**side, "name": name} for side, name in zip(sides_of, names, strict=True) if key in side],
        key=lambda side: (side["macs"], side["name"]),
    )
    left, right, top, bottom = 48.0, float(WIDTH - 30), 40.0, 246.0
    said = "; ".join(f"{one['name']}: {quantity(one['macs'])} MACs, {share(one[key])}" for one in placed)
    drawing = Drawing(label=f"Held-out {key} against MACs. {said}.", height=bottom + 38)
    unit, size = _unit(max(one["macs"] for one in placed))
    across = scale([0.0, *(one["macs"] / size for one in placed)], left, right)
    up = scale([100 * value for one in placed for value in _interval(one, key)], bottom - 16, top, bound=100.0)
    axis_below(drawing, across, bottom, top, name=f"MACs per sample{unit}")
    axis_left(drawing, up, left, right, name=f"held-out {key}, %")
    drawing.path([(across.at(one["macs"] / size), up.at(100 * one[key])) for one in placed], "after link")
    for number, one in enumerate(placed):
        _place(drawing, one, key, (across.at(one["macs"] / size), up), below=bool(number % 2))
    return drawing


def _place(drawing: Drawing, one: Mapping[str, Any], key: str, at: tuple[float, Scale], *, below: bool) -> None:
    x, up = at
    css = "before" if one["name"] == "original" else "after"
    low, high = (up.at(100 * value) for value in _interval(one, key))
    y = up.at(100 * one[key])
    drawing.line((x, low), (x, high), f"{css} whisker")
    drawing.add("circle", css=css, cx=x, cy=y, r=5, title=f"{one['name']}: {share(one[key])}")
    text = shortened(one["name"], NAME_LENGTH)
    half = len(text) * TEXT_WIDTH / 2
    drawing.write(text, min(x, WIDTH - half), low + 15 if below else high - 7, anchor="middle", css="value")


def _unit(largest: float) -> tuple[str, float]:
    for name, size in ((", billions", 1e9), (", millions", 1e6), (", thousands", 1e3)):
        if largest >= 2 * size:
            return name, size
    return "", 1.0
