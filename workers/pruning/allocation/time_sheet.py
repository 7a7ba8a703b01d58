"""Running latency of a network on one device while widths change, at the price of the layers of one group."""

from collections.abc import Sequence
from typing import Final

from workers.pruning.types import LatencyLimit

_LEAST_MS: Final = 1e-6


class TimeSheet:
    """A limit on predicted latency; each layer's time is asked once for each of its widths."""

    def __init__(self, limit: LatencyLimit, widths: Sequence[int]) -> None:
        self.limit = max(limit.limit_ms, _LEAST_MS)
        self._layers = limit.layers
        self._kept = list(widths)
        self._of: list[list[int]] = [[] for _ in widths]
        for number, layer in enumerate(limit.layers):
            for group in layer.groups:
                self._of[group].append(number)
        self._cache: list[dict[tuple[int, ...], float]] = [{} for _ in limit.layers]
        self._now = [self._ms(number) for number in range(len(limit.layers))]

    @property
    def value(self) -> float:
        """Predicted milliseconds of the present widths."""
        return sum(self._now)

    def holds(self) -> bool:
        """Whether the limit holds."""
        return self.value <= self.limit

    def saving(self, group: int, units: int) -> float:
        """Milliseconds that are saved when units of a group go."""
        self._kept[group] -= units
        saved = sum(self._now[number] - self._ms(number) for number in self._of[group])
        self._kept[group] += units
        return saved

    def fits(self, group: int, units: int) -> bool:
        """Whether the limit still holds when units of a group come back."""
        return self.value - self.saving(group, -units) <= self.limit

    def remove(self, group: int, units: int) -> bool:
        """Take units of a group away; savings of others hardly grow by that."""
        self._kept[group] -= units
        for number in self._of[group]:
            self._now[number] = self._ms(number)
        return False

    def _ms(self, number: int) -> float:
        layer = self._layers[number]
        widths = tuple(self._kept[group] for group in layer.groups)
        found = self._cache[number].get(widths)
        if found is None:
            found = self._cache[number][widths] = layer.ms(self._kept)
        return found
