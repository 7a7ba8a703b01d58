"""Where the seconds went: wall and processor time of search, compensation and training, told by progress reports."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.types import Json, Phase

SEARCH: Final = "search"
COMPENSATION: Final = "compensation"
TRAINING: Final = "training"
KINDS: Final = (SEARCH, COMPENSATION, TRAINING)
_OF_PHASE: Final[Mapping[Phase, str]] = {
    Phase.COMPENSATE: COMPENSATION,
    Phase.FINETUNE: TRAINING,
    Phase.EXPORT: "export",
    Phase.VERIFY: "export",
    Phase.MEASURE: "export",
}


@dataclass(slots=True)
class Spending:
    """A Report that adds up seconds by kind; also a stopwatch for work that reports nothing."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    _kind: str | None = None
    _since: tuple[float, float] = (0.0, 0.0)

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:  # noqa: ARG002
        """Take the time since the last report for the phase of that report."""
        self.turn_to(_OF_PHASE.get(phase, SEARCH))

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Take the time inside for `kind`, or for what is reported meanwhile; nothing counts behind it."""
        self.turn_to(kind)
        try:
            yield
        finally:
            self.turn_to(None)

    def turn_to(self, kind: str | None) -> None:
        """From now on time is of this kind; None stops the watch."""
        now = (time.perf_counter(), time.process_time())
        if self._kind is not None:
            self.wall[self._kind] = self.wall.get(self._kind, 0.0) + now[0] - self._since[0]
            self.cpu[self._kind] = self.cpu.get(self._kind, 0.0) + now[1] - self._since[1]
        self._kind, self._since = kind, now

    def to_json(self) -> dict[str, Json]:
        """Give seconds by kind."""
        kinds = (*KINDS, *(kind for kind in self.wall if kind not in KINDS))
        return {
            "wall": {kind: round(self.wall.get(kind, 0.0), 3) for kind in kinds},
            "cpu": {kind: round(self.cpu.get(kind, 0.0), 3) for kind in kinds},
        }
