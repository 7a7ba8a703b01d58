"""Figures as people read them: three significant digits, decimal prefixes, units behind a space that never breaks."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_PREFIXES: Final = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_MINUTE: Final = 60.0
SPACE: Final = "\N{NO-BREAK SPACE}"


def significant(value: float, digits: int = 3) -> str:
    """Give `value` with that many significant digits and without an exponent where it is of common size."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    places = max(0, digits - 1 - _exponent(value))
    return f"{value:,.{places}f}"


def quantity(value: float, unit: str = "") -> str:
    """Give a count or a size with a decimal prefix: `1.51 M`, `341 kB`."""
    for prefix, size in _PREFIXES:
        if abs(value) >= size:
            return f"{significant(value / size)}{SPACE}{prefix}{unit}"
    whole = f"{value:.0f}" if value == int(value) else significant(value)
    return f"{whole}{SPACE}{unit}" if unit else whole


def share(value: float) -> str:
    """Give a share of one in percent: `49.7 %`."""
    return f"{100 * value:.1f}{SPACE}%"


def share_range(interval: Sequence[float]) -> str:
    """Give an interval of shares: `97.1 to 99.4 %`; nothing where there is none."""
    if not interval:
        return ""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}{SPACE}%"


def points(difference: float) -> str:
    """Give a difference of shares in points of a percent, with its sign: `−0.4 points`."""
    shown = round(100 * difference, 1) + 0.0  # no negative zero
    return f"{shown:+.1f} points".replace("-", "−")


def milliseconds(value: float) -> str:
    """Give a time of milliseconds: `0.0698 ms`."""
    return f"{significant(value)}{SPACE}ms"


def seconds(value: float) -> str:
    """Give a duration: `0.52 s`, `2 min 05 s`."""
    if value >= _MINUTE:
        whole = round(value)
        return f"{whole // 60}{SPACE}min {whole % 60:02d}{SPACE}s"
    return f"{value:.2f}{SPACE}s" if value < 10 else f"{value:.1f}{SPACE}s"


def shortened(name: str, length: int) -> str:
    """Give a name that fits: its middle gives way to an ellipsis, since both ends of a node's name tell most."""
    if len(name) <= length:
        return name
    tail = (length - 1) * 2 // 3
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def plain(value: Any) -> str:
    """Give any JSON value in a line of text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(entry) for entry in value) or "none"
    return str(value)


def spelled(key: str) -> str:
    """Give a key of the result as words: `learning_rate` is `learning rate`."""
    return key.replace("_", " ")


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".partition("e")[2])
