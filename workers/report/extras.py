"""What only one method states: figures become lines, lists of records become curves or tables.

A method writes what it likes under `facts`, and its own points into the curve; the page shows both as they come.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from workers.report.drawing import Drawing
from workers.report.pictures import curve
from workers.report.summary import Facts
from workers.report.words import plain, spelled

ORDERS: Final = ("step", "epoch", "round", "generation", "iteration", "samples")
LATENCY: Final = "latency"  # has a section of its own: devices.py
ROWS_AT_MOST: Final = 400
CURVES_AT_MOST: Final = 6
_TRIED: Final = ("kind", "macs", "params", "of", "fall", "held", "samples", "shipped")
SERIES_AT_LEAST: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """One heading's worth of a method's own figures."""

    title: str
    lines: tuple[tuple[str, str], ...] = ()
    drawings: tuple[Drawing, ...] = ()
    columns: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    left_out: int = 0  # rows


def extras(variant: Facts) -> list[Extra]:
    """Give everything a method states beyond what every method does."""
    facts = {key: value for key, value in (variant.get("facts") or {}).items() if key != LATENCY}
    records = {key: value for key, value in facts.items() if _records(value)}
    series = {key: value for key, value in facts.items() if _series(value)}
    lines = tuple((spelled(key), plain(value)) for key, value in facts.items() if key not in {**records, **series})
    drawings = tuple(_row_curve(key, value) for key, value in series.items())
    found = [Extra(title="What the method found", lines=lines, drawings=drawings)] if facts else []
    found += [_extra(spelled(key), value) for key, value in records.items()]
    tries = variant.get("tries", ())
    found += [_tried(tries)] if len(tries) > 1 else []
    return found + [_extra(spelled(name), points) for name, points in _own_points(variant).items()]


def _tried(tries: Sequence[Facts]) -> Extra:
    """Every network that was looked at on the way to the smallest that holds its accuracy."""
    ordered = sorted(tries, key=lambda each: (each["macs"], each["kind"]))
    shown = _extra("What was tried for the accuracy", [{key: one[key] for key in _TRIED} for one in ordered])
    pictures = []
    for kind, name in (("draft", "fall without training"), ("whole", "fall of whole prunings")):
        points = sorted({each["macs"]: each["fall"] for each in tries if each["kind"] == kind}.items())
        if len(points) > 1:
            xs, ys = zip(*points, strict=True)
            pictures.append(curve(xs, ys, x_name="MACs", y_name=name))
    return replace(shown, drawings=tuple(pictures))


def _own_points(variant: Facts) -> Mapping[str, list[Facts]]:
    """Give the points of the curve that are neither judged nor a training loss, by their stage."""
    own: dict[str, list[Facts]] = {}
    for point in variant.get("curve", ()):
        if "num_samples" not in point and not ("loss" in point and "step" in point):
            rest = {key: value for key, value in point.items() if key != "stage"}
            own.setdefault(str(point.get("stage", "")), []).append(rest)
    return own


def _records(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(entry, Mapping) for entry in value)
    )


def _series(value: Any) -> bool:
    """Whether a value is so many figures in a row that they are better drawn than listed; gaps are allowed."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    known = [entry for entry in value if entry is not None]
    return len(known) >= SERIES_AT_LEAST and all(map(_is_figure, known))


def _row_curve(key: str, values: Sequence[Any]) -> Drawing:
    pairs = [(number, value) for number, value in enumerate(values, start=1) if value is not None]
    xs, ys = zip(*pairs, strict=True)
    return curve(xs, ys, x_name="number", y_name=spelled(key))


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _extra(title: str, records: Sequence[Facts]) -> Extra:
    columns = tuple(dict.fromkeys(key for record in records for key in record))
    shown = records[:ROWS_AT_MOST]
    table = tuple(tuple(plain(record[key]) if key in record else "" for key in columns) for record in shown)
    return Extra(
        title=title,
        drawings=tuple(_curves(records, columns)),
        columns=tuple(spelled(key) for key in columns),
        table=table,
        left_out=len(records) - len(shown),
    )


def _curves(records: Sequence[Facts], columns: Sequence[str]) -> Iterator[Drawing]:
    order = next((name for name in ORDERS if name in columns), None)
    if order is None:
        return
    drawn = 0
    for column in columns:
        pairs = [(record.get(order), record[column]) for record in records if record.get(column) is not None]
        if column in ORDERS or drawn == CURVES_AT_MOST or not _drawable(pairs):
            continue
        drawn += 1
        xs, ys = zip(*pairs, strict=True)
        yield curve(xs, ys, x_name=spelled(order), y_name=spelled(column))


def _drawable(pairs: Sequence[tuple[Any, Any]]) -> bool:
    """Whether there are enough figures, in order, for a line that says something."""
    figures = all(_is_figure(value) for pair in pairs for value in pair)
    return figures and len(pairs) > 2 and all(first[0] < second[0] for first, second in itertools.pairwise(pairs))
