"""The step in channels that a device likes, learned by timing one layer at widths a little above a round one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from workers.pruning.latency.rows import Row, fitting_copies
from workers.pruning.latency.table import Table

BASE: Final = 32
STEPS: Final = (1, 2, 4, 8, 16, 32)
EFFICIENT: Final = 0.92  # of the speed between two round widths; a step that keeps it is liked
_KINDS: Final = ("convolution", "pointwise convolution", "grouped convolution")


def probes(rows: Iterable[tuple[Row, float]]) -> dict[str, tuple[Row, ...]]:
    """Rows that tell the step of each kind of convolution: one layer at 32 channels and 1 to 32 more.

    Args:
        rows: rows of a network with their weight; the heaviest layer of each kind stands for its kind.
    """
    heaviest: dict[str, tuple[float, Row]] = {}
    for row, weight in rows:
        if row.operator == "Conv" and row.kind in _KINDS and heaviest.get(row.kind, (-1.0, row))[0] < weight:
            heaviest[row.kind] = (weight, row)
    widths = (BASE, *(BASE + step for step in STEPS))
    return {kind: tuple(at_width(row, width) for width in widths) for kind, (_, row) in sorted(heaviest.items())}


def at_width(row: Row, width: int) -> Row:
    """The same convolution with so many channels on both sides; nothing is added to it."""
    weight = row.weight
    if weight is None:
        raise ValueError(f"{row.operator} has no weights")
    inside = weight.shape[1] if row.groups > 1 and weight.shape[1] == 1 else width
    data = replace(row.data, shape=(row.data.shape[0], width, *row.data.shape[2:]))
    filters = replace(weight, shape=(width, inside, *weight.shape[2:]))
    fused = tuple(name for name in row.fused if name != "Add")
    output = (row.output[0], width, *row.output[2:])
    same = replace(row, operands=(data, filters), output=output, fused=fused)
    return replace(same, copies=fitting_copies(same.operator, same.macs, same.num_weights))


def learned(table: Table, probed: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """The smallest step for each kind from which on every width is about as efficient as round ones.

    A width is efficient if its time is hardly above the line between the times of 32 and 64 channels. A device that
    computes channel by channel stays below it, since time grows at least as fast as the width; one that computes in
    blocks of 16 takes for 36 channels what it takes for 48.
    """
    steps = {}
    for kind, rows in probed.items():
        times = [ms for row in rows if (ms := table.ms(row)) is not None]
        if len(times) == len(rows):
            steps[kind] = _step(times)
    return steps


def _step(times: Sequence[float]) -> int:
    slope = (times[-1] - times[0]) / BASE
    liked = STEPS[-1]
    for step, ms in reversed(list(zip(STEPS, times[1:], strict=True))):
        if times[0] + slope * step < EFFICIENT * ms:
            break
        liked = step
    return liked
