"""Running figures of every budgeted metric while widths change, at the price of the terms of one group."""

from collections.abc import Sequence

from workers.pruning.allocation.budget import length_at
from workers.pruning.allocation.time_sheet import TimeSheet
from workers.pruning.types import Budget, CostModel, LatencyLimit, Length, Metric, Term

_Side = tuple[int, int]  # index of a length, positions per unit


class Ledger:
    """Current widths, current figures, and what removing units of a group would save."""

    def __init__(
        self,
        model: CostModel,
        budgets: Sequence[Budget],
        *,
        macs_per_param: float = 0.0,
        limits: Sequence[LatencyLimit] = (),
    ) -> None:
        self.kept = list(model.widths)
        self.version = 0  # changes when savings may have grown, so that priorities must be computed anew
        self._timed = [TimeSheet(limit, model.widths) for limit in limits]
        self._sheets = [*(_sheet(model, budget, macs_per_param) for budget in budgets), *self._timed]

    @property
    def is_timed(self) -> bool:
        """Whether predicted latencies are limited, which fall in stairs."""
        return bool(self._timed)

    def holds(self) -> bool:
        """Whether all budgets hold."""
        return all(sheet.holds() for sheet in self._sheets)

    def saving(self, group: int, units: int) -> float:
        """Relative saving over the budgets that do not hold yet."""
        return sum(sheet.saving(group, units) / sheet.limit for sheet in self._sheets if not sheet.holds())

    def price(self, group: int, units: int) -> float:
        """Relative saving over all budgets, whether they hold or not."""
        return sum(sheet.saving(group, units) / sheet.limit for sheet in self._sheets)

    def fits(self, group: int, units: int) -> bool:
        """Whether all budgets still hold when units of a group come back."""
        return all(sheet.fits(group, units) for sheet in self._sheets)

    def fullness(self) -> float:
        """Share of its limit that is used, of the budget that is used most; 1 without budgets."""
        return max((sheet.value / sheet.limit for sheet in self._sheets), default=1.0)

    def over_limit(self) -> float:
        """Predicted latency over its limit, of the device that is worst off."""
        return max((sheet.value / sheet.limit for sheet in self._timed), default=0.0)

    def remove(self, group: int, units: int) -> None:
        """Take units of a group away, or give them back where `units` is negative."""
        self.kept[group] -= units
        for sheet in self._sheets:
            if sheet.remove(group, units):
                self.version += 1


class _Sum:
    """A sum of products of lengths, with the terms of every group at hand."""

    def __init__(self, terms: Sequence[Term], widths: Sequence[int]) -> None:
        index: dict[Length, int] = {}
        self._terms: list[tuple[float, tuple[int, ...]]] = []
        for term in terms:
            sides = tuple(index.setdefault(length, len(index)) for length in term.lengths)
            self._terms.append((term.coefficient, sides))
        self._now = [length_at(length, widths) for length in index]
        self._parts: list[list[_Side]] = [[] for _ in widths]
        for length, number in index.items():
            for group, positions in length.parts:
                self._parts[group].append((number, positions))
        self._of = self._terms_by_group(widths)
        self.value = sum(self._product(term) for term in self._terms)

    def _terms_by_group(self, widths: Sequence[int]) -> list[list[tuple[float, tuple[int, ...]]]]:
        groups_of: dict[int, list[int]] = {}
        for group, parts in enumerate(self._parts):
            for number, _ in parts:
                groups_of.setdefault(number, []).append(group)
        found: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in widths]
        for term in self._terms:
            for group in {group for number in term[1] for group in groups_of.get(number, ())}:
                found[group].append(term)
        return found

    def _product(self, term: tuple[float, tuple[int, ...]]) -> float:
        value = term[0]
        for number in term[1]:
            value *= self._now[number]
        return value

    def saving(self, group: int, units: int) -> float:
        """How much the sum falls when units of a group go."""
        change = {number: positions * units for number, positions in self._parts[group]}
        saved = 0.0
        for coefficient, sides in self._of[group]:
            before = after = coefficient
            for number in sides:
                before *= self._now[number]
                after *= self._now[number] - change.get(number, 0)
            saved += before - after
        return saved

    def remove(self, group: int, units: int) -> None:
        """Take units away."""
        self.value -= self.saving(group, units)
        for number, positions in self._parts[group]:
            self._now[number] -= positions * units


class _SumSheet:
    """One budget on a metric that is a sum."""

    def __init__(self, terms: Sequence[Term], widths: Sequence[int], limit: float, *, beside: Sequence[Term]) -> None:
        self._sum = _Sum(terms, widths)
        self._beside = _Sum(beside, widths)  # counts as saved, but not against the limit
        self._limit = limit
        self.limit = max(limit, 1.0)

    @property
    def value(self) -> float:
        return self._sum.value

    def holds(self) -> bool:
        return self._sum.value <= self._limit

    def saving(self, group: int, units: int) -> float:
        return self._sum.saving(group, units) + self._beside.saving(group, units)

    def fits(self, group: int, units: int) -> bool:
        return self._sum.value - self._sum.saving(group, -units) <= self._limit

    def remove(self, group: int, units: int) -> bool:
        self._sum.remove(group, units)
        self._beside.remove(group, units)
        return False


class _PeakSheet:
    """The budget on the peak: the largest of several sums; only the present peak saves anything."""

    def __init__(self, steps: Sequence[Sequence[Term]], widths: Sequence[int], limit: float) -> None:
        self._sums = [_Sum(terms, widths) for terms in steps]
        self._limit = limit
        self.limit = max(limit, 1.0)
        self._worst = self._find()

    def _find(self) -> int:
        return max(range(len(self._sums)), key=lambda step: (self._sums[step].value, -step), default=-1)

    @property
    def value(self) -> float:
        return self._sums[self._worst].value if self._worst >= 0 else 0.0

    def holds(self) -> bool:
        return self._worst < 0 or self._sums[self._worst].value <= self._limit

    def saving(self, group: int, units: int) -> float:
        return self._sums[self._worst].saving(group, units) if self._worst >= 0 else 0.0

    def fits(self, group: int, units: int) -> bool:
        return all(each.value - each.saving(group, -units) <= self._limit for each in self._sums)

    def remove(self, group: int, units: int) -> bool:
        for each in self._sums:
            each.remove(group, units)
        before, self._worst = self._worst, self._find()
        return before != self._worst


def _sheet(model: CostModel, budget: Budget, macs_per_param: float) -> _SumSheet | _PeakSheet:
    if budget.metric is Metric.PEAK_ACTIVATION_BYTES:
        return _PeakSheet(model.peak, model.widths, budget.limit)
    terms: dict[Metric, Sequence[Term]] = {
        Metric.MACS: model.macs,
        Metric.PARAMS: model.params,
        Metric.SIZE_BYTES: model.size_bytes,
    }
    beside = []
    if budget.metric is Metric.MACS and macs_per_param:
        beside = [Term(coefficient=macs_per_param * term.coefficient, lengths=term.lengths) for term in model.params]
    return _SumSheet(terms[budget.metric], model.widths, budget.limit, beside=beside)
