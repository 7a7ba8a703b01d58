"""Times of rows that were not timed, from those that were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, log
from typing import Final

import numpy as np

from workers.pruning.latency.fitting import fit
from workers.pruning.latency.rows import Operand, Row
from workers.pruning.latency.table import Table
from workers.pruning.types import FloatArray

_LEAST_ROWS: Final = 3  # to fit the times of one layer at several widths
_NEAR: Final = 0.02  # squared distance in log widths below which neighbours count alike
_FAR: Final = 0.05  # weight of the fit itself among the neighbours
_LEAST_MS: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A row that was timed."""

    row: Row
    ms: float


class Estimate:
    """Milliseconds of any row on one device.

    Source: derivation. A kernel calls, reads, writes, fetches weights and multiplies, so its time is a sum of these
    with coefficients from 0 up, in channels rounded up to the device's step, in which it computes. The coefficients
    are those of the same layer at other widths, where at least three were timed, else those of all rows of its kind.
    What is left between fit and timing is taken over from the nearest widths that were timed. Widths far from the step
    may fall into another kernel altogether: what they take beyond the fit is the median over rows of the same kind and
    the same largest power of two in their widths, and they take no part in the fits. Rows of a kind that was never
    timed take what all rows together say.
    """

    def __init__(self, table: Table, steps: Mapping[str, int]) -> None:
        self._table = table
        self._steps = dict(steps)
        self._cache: dict[str, float] = {}
        self._fits: dict[tuple[object, ...], FloatArray] = {}
        self._like: dict[tuple[object, ...], list[_Known]] = {}
        self._all: list[_Known] = []
        self._of_kind: dict[str, list[_Known]] = {}
        self._odd: list[_Known] = []
        self._penalties: dict[tuple[str, int], float] = {}
        for row in table.rows():
            ms = table.ms(row)
            if ms is None:
                continue
            known = _Known(row=row, ms=ms)
            if self._is_odd(row):
                self._odd.append(known)
            else:
                self._all.append(known)
                self._of_kind.setdefault(row.kind, []).append(known)
                self._like.setdefault(likeness(row), []).append(known)

    def ms(self, row: Row) -> float:
        """Time of one row's operator: the table's own where it was timed, else estimated."""
        found = self._cache.get(row.key)
        if found is None:
            timed = self._table.ms(row)
            found = self._cache[row.key] = self.estimated(row) if timed is None else timed
        return found

    def estimated(self, row: Row, *, without: Row | None = None) -> float:
        """Time of a row from others: all that are known, or all but one."""
        like = [known for known in self._like.get(likeness(row), ()) if known.row != without]
        enough = len({known.row.key for known in like}) >= _LEAST_ROWS
        pool = like if enough else self._kind(row, without)
        if not pool:
            return 0.0
        name = likeness(row) if enough else (row.kind,)
        coefficients = self._fit(name, pool, cached=without is None)
        regular = self._value(coefficients, row) * self._nearby(coefficients, row, like)
        return regular * self._penalty(row) if self._is_odd(row) else regular

    def _kind(self, row: Row, without: Row | None) -> list[_Known]:
        kind = self._of_kind.get(row.kind, [])
        pool = kind if len(kind) > _LEAST_ROWS else self._all
        return pool if without is None else [known for known in pool if known.row != without]

    def _is_odd(self, row: Row) -> bool:
        step = self._steps.get(row.kind, 1)
        return row.operator == "Conv" and 2 * divisor(row, step) < step

    def _penalty(self, row: Row) -> float:
        """What widths with so small a divisor take beyond the fit of round ones."""
        place = row.kind, divisor(row, self._steps.get(row.kind, 1))
        if place not in self._penalties:
            step = self._steps.get(row.kind, 1)
            same = [known for known in self._odd if (known.row.kind, divisor(known.row, step)) == place]
            self._penalties[place] = 1.0
            ratios = [known.ms / self.estimated(known.row) for known in same]
            self._penalties[place] = float(np.median(ratios)) if ratios else 1.0
        return self._penalties[place]

    def errors(self) -> list[float]:
        """Relative error of each row of this network that was timed, when it is estimated from the others."""
        used = self._table.used()
        rows = [known for like in self._like.values() if len(like) > _LEAST_ROWS for known in like]
        enough = [known for known in rows if known.row.key in used]
        return [abs(self.estimated(known.row, without=known.row) / known.ms - 1) for known in enough]

    def _fit(self, name: tuple[object, ...], pool: Sequence[_Known], *, cached: bool) -> FloatArray:
        if cached and name in self._fits:
            return self._fits[name]
        features = np.asarray([self._features(known.row) for known in pool])
        coefficients = fit(features, np.asarray([known.ms for known in pool]))
        if cached:
            self._fits[name] = coefficients
        return coefficients

    def _features(self, row: Row) -> list[float]:
        whole = rounded(row, self._steps.get(row.kind, 1))
        return [1.0, float(whole.num_read), float(whole.num_written), float(whole.num_weights), float(whole.macs)]

    def _value(self, coefficients: FloatArray, row: Row) -> float:
        return max(_LEAST_MS, float(coefficients @ np.asarray(self._features(row))))

    def _nearby(self, coefficients: FloatArray, row: Row, like: Sequence[_Known]) -> float:
        """What timings near these widths are over the fit; far from all of them, the fit's own."""
        whole, above = _FAR, 0.0
        here = _widths(rounded(row, self._steps.get(row.kind, 1)))
        for known in like:
            there = _widths(rounded(known.row, self._steps.get(row.kind, 1)))
            distance = sum(log(a / b) ** 2 for a, b in zip(here, there, strict=True))
            weight = 1 / (_NEAR + distance)
            whole += weight
            above += weight * log(known.ms / self._value(coefficients, known.row))
        return exp(above / whole)


def divisor(row: Row, step: int) -> int:
    """The largest power of two up to the step in a convolution's widths; few inputs, as of images, do not count."""
    widths = [row.output[1], row.data.shape[1]] if row.data.shape[1] >= step else [row.output[1]]
    found = 1
    while 2 * found <= step and all(width % (2 * found) == 0 for width in widths):
        found *= 2
    return found


def likeness(row: Row) -> tuple[object, ...]:
    """What rows share that are one layer at several widths."""
    operands = tuple((operand.kind, _without_channels(operand), operand.text) for operand in row.operands)
    return row.operator, row.fused, row.dtype, row.groups > 1, operands, row.output[2:], row.attributes


def _without_channels(operand: Operand) -> tuple[int, ...]:
    spatial = operand.shape[2:]
    return (len(operand.shape), *(operand.shape[:1] if operand.kind == "data" else ()), *spatial)


def _widths(row: Row) -> tuple[int, ...]:
    shapes = [operand.shape for operand in row.operands] + [row.output]
    return tuple(max(1, length) for shape in shapes for length in shape[:2])


def rounded(row: Row, step: int) -> Row:
    """A convolution with its channels rounded up to what the device computes; other rows as they are."""
    if step == 1 or row.operator != "Conv" or row.weight is None:
        return row

    def up(channels: int) -> int:
        return ceil(channels / step) * step

    inside = row.weight.shape[1] if row.groups > 1 or row.weight.shape[1] < step else up(row.weight.shape[1])
    first = row.data.shape[1] if row.data.shape[1] < step and row.groups == 1 else up(row.data.shape[1])
    operands = (
        replace(row.data, shape=(row.data.shape[0], first, *row.data.shape[2:])),
        replace(row.weight, shape=(up(row.weight.shape[0]), inside, *row.weight.shape[2:])),
    )
    return replace(row, operands=operands, output=(row.output[0], up(row.output[1]), *row.output[2:]))
