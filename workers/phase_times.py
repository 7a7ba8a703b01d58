"""How long each phase took, read off the progress reports that pass by."""

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.pruning.types import Phase, Report


@dataclass(slots=True, kw_only=True)
class PhaseTimes:
    """A Report that passes everything on and adds up the seconds between changes of phase."""

    report: Report
    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: Phase | None = None
    _since: float = 0.0
    _lapped: dict[str, float] = field(default_factory=dict)

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
        """Report `fraction` of `phase`; a new phase ends the one before."""
        if phase is not self._phase:
            self._close()
            self._phase = phase
        self.report(phase, fraction, message, **metrics)

    def lap(self) -> dict[str, float]:
        """Give the seconds of each phase since the last call, and start the next lap."""
        self._close()
        since = {phase: total - self._lapped.get(phase, 0.0) for phase, total in self.seconds.items()}
        self._lapped = dict(self.seconds)
        return {phase: round(seconds, 3) for phase, seconds in since.items() if seconds > 0}

    def finish(self) -> dict[str, float]:
        """End the last phase and give the seconds of all."""
        self._close()
        self._phase = None
        return {phase: round(seconds, 3) for phase, seconds in self.seconds.items()}

    def _close(self) -> None:
        now = self.clock()
        if self._phase is not None:
            self.seconds[self._phase.value] = self.seconds.get(self._phase.value, 0.0) + now - self._since
        self._since = now
