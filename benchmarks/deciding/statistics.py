"""Means and spreads over seeds, and figures out of stored rows."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.deciding.ledger import Line

Value = Callable[[Line], float | None]


def figure(line: Line, *path: str) -> float | None:
    """A figure of a row by its path; None where the row does not have it."""
    found: Any = line.figures
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return None if found is None else float(found)


def by(lines: Sequence[Line], table: str, names: Sequence[str]) -> dict[tuple[Any, ...], list[Line]]:
    """Rows of a table that share these keys, in the order in which they were found."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if line.table == table:
            groups.setdefault(tuple(line.key.get(name) for name in names), []).append(line)
    return groups


def of_method(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Rows by method; rows that say that a tool cannot do it are left out."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        if "impossible" not in line.figures:
            groups.setdefault(str(line.key["method"]), []).append(line)
    return groups


def values(lines: Sequence[Line], value: Value) -> list[float]:
    """A figure of every row that has it."""
    return [found for found in map(value, lines) if found is not None]


def mean(lines: Sequence[Line], value: Value) -> float | None:
    """The mean over rows; None where no row has the figure."""
    found = values(lines, value)
    return fmean(found) if found else None


def spread(lines: Sequence[Line], value: Value) -> float | None:
    """The standard deviation over rows; None where fewer than two have the figure."""
    found = values(lines, value)
    return stdev(found) if len(found) > 1 else None


def stated(lines: Sequence[Line], value: Value) -> str:
    """Mean ± standard deviation (number of rows), with as many digits as tell something."""
    found = values(lines, value)
    if not found:
        return "-"
    middle = fmean(found)
    digits = 3 if abs(middle) < 2 else (2 if abs(middle) < 100 else 0)
    if len(found) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ± {stdev(found):.{digits}f} ({len(found)})"
