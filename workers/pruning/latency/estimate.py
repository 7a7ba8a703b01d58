"""Times of rows that were not timed, from those that were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, log
from typing import Final

import numpy as np

from workers.pruning.latency import memory
from workers.pruning.latency.fitting import fit
from workers.pruning.latency.memory import Memory
from workers.pruning.latency.rows import Operand, Row
from workers.pruning.latency.steps import Fit
from workers.pruning.latency.table import Table
from workers.pruning.types import FloatArray

_LEAST_ROWS: Final = 3  # to fit the times of one layer at several widths
_NEAR: Final = 0.02  # squared distance in log widths below which neighbours count alike
_FAR: Final = 0.05  # weight of the fit itself among the neighbours
_UNLIKE: Final = 0.5  # added to the squared distance of another layer of the kind
_NEAREST: Final = 0.2  # of a row's time that is its own, however far its weights are
_LEAST_MS: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A row that was timed."""

    row: Row
    ms: float
    like: tuple[object, ...]  # its likeness
    whole: Row  # in channels that the device computes
    features: FloatArray


class Estimate:
    """Milliseconds of any row on one device, its weights near.

    Source: derivation. A kernel calls, reads, writes, fetches weights and multiplies, so its time is a sum of these
    with coefficients from 0 up, in channels rounded up to the device's step, in which it computes: a stair. The
    coefficients are those of the same layer at other widths, where at least three were timed, else those of all rows of
    its kind. What is left between fit and timing is taken over from the nearest widths that were timed. Widths that are
    not rounded up fall into another kernel: what they take beyond the stair is the mean over rows of the same kind that
    fall off on the same side, the nearest first, and they take no part in the fits. Rows of a kind that was never timed
    take what all rows together say. Rows whose graph reads many weights are taken as if those were near.
    """

    def __init__(
        self,
        table: Table,
        steps: Mapping[str, int],
        fits: Mapping[str, Fit] | None = None,
        reach: Memory | None = None,
    ) -> None:
        self._table = table
        self._steps = dict(steps)
        self._needed = dict(fits or {})
        self._reach = reach or Memory()
        self._cache: dict[str, float] = {}
        self._fits: dict[tuple[object, ...], FloatArray] = {}
        self._like: dict[tuple[object, ...], list[_Known]] = {}
        self._all: list[_Known] = []
        self._of_kind: dict[str, list[_Known]] = {}
        self._odd: dict[tuple[str, bool, bool], list[_Known]] = {}
        self._excess: dict[str, float] = {}
        for row in table.rows():
            ms = self._timed(row)
            if ms is None or memory.is_probe(row):
                continue
            known = self._known(row, ms)
            misfit = self._misfit(row)
            if any(misfit):
                self._odd.setdefault((row.kind, *misfit), []).append(known)
            else:
                self._all.append(known)
                self._of_kind.setdefault(row.kind, []).append(known)
                self._like.setdefault(known.like, []).append(known)

    def _known(self, row: Row, ms: float) -> _Known:
        whole = rounded(row, self._steps.get(row.kind, 1))
        return _Known(row=row, ms=ms, like=likeness(row), whole=whole, features=_features(whole))

    def ms(self, row: Row) -> float:
        """Time of one row's operator: the table's own where it was timed, else estimated."""
        found = self._cache.get(row.key)
        if found is None:
            timed = self._timed(row)
            found = self._cache[row.key] = self.estimated(row) if timed is None else timed
        return found

    def estimated(self, row: Row, *, without: Row | None = None) -> float:
        """Time of a row from others: all that are known, or all but one."""
        regular = self._regular(row, without)
        misfit = self._misfit(row)
        return regular * self._beyond(row, misfit, without) if any(misfit) else regular

    def _timed(self, row: Row) -> float | None:
        """What the table says of a row, less what it took to bring its weights as far as its graph of copies had to."""
        ms = self._table.ms(row)
        if ms is None:
            return None
        far = self._reach.per_byte_ms(memory.num_weight_bytes(row)) * memory.num_weight_bytes(row) / row.copies
        return max(ms - far, _NEAREST * ms)

    def _regular(self, row: Row, without: Row | None) -> float:
        """Time of a row on the stair."""
        name = likeness(row)
        like = [known for known in self._like.get(name, ()) if without is None or known.row != without]
        enough = len({known.row.key for known in like}) >= _LEAST_ROWS
        pool = like if enough else self._kind(row, without)
        if not pool:
            return 0.0
        name = name if enough else (row.kind,)
        coefficients = self._fit(name, pool, cached=without is None)
        whole = rounded(row, self._steps.get(row.kind, 1))
        return _value(coefficients, _features(whole)) * _nearby(coefficients, whole, like)

    def _kind(self, row: Row, without: Row | None) -> list[_Known]:
        kind = self._of_kind.get(row.kind, [])
        pool = kind if len(kind) > _LEAST_ROWS else self._all
        return pool if without is None else [known for known in pool if known.row != without]

    def _misfit(self, row: Row) -> tuple[bool, bool]:
        """Whether the channels that a convolution reads, and those that it writes, fall off the stair."""
        needed = self._needed.get(row.kind)
        if needed is None or row.operator != "Conv":
            return False, False
        read, written = row.data.shape[1], row.output[1]
        few = read < self._steps.get(row.kind, 1) and row.groups == 1  # as of images: another kernel in any case
        return bool(read % needed.read) and not few, bool(written % needed.written)

    def _beyond(self, row: Row, misfit: tuple[bool, bool], without: Row | None) -> float:
        """What widths that fall off the stair take beyond it."""
        whole, above = 0.0, 0.0
        like = likeness(row)
        for known in self._odd.get((row.kind, *misfit), ()):
            if known.row != without:
                weight = 1 / (_NEAR + _distance(row, known.row) + _UNLIKE * (like != known.like))
                whole += weight
                above += weight * log(self._excess_of(known))
        return exp(above / whole) if whole else 1.0

    def _excess_of(self, known: _Known) -> float:
        """What a row that was timed takes of what its like would take on the stair."""
        if known.row.key not in self._excess:
            self._excess[known.row.key] = known.ms / max(_LEAST_MS, self._regular(known.row, None))
        return self._excess[known.row.key]

    def errors(self) -> list[float]:
        """Relative error of each row of this network that was timed, when it is estimated from the others."""
        used = self._table.used()
        rows = [known for like in self._like.values() if len(like) > _LEAST_ROWS for known in like]
        enough = [known for known in rows if known.row.key in used]
        return [abs(self.estimated(known.row, without=known.row) / known.ms - 1) for known in enough]

    def _fit(self, name: tuple[object, ...], pool: Sequence[_Known], *, cached: bool) -> FloatArray:
        if cached and name in self._fits:
            return self._fits[name]
        features = np.asarray([known.features for known in pool])
        coefficients = fit(features, np.asarray([known.ms for known in pool]))
        if cached:
            self._fits[name] = coefficients
        return coefficients


def _features(whole: Row) -> FloatArray:
    sizes = (whole.num_read, whole.num_written, whole.num_weights, whole.macs)
    return np.asarray([1.0, *map(float, sizes)])


def _value(coefficients: FloatArray, features: FloatArray) -> float:
    return max(_LEAST_MS, float(coefficients @ features))


def _nearby(coefficients: FloatArray, whole: Row, like: Sequence[_Known]) -> float:
    """What timings near these widths are over the fit; far from all of them, the fit's own."""
    weights, above = _FAR, 0.0
    for known in like:
        weight = 1 / (_NEAR + _distance(whole, known.whole))
        weights += weight
        above += weight * log(known.ms / _value(coefficients, known.features))
    return exp(above / weights)


def likeness(row: Row) -> tuple[object, ...]:
    """What rows share that are one layer at several widths."""
    operands = tuple((operand.kind, _without_channels(operand), operand.text) for operand in row.operands)
    return row.operator, row.fused, row.dtype, row.groups > 1, operands, row.output[2:], row.attributes


def _without_channels(operand: Operand) -> tuple[int, ...]:
    spatial = operand.shape[2:]
    return (len(operand.shape), *(operand.shape[:1] if operand.kind == "data" else ()), *spatial)


def _distance(one: Row, other: Row) -> float:
    """Squared distance of two rows in the logarithms of their widths; of convolutions that differ in size, in all."""
    here, there = _widths(one), _widths(other)
    if len(here) != len(there):
        here, there = (one.data.shape[1], one.output[1]), (other.data.shape[1], other.output[1])
    return sum(log(a / b) ** 2 for a, b in zip(here, there, strict=True))


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
