"""The latency model of a device for one network: rows, estimates between them, corrections, and its own error."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil, log
from typing import Final

import numpy as np

from workers.pruning.latency import correction, memory, steps
from workers.pruning.latency.correction import Correction, Observed
from workers.pruning.latency.estimate import Estimate, likeness
from workers.pruning.latency.layers import Layer
from workers.pruning.latency.memory import Memory
from workers.pruning.latency.rows import PRODUCTS, Row
from workers.pruning.latency.steps import Fit
from workers.pruning.latency.table import Table
from workers.pruning.types import Json, Stopwatch, TimedLayer

CALL: Final = "call"
# Shares of the widths at which each layer is timed: (of what it reads, of what it writes).
_GRID: Final = ((1.0, 1.0), (0.5, 0.5), (0.25, 0.25), (1.0, 0.5), (0.5, 1.0), (0.75, 0.75))
_MISFITS: Final = (0.5,)  # shares of the widths at which one channel less is timed
_LEAST_PARTS: Final = 4  # into which the widths of a narrow layer are divided
_DOMINANT: Final = 8
_SHARES: Final = tuple(number / 10 for number in range(10, 0, -1))  # of all widths


class LatencyModel:
    """What any widths of one network take on one device.

    `learn` times the rows that it needs, `observe` tells it of whole networks, `predict` and `layers` answer.
    """

    def __init__(self, layers: Sequence[Layer], widths: Sequence[int], stopwatch: Stopwatch) -> None:
        self._layers = tuple(layers)
        self._widths = tuple(widths)
        self.table = Table(stopwatch)
        self.steps: dict[str, int] = {}
        self.fits: dict[str, Fit] = {}
        self.reach = Memory()
        self._observed: list[tuple[str, tuple[int, ...], float]] = []
        self._correction = Correction()
        self._estimate = Estimate(self.table, {})
        self._cache: dict[tuple[object, ...], tuple[float, float]] = {}

    def learn(self) -> None:
        """Time the boundary, what tells the steps, and each layer at a few widths; rows known before are not asked.

        Raises:
            DeviceGone: the device did not answer.
        """
        count = Counter(layer.row(self._widths) for layer in self._layers)
        probed = steps.probes((row, float(times * row.macs)) for row, times in count.items())
        fitting = steps.fit_probes(probed)
        self.table.fill_boundary()
        self.table.fill(row for rows in (*probed.values(), *fitting.values()) for row in rows)
        self.table.fill(memory.probes(self._num_weight_bytes(self._widths)))
        self.steps = steps.learned(self.table, probed)
        self.fits = steps.learned_fits(self.table, fitting)
        self.reach = memory.learned(self.table)
        self.table.fill(self._grid())
        self._refresh()

    def time(self, kept: Sequence[int]) -> int:
        """Time the rows of these widths that were not timed yet; returns how many there were.

        Raises:
            DeviceGone: the device did not answer.
        """
        asked = self.table.fill({layer.row(kept).key: layer.row(kept) for layer in self._layers}.values())
        if asked:
            self._refresh()
        return asked

    def observe(self, name: str, kept: Sequence[int], measured_ms: float) -> None:
        """Take in what the network took as a whole at these widths."""
        self._observed.append((name, tuple(kept), measured_ms))
        self._correction = correction.learned(self.observations())

    def observations(self) -> list[Observed]:
        """The networks that were timed as a whole, with what their rows add up to now."""
        return [Observed(name=name, parts_ms=self.parts(kept), measured_ms=ms) for name, kept, ms in self._observed]

    def parts(self, kept: Sequence[int]) -> dict[str, float]:
        """What the rows of these widths add up to, by kind of operator; before correction."""
        parts = {CALL: self.table.call_ms}
        far = self.reach.per_byte_ms(self._num_weight_bytes(kept))
        for layer in self._layers:
            parts[layer.kind] = parts.get(layer.kind, 0.0) + self._uncorrected(layer, kept, far)
        return parts

    def predict(self, kept: Sequence[int]) -> float:
        """What the network takes at these widths, in milliseconds."""
        return self._correction.apply(self.parts(kept))

    @property
    def error(self) -> float | None:
        """Relative error to expect: of whole networks held out from the correction, else of rows held out from fits."""
        errors = correction.held_out(self.observations()) or tuple(self._estimate.errors())
        return float(np.median(errors)) if errors else None

    def factors(self, kept: Sequence[int]) -> dict[str, float]:
        """What a millisecond of each kind of row takes inside the network at these widths."""
        parts = self.parts(kept)
        return {kind: self._correction.factor(kind, sum(parts.values())) for kind in sorted(parts)}

    def timed_layers(self, near_ms: float) -> tuple[TimedLayer, ...]:
        """Each layer's time as a function of kept widths; a last one without groups is the call.

        They are corrected as in a network that takes about `near_ms`, and their weights come from where those of such a
        network are.
        """
        size = self._correction.sum_for(near_ms)
        far = self._far_near(near_ms)
        entries = [self._timed(layer, size, far) for layer in self._layers]
        call = self._correction.factor(CALL, size) * self.table.call_ms
        return (*entries, TimedLayer(node="", groups=(), ms=lambda _: call))

    def group_steps(self, round_to: int | None) -> tuple[int, ...]:
        """Units that each group gives up at a time: the largest step of the layers that it runs through.

        `round_to` counts channels and overrides what was learned. Units that hold several channels count for all of
        them; what was learned leaves a group two steps at least, and no more than some tens to decide on.
        """
        found = [1] * len(self._widths)
        for layer in self._layers:
            step = round_to if round_to is not None else self.steps.get(layer.kind, 1)
            for group, positions in layer.channels_per_unit().items():
                units = max(1, step // positions)
                while round_to is None and units > 1 and _LEAST_STEPS * units > self._widths[group]:
                    units //= 2
                found[group] = max(found[group], units)
        if round_to is not None:
            return tuple(found)
        # Several steps at once are steps that the device likes, too.
        return tuple(
            units * max(1, ceil(width / (units * _MOST_STEPS)))
            for units, width in zip(found, self._widths, strict=True)
        )

    def dominant(self, kept: Sequence[int]) -> list[Json]:
        """The layers that take longest at these widths, and what a channel of their groups costs."""
        size = sum(self.parts(kept).values())
        far = self.reach.per_byte_ms(self._num_weight_bytes(kept))
        now = [(self._corrected(layer, kept, size, far), layer) for layer in self._layers]
        total = sum(ms for ms, _ in now) or 1.0
        now.sort(key=lambda entry: (-entry[0], entry[1].node))
        return [
            {
                "layer": layer.node,
                "kind": layer.kind,
                "row": layer.row(kept).key,
                "ms": ms,
                "share": ms / total,
                "kept": {str(group): kept[group] for group in layer.groups},
                "ms_per_channel": {str(group): self._slope(layer, kept, group, size, far) for group in layer.groups},
            }
            for ms, layer in now[:_DOMINANT]
        ]

    def _slope(self, layer: Layer, kept: Sequence[int], group: int, size: float, far: float) -> float:
        step = min(self.steps.get(layer.kind, 1), max(1, kept[group] - 1))
        fewer = [width - step * (index == group) for index, width in enumerate(kept)]
        if fewer[group] < 1:
            return 0.0
        return (self._corrected(layer, kept, size, far) - self._corrected(layer, fewer, size, far)) / step

    def _corrected(self, layer: Layer, kept: Sequence[int], size: float, far: float) -> float:
        return self._correction.factor(layer.kind, size) * self._uncorrected(layer, kept, far)

    def _uncorrected(self, layer: Layer, kept: Sequence[int], far: float) -> float:
        """What a layer takes, each byte of its weights so many milliseconds more than near ones."""
        place = (layer.node, *(kept[group] for group in layer.groups))
        found = self._cache.get(place)
        if found is None:
            row = layer.row(kept)
            found = self._cache[place] = (self._estimate.ms(row), memory.num_weight_bytes(row) / row.copies)
        ms, num_bytes = found
        return ms + far * num_bytes

    def _timed(self, layer: Layer, size: float, far: float) -> TimedLayer:
        factor = self._correction.factor(layer.kind, size)
        return TimedLayer(
            node=layer.node, groups=layer.groups, ms=lambda kept: factor * self._uncorrected(layer, kept, far)
        )

    def _num_weight_bytes(self, kept: Sequence[int]) -> float:
        """Bytes of weights that a run of the network reads."""
        rows = (layer.row(kept) for layer in self._layers if layer.operator in PRODUCTS)
        return sum(memory.num_weight_bytes(row) / row.copies for row in rows)

    def _far_near(self, near_ms: float) -> float:
        """What a byte of weights takes more than a near one in a network that takes about so long, all widths alike."""
        if not self.reach.points:
            return 0.0
        scaled = [[max(1, round(share * width)) for width in self._widths] for share in _SHARES]
        kept = min(scaled, key=lambda each: abs(log(self.predict(each) / near_ms)))
        return self.reach.per_byte_ms(self._num_weight_bytes(kept))

    def _refresh(self) -> None:
        self._estimate = Estimate(self.table, self.steps, self.fits, self.reach)
        self._cache.clear()
        self._correction = correction.learned(self.observations())

    def _grid(self) -> Iterable[Row]:
        """Each distinct layer at a few widths, the heaviest layers first; those that fall off the stair come last."""
        distinct: dict[tuple[object, ...], tuple[float, list[Row], list[Row]]] = {}
        for layer in self._layers:
            full = layer.row(self._widths)
            name = (likeness(full), full.key)
            weight, rows, misfits = distinct.get(name, (0.0, [], []))
            if not rows:
                rows = [layer.row(kept) for kept in self._shares(layer)]
                misfits = [layer.row(kept) for kept in self._misfits(layer)]
            distinct[name] = (weight + full.macs + full.num_read + full.num_written, rows, misfits)
        heaviest = sorted(distinct.values(), key=lambda entry: -entry[0])
        yield from (row for _, rows, _ in heaviest for row in rows)
        yield from (row for _, _, misfits in heaviest for row in misfits)

    def _shares(self, layer: Layer) -> list[list[int]]:
        """Widths on the stair at which a layer is timed."""
        chosen: list[list[int]] = []
        for read_share, write_share in _GRID:
            kept = self._about(layer, read_share, write_share)
            if kept not in chosen:
                chosen.append(kept)
        return chosen

    def _misfits(self, layer: Layer) -> list[list[int]]:
        """Widths beside the stair at which a layer is timed; none where every width is rounded up."""
        if self.fits.get(layer.kind, Fit()) == Fit():
            return []
        about = [self._about(layer, share, share) for share in _MISFITS]
        fewer = [[max(1, width - (group in layer.groups)) for group, width in enumerate(kept)] for kept in about]
        return [kept for kept in fewer if kept != list(self._widths)]

    def _about(self, layer: Layer, read_share: float, write_share: float) -> list[int]:
        """These shares of what a layer reads and writes, in halves of its step; in quarters of its widths if narrow."""
        kept = list(self._widths)
        for group in layer.groups:
            share = write_share if group in layer.written else read_share
            step = max(1, min(self.steps.get(layer.kind, 1) // 2, kept[group] // _LEAST_PARTS))
            kept[group] = min(kept[group], max(1, ceil(share * kept[group] / step) * step))
        return kept


_LEAST_STEPS: Final = 2
_MOST_STEPS: Final = 48
