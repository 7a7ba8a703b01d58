"""This machine as a stopwatch: what the latency model asks when the device is the worker's own processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.errors import InvalidGraph, UnstableTiming
from workers.pruning.measure.latency import measure
from workers.pruning.types import Measurement, TimedNetwork

LAYER_SECONDS: Final = 4.0  # for as many layers as are timed in turn with each other
NETWORK_SECONDS: Final = 10.0
TOGETHER: Final = 64  # sessions in memory at a time


@dataclass(slots=True, kw_only=True)
class LocalStopwatch:
    """Times networks in ONNX Runtime in this process, in turn, and remembers the rows of its latency table."""

    device: str = "dev_local"
    threads: int = 1
    batch: int = 1
    layer_seconds: float = LAYER_SECONDS
    network_seconds: float = NETWORK_SECONDS
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of inputs with more than one free axis
    rows: dict[str, float] = field(default_factory=dict)

    def known(self) -> Mapping[str, float]:
        """Give the rows that were timed before."""
        return dict(self.rows)

    def time(self, networks: Sequence[TimedNetwork]) -> Mapping[str, Measurement]:
        """Time networks in turn with each other; a layer that the runtime does not run, or not in time, is left out.

        Raises:
            InvalidGraph: a network, rather than a layer, does not load or run.
            UnstableTiming: a network is too slow for the time given.
        """
        found: dict[str, Measurement] = {}
        layers = [one for one in networks if one.kind == "layer"]
        for start in range(0, len(layers), TOGETHER):
            found |= self._layers(layers[start : start + TOGETHER])
        whole = {one.name: one.content for one in networks if one.kind == "network"}
        if whole:
            found |= self._measure(whole, self.network_seconds)
        for one in layers:
            if one.key is not None and one.name in found:
                self.rows[one.key] = found[one.name].p50_ms
        return found

    def _layers(self, layers: Sequence[TimedNetwork]) -> dict[str, Measurement]:
        try:
            return self._measure({one.name: one.content for one in layers}, self.layer_seconds)
        except (InvalidGraph, UnstableTiming):
            if len(layers) == 1:
                return {}
        middle = len(layers) // 2  # one of them does not run, or for too long; the others are not to suffer for it
        return self._layers(layers[:middle]) | self._layers(layers[middle:])

    def _measure(self, contents: Mapping[str, bytes], seconds: float) -> dict[str, Measurement]:
        return measure(contents, threads=self.threads, batch=self.batch, shapes=self.shapes, budget_seconds=seconds)
