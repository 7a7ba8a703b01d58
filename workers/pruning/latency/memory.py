"""What bringing weights from farther away costs, learned by timing one layer in graphs with more and more weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

from workers.pruning.latency.rows import Operand, Row
from workers.pruning.latency.table import Table

_CHANNELS: Final = 128  # 0.6 MB of weights, few multiply-adds for each
_SIDE: Final = 2
_COPIES: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # up to 75 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Milliseconds that a byte of weights takes beyond those of a small graph, by all bytes that the graph reads."""

    points: tuple[tuple[float, float], ...] = ()  # (log bytes, milliseconds), both rising

    def per_byte_ms(self, num_bytes: float) -> float:
        """Give what each byte of weights adds in a graph that reads so many of them in a run."""
        if not self.points:
            return 0.0
        sizes, found = zip(*self.points, strict=True)
        return float(np.interp(log(max(num_bytes, 1.0)), sizes, found))


def probe(copies: int) -> Row:
    """A layer whose weights take longer to come than to be used, so many times over."""
    data = Operand(kind="data", shape=(1, _CHANNELS, _SIDE, _SIDE))
    weight = Operand(kind="weight", shape=(_CHANNELS, _CHANNELS, 3, 3))
    pads = (("pads", "1,1,1,1"),)
    return Row(operator="Conv", operands=(data, weight), output=data.shape, attributes=pads, copies=copies)


def is_probe(row: Row) -> bool:
    """Whether a row of the table was timed to learn this."""
    return row.operator == "Conv" and row.copies in _COPIES and row == probe(row.copies)


def probes(num_bytes: float) -> Iterable[Row]:
    """Graphs with ever more weights, up to as many as a network has; none for a network that is smaller than one."""
    for number, copies in enumerate(_COPIES):
        if num_bytes <= num_weight_bytes(probe(_COPIES[max(0, number - 1)])):
            return
        yield probe(copies)


def num_weight_bytes(row: Row) -> float:
    """Bytes of weights in the graph in which a row is timed."""
    return float(row.copies * row.num_weights * np.dtype(row.dtype).itemsize)


def learned(table: Table) -> Memory:
    """Fit the milliseconds of a byte to what was timed of the probes.

    Source: derivation. A run reads every weight once, so a graph whose weights do not fit into a cache finds none of
    them there at its next run: each comes from the next level, at that level's rate. The time of one copy therefore
    rises in a stair with the bytes of the graph. What falls is noise: the best rising fit (pooling of adjacent
    violators; Barlow et al. 1972) takes the mean there.
    """
    known = [(probe(copies), ms) for copies in _COPIES if (ms := table.ms(probe(copies))) is not None]
    if len(known) < 2:
        return Memory()
    single = num_weight_bytes(probe(1))
    rising = _rising([ms / single for _, ms in known])
    sizes = [log(num_weight_bytes(row)) for row, _ in known]
    return Memory(points=tuple((size, ms - rising[0]) for size, ms in zip(sizes, rising, strict=True)))


def _rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence that nowhere falls."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while blocks and blocks[-1][0] >= mean:
            before, many = blocks.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        blocks.append((mean, count))
    return [mean for mean, count in blocks for _ in range(count)]
