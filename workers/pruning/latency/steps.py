"""The step in channels that a device likes, and the widths below it that fall off its stair, learned by timing.

One layer of each kind is timed at widths a little above a round one, which tells the step, and a little below one: a
device that rounds widths up takes as long for those as for the round one, and one that has another kernel for them
takes longer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Final

import numpy as np

from workers.pruning.latency.rows import Row, fitting_copies
from workers.pruning.latency.table import Table

BASE: Final = 32
STEPS: Final = (1, 2, 4, 8, 16, 32)
EFFICIENT: Final = 0.92  # of the speed between two round widths; a step that keeps it is liked
ROUND: Final = 48  # the width below which misfits are looked for
MISFITS: Final = (1, 2, 4, 8)  # channels fewer
LONGER: Final = 1.15  # of the time at the round width; widths below it that take more have another kernel
_KINDS: Final = ("convolution", "pointwise convolution", "grouped convolution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Powers of two that must divide the widths of a layer, for these to be rounded up to the step."""

    read: int = 1
    written: int = 1


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


def fit_probes(probed: Mapping[str, Sequence[Row]]) -> dict[str, tuple[Row, ...]]:
    """Rows that tell which widths of each kind fall off the stair: one round row, then misfits read, then written.

    Args:
        probed: what `probes` gave; the same layers are timed.
    """
    found = {}
    for kind, (row, *_) in probed.items():
        fewer = [ROUND - misfit for misfit in MISFITS]
        # What a grouped convolution reads it writes.
        read = [at_widths(row, width, width if row.groups > 1 else ROUND) for width in fewer]
        written = [] if row.groups > 1 else [at_widths(row, ROUND, width) for width in fewer]
        found[kind] = (at_width(row, ROUND), *read, *written)
    return found


def at_width(row: Row, width: int) -> Row:
    """The same convolution with so many channels on both sides; nothing is added to it."""
    return at_widths(row, width, width)


def at_widths(row: Row, read: int, written: int) -> Row:
    """The same convolution with so many channels on either side; nothing is added to it."""
    weight = row.weight
    if weight is None:
        raise ValueError(f"{row.operator} has no weights")
    inside = weight.shape[1] if row.groups > 1 and weight.shape[1] == 1 else read
    data = replace(row.data, shape=(row.data.shape[0], read, *row.data.shape[2:]))
    filters = replace(weight, shape=(written, inside, *weight.shape[2:]))
    fused = tuple(name for name in row.fused if name != "Add")
    output = (row.output[0], written, *row.output[2:])
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


def learned_fits(table: Table, probed: Mapping[str, Sequence[Row]]) -> dict[str, Fit]:
    """What must divide the widths of each kind, as `fit_probes` were timed; nothing of a kind with a missing row."""
    fits = {}
    for kind, rows in probed.items():
        round_ms, *times = [table.ms(row) for row in rows]
        known = [ms for ms in times if ms is not None]
        if round_ms is not None and len(known) == len(times):
            sides = [known[start : start + len(MISFITS)] for start in range(0, len(known), len(MISFITS))]
            divisors = [_divisor(side, round_ms) for side in sides]
            fits[kind] = Fit(read=divisors[0], written=divisors[-1])
    return fits


def _divisor(times: Sequence[float], round_ms: float) -> int:
    """What must divide a width for it to take what the round one above it takes.

    Of all ways to part the misfits, the smallest of which take longer, the one that two levels fit best (least squares
    of logarithms): a single time that is off by noise makes no level of its own.
    """
    logs = np.log(times)
    best, least = 1, float("inf")
    for number, misfit in enumerate(MISFITS, start=1):
        longer, others = logs[:number], np.append(logs[number:], log(round_ms))
        off = float(((longer - longer.mean()) ** 2).sum() + ((others - others.mean()) ** 2).sum())
        if longer.mean() - others.mean() > log(LONGER) and off < least:
            best, least = 2 * misfit, off
    return best
