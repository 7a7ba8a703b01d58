"""What the command line shows: a progress bar with an ETA, the before/after table, lists. Rendering only."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

Document = Mapping[str, Any]

_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def quantity(value: float, unit: str = "") -> str:
    """Return `value` with three significant digits and a decimal prefix, e.g. `62.4 M`."""
    for prefix, size in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def eta_text(seconds: float | None) -> str:
    """Return a remaining time for people: `~1:05 left`, or nothing when it is not known."""
    if seconds is None:
        return ""
    return f"~{timedelta(seconds=round(seconds))} left"


class JobProgress:
    """A live bar for one job, fed with the job's own progress documents."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description:>12}"),
            BarColumn(bar_width=36),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]} {task.fields[message]}"),
            console=console,
        )
        self._task: TaskID = self._bar.add_task("queued", total=1.0, eta="", message="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def show(self, job: Document) -> None:
        """Draw the job's phase, fraction, ETA and message."""
        progress = job.get("progress") or {}
        self._bar.update(
            self._task,
            completed=1.0 if job["state"] == "succeeded" else progress.get("fraction") or 0.0,
            description=progress.get("phase") or job["state"],
            eta=eta_text(progress.get("eta_seconds")) if job["state"] == "running" else "",
            message=progress.get("message") or "",
        )


_ROWS: Sequence[tuple[str, str, str]] = (
    ("MACs", "macs", ""),
    ("parameters", "params", ""),
    ("file", "size_bytes", "B"),
    ("peak activations", "peak_activation_bytes", "B"),
)


def _latency_ms(figures: Document) -> float | None:
    latency = figures.get("latency_ms")
    return latency.get("p50_ms") if isinstance(latency, Mapping) else latency


def result_table(result: Document) -> Table:
    """Return the before/after table of a finished job; rows without figures are left out."""
    before, after = result["before"], result["after"]
    table = Table(title=None, header_style="bold")
    for heading, justify in (("", "left"), ("before", "right"), ("after", "right"), ("ratio", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # rich wants its own literal type
    for label, key, unit in _ROWS:
        if before.get(key) is not None and after.get(key) is not None:
            ratio = after[key] / before[key] if before[key] else float("nan")
            table.add_row(label, quantity(before[key], unit), quantity(after[key], unit), f"{ratio:.1%}")
    for label, key in (("accuracy", "accuracy"), ("agreement", "agreement")):
        if after.get(key) is not None:
            was = before.get(key)
            change = "" if was is None else f"{100 * (after[key] - was):+.1f} points"
            table.add_row(label, "" if was is None else f"{was:.1%}", f"{after[key]:.1%}", change)
    was_ms, now_ms = _latency_ms(before), _latency_ms(after)
    if was_ms and now_ms:
        table.add_row("latency, 1 thread", f"{was_ms:.3f} ms", f"{now_ms:.3f} ms", f"{now_ms / was_ms:.1%}")
    return table


def listing(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a plain table of `rows` under `columns`."""
    table = Table(title=title, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table
