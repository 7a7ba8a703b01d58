"""The pursuit of a latency on one device: its model, its target, and what measured plans taught."""

from dataclasses import dataclass, field
from math import exp, log
from typing import Final

from workers.pruning.latency.model import LatencyModel
from workers.pruning.types import Json, LatencyBudget, LatencyLimit

WINDOW: Final = 0.05  # how far under the target is near enough
_FADING: Final = 1 / 3  # weight of a measured plan over that of its successor


@dataclass(slots=True, kw_only=True)
class Pursuit:
    """One device: its model, its target, and what was learned on the way."""

    budget: LatencyBudget
    model: LatencyModel
    original_ms: float
    predicted_original_ms: float
    limit_ms: float
    fineness: int = 1  # parts that the device's steps are divided into
    factor: float = 1.0  # measured over predicted, near the last plans
    plans: list[tuple[tuple[int, ...], float]] = field(default_factory=list)
    corrections: list[dict[str, Json]] = field(default_factory=list)

    @property
    def device(self) -> str:
        """Its id."""
        return self.budget.device

    def limit(self, aim: float, round_to: int | None) -> LatencyLimit:
        """The limit that the planner holds: the aim, in milliseconds as the model predicts them."""
        limit_ms = self._to_predict(aim * self.limit_ms)
        return LatencyLimit(
            device=self.device,
            limit_ms=limit_ms,
            layers=self.model.timed_layers(limit_ms),
            steps=self._steps(round_to),
            finer=not self.plans,
        )

    def settle_steps(self, kept: tuple[int, ...], widths: tuple[int, ...], round_to: int | None) -> None:
        """Go on in the steps that the first plan went in: what was measured in others says little of these."""
        while max(steps := self._steps(round_to), default=1) > 1 and any(
            left % step and left != width for left, width, step in zip(kept, widths, steps, strict=True)
        ):
            self.fineness *= 2

    def _steps(self, round_to: int | None) -> tuple[int, ...]:
        return tuple(max(1, step // self.fineness) for step in self.model.group_steps(round_to))

    def heard(self, kept: tuple[int, ...], measured_ms: float) -> None:
        """Learn from a measured plan."""
        predicted = self.factor * self.model.predict(kept)
        self.model.observe(f"plan {len(self.corrections) + 1}", kept, measured_ms)
        self.plans.append((kept, measured_ms))
        self.factor = self._near_factor()
        self.corrections.append(
            {
                "predicted_ms": predicted,
                "measured_ms": measured_ms,
                "factor": self.factor,
                "measured_over_predicted": measured_ms / predicted,
                "of_target": measured_ms / self.limit_ms,
            }
        )

    def _to_predict(self, ms: float) -> float:
        """What the model is to predict of a plan that takes so long: between two measured plans, or beside the last."""
        points = [(log(self.model.predict(kept)), log(measured)) for kept, measured in self.plans]
        below = max((point for point in points if point[1] <= log(ms)), key=lambda point: point[1], default=None)
        above = min((point for point in points if point[1] > log(ms)), key=lambda point: point[1], default=None)
        if below is None or above is None or below[0] >= above[0]:
            return ms / self.factor
        way = (log(ms) - below[1]) / (above[1] - below[1])
        return exp(below[0] + way * (above[0] - below[0]))

    def _near_factor(self) -> float:
        """What the last plans took over what the model says of them now; the latest counts most."""
        logs = [log(ms / self.model.predict(kept)) for kept, ms in self.plans]
        weights = [_FADING ** (len(logs) - 1 - number) for number in range(len(logs))]
        return exp(sum(w * each for w, each in zip(weights, logs, strict=True)) / sum(weights))

    def holds(self, measured_ms: float) -> bool:
        """Whether a measured time is the target's at most."""
        return measured_ms <= self.limit_ms

    def near(self, measured_ms: float) -> bool:
        """Whether it lies in the window under the target."""
        return (1 - WINDOW) * self.limit_ms <= measured_ms <= self.limit_ms
