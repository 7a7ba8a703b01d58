"""Pictures as lists of SVG marks, drawn by the page's template, which escapes every word of them.

Why no plotting library: the page needs five kinds of marks. Matplotlib would bring 77 MB of wheels into every worker,
take 0.9 s of each attempt (1.6 s where its font cache cannot be kept, as in the sandbox), and write text that neither
follows the page's dark colours nor is escaped together with the rest of the page.

Units: user units of the SVG, which are about one CSS pixel on a telephone and 1.3 on a desk. Coordinates are rounded to
a tenth, so the same figures give the same bytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

WIDTH: Final = 420
TEXT_WIDTH: Final = 6.4  # of one character at the size that the style sheet gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One SVG element: its attributes, the text in it, and what is said when it is pointed at."""

    tag: str
    attributes: Mapping[str, str]
    text: str = ""
    title: str = ""


@dataclass(slots=True, kw_only=True)
class Drawing:
    """A picture under construction. `label` says in words what it shows, for those who cannot see it."""

    label: str
    height: float
    width: float = WIDTH
    marks: list[Mark] = field(default_factory=list)

    def add(self, tag: str, *, css: str, title: str = "", **numbers: float) -> None:
        """Add a shape; the style sheet gives it its colour by its class."""
        shape = {name: _text(value) for name, value in numbers.items()}
        self.marks.append(Mark(tag=tag, attributes={"class": css, **shape}, title=title))

    def line(self, start: tuple[float, float], end: tuple[float, float], css: str) -> None:
        """Add a straight line."""
        self.add("line", css=css, x1=start[0], y1=start[1], x2=end[0], y2=end[1])

    def path(self, places: Sequence[tuple[float, float]], css: str) -> None:
        """Add a line through places."""
        through = " ".join(f"{_text(x)},{_text(y)}" for x, y in places)
        self.marks.append(Mark(tag="polyline", attributes={"class": css, "points": through}))

    def write(self, text: str, x: float, y: float, *, anchor: str = "start", css: str = "", title: str = "") -> None:
        """Add a text; `anchor` is the part of it that lies at `x`: start, middle, end."""
        place = {"x": _text(x), "y": _text(y), "text-anchor": anchor}
        self.marks.append(
            Mark(tag="text", attributes={**place, "class": css} if css else place, text=text, title=title)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Figures `low` to `high` on pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Give the pixel of a figure."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def scale(values: Sequence[float], start: float, end: float, *, ticks: int = 5, bound: float | None = None) -> Scale:
    """Give a scale on which all values fit and whose ends are round; nothing lies above `bound`."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - max(abs(low) * 0.05, 1e-3), high + max(abs(high) * 0.05, 1e-3)
    step = _step(low, high, ticks)
    top = math.ceil(round(high / step, 9)) * step
    bottom = math.floor(round(low / step, 9)) * step
    return Scale(low=bottom, high=top if bound is None else min(bound, top), start=start, end=end)


def round_figures(axis: Scale, count: int = 5) -> list[float]:
    """Give about `count` round figures on a scale: multiples of 1, 2 or 5 of a power of ten."""
    step = _step(axis.low, axis.high, count)
    first = math.ceil(round(axis.low / step, 9))
    last = math.floor(round(axis.high / step, 9))
    return [round(number * step, 12) for number in range(first, last + 1)]


def axis_below(drawing: Drawing, axis: Scale, y: float, top: float, *, name: str, count: int = 5) -> None:
    """Add a horizontal axis at `y`: grid lines up to `top`, round figures, and a name with its unit."""
    for value in round_figures(axis, count):
        drawing.line((axis.at(value), top), (axis.at(value), y), "grid")
        drawing.write(f"{value:,.10g}", axis.at(value), y + 15, anchor="middle")
    drawing.write(name, (axis.start + axis.end) / 2, y + 32, anchor="middle", css="name")


def axis_left(drawing: Drawing, axis: Scale, x: float, right: float, *, name: str, count: int = 5) -> None:
    """Add a vertical axis at `x`: grid lines up to `right`, round figures, and a name above with its unit."""
    for value in round_figures(axis, count):
        drawing.line((x, axis.at(value)), (right, axis.at(value)), "grid")
        drawing.write(f"{value:,.10g}", x - 5, axis.at(value) + 4, anchor="end")
    drawing.write(name, 0, 12, css="name")


def _step(low: float, high: float, count: int) -> float:
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))


def _text(value: float) -> str:
    return f"{round(value, 1) + 0.0:g}"
