"""How far an attempt is: the engine's plain callable, rate limited, with the time that is left.

The engine reports the fraction of its phase. What leaves here is the fraction of the whole job, which never falls
within an attempt, and an estimate of the seconds that remain. Both come from one table of how long phases usually are
relative to each other; the time that passed corrects it: the pace of the phase itself once it is under way, and the
mean pace so far for the phases to come. Phases may come in any order (the original is measured before anything is cut)
and again in each pass; one counts as done when it was left. A job with several targets, or with an accuracy to hold,
takes several passes, and says of each which part of the job it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.types import Json, Phase, Report

Emit = Callable[[Mapping[str, Json]], None]
Weights = Mapping[Phase, float]

# Shares of a job with the default options on a small residual network, two cores; only their ratios matter.
USUAL_WEIGHTS: Final[Weights] = {
    Phase.INSPECT: 1, Phase.LOAD: 1, Phase.GROUP: 1, Phase.SCORE: 15, Phase.ALLOCATE: 2, Phase.CUT: 1,
    Phase.COMPENSATE: 12, Phase.FINETUNE: 55, Phase.EXPORT: 2, Phase.VERIFY: 4, Phase.MEASURE: 6,
}  # fmt: skip
_SETTLED: Final = 0.05  # the share of a phase after which its own pace says more than the table
_FROM, _TO = "pass_from", "pass_to"  # metrics that say which part of the job a pass is
_INERTIA: Final = 0.7  # how much of the last estimate stays in the next


def weights_of(spec: Mapping[str, Json]) -> dict[Phase, float]:
    """Give the weights of a job: those phases that its spec leaves out weigh nothing."""
    weights = dict(USUAL_WEIGHTS)
    finetune, options = spec.get("finetune"), spec.get("options")
    if isinstance(finetune, Mapping) and finetune.get("steps") == 0:
        weights[Phase.FINETUNE] = 0.0
    if isinstance(options, Mapping) and options.get("compensate") is False:
        weights[Phase.COMPENSATE] = 0.0
    return weights


@dataclass(frozen=True, slots=True)
class Part:
    """A Report of one pass through the phases, which is the part from `start` to `stop` of what it reports to."""

    report: Report
    start: float
    stop: float
    message: str = ""

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
        """Report `fraction` of `phase` in this pass; passes may lie in each other."""
        low, high = metrics.pop(_FROM, 0.0), metrics.pop(_TO, 1.0)
        width = self.stop - self.start
        bounds = {_FROM: self.start + width * low, _TO: self.start + width * high}
        text = ": ".join(each for each in (self.message, message) if each)
        self.report(phase, fraction, text, **metrics, **bounds)


@dataclass(slots=True, kw_only=True)
class Reporter:
    """The engine's Report: turns its calls into progress events, at most one per `interval` within a phase."""

    emit: Emit
    clock: Callable[[], float]
    weights: Weights = field(default_factory=lambda: USUAL_WEIGHTS)
    interval: float = 0.5  # seconds
    _done: dict[Phase, float] = field(default_factory=dict)
    _part: tuple[float, float] = (0.0, 1.0)
    _started: float | None = None
    _phase: Phase | None = None
    _phase_started: float = 0.0
    _sent: float = 0.0
    _overall: float = 0.0
    _eta: float | None = None

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
        """Report `fraction` (0..1) of `phase`; a metric `eta_seconds` is the phase's own estimate of its rest."""
        known = metrics.pop("eta_seconds", None)
        part = (metrics.pop(_FROM, 0.0), metrics.pop(_TO, 1.0))
        now, fraction = self.clock(), min(1.0, max(0.0, fraction))
        self._started = now if self._started is None else self._started
        if part != self._part:
            self._part, self._done, self._phase = part, {}, None
        entered = phase is not self._phase
        if entered:
            self._enter(phase, now)
        elif now - self._sent < self.interval and fraction < 1.0:
            return
        self._done[phase] = max(fraction, self._done.get(phase, 0.0))
        self._overall = max(self._overall, self._share_done())
        self._eta = self._smooth(self._remaining(phase, fraction, now, known), now)
        self._sent = now
        self.emit({
            "event": "progress", "phase": phase.value, "fraction": round(self._overall, 4), "message": message,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "eta_seconds": None if self._eta is None else round(self._eta, 1),
        })  # fmt: skip

    @property
    def phase(self) -> Phase | None:
        """The phase that reported last."""
        return self._phase

    def _enter(self, phase: Phase, now: float) -> None:
        if self._phase is not None:
            self._done[self._phase] = 1.0
        self._phase, self._phase_started = phase, now

    def _share_done(self) -> float:
        done = sum(self.weights[phase] * share for phase, share in self._done.items())
        low, high = self._part
        return low + (high - low) * done / (sum(self.weights.values()) or 1.0)

    def _remaining(self, phase: Phase, fraction: float, now: float, known: float | None) -> float | None:
        elapsed = 0.0 if self._started is None else now - self._started
        if self._overall <= 0.0 or elapsed <= 0.0:
            return None
        second_per_share = elapsed / self._overall
        if known is None and fraction < _SETTLED:
            return second_per_share * (1.0 - self._overall)
        here = (now - self._phase_started) * (1.0 - fraction) / fraction if known is None else known
        width = self._part[1] - self._part[0]
        left = self.weights[phase] * (1.0 - fraction) * width / (sum(self.weights.values()) or 1.0)
        return here + second_per_share * max(0.0, 1.0 - self._overall - left)

    def _smooth(self, raw: float | None, now: float) -> float | None:
        if raw is None or self._eta is None:
            return raw
        return max(0.0, _INERTIA * (self._eta - (now - self._sent)) + (1.0 - _INERTIA) * raw)
