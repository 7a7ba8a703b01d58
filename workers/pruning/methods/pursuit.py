"""The pursuit of a latency on one device: its model, its target, and what measured plans taught."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.latency.model import LatencyModel
from workers.pruning.methods.bracket import Point, to_predict
from workers.pruning.methods.in_turn import InTurn
from workers.pruning.types import Json, LatencyBudget, LatencyLimit, TimedLayer

WINDOW: Final = 0.05  # how far under the target is near enough

Widths = tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Pursuit:
    """One device: its model, its target, and what was learned on the way."""

    budget: LatencyBudget
    model: LatencyModel
    widths: Widths  # of the original
    original_ms: float
    predicted_original_ms: float
    limit_ms: float
    plans: list[tuple[Widths, float]] = field(default_factory=list)
    corrections: list[dict[str, Json]] = field(default_factory=list)

    @property
    def device(self) -> str:
        """Its id."""
        return self.budget.device

    def limit(self, aim: float, round_to: int | None, *, finer: bool = False) -> LatencyLimit:
        """The limit that the planner holds: the aim, in milliseconds as the layers add up.

        With `finer` widths may lie between the steps that the device likes.
        """
        wanted = aim * self.limit_ms
        layers = self.model.timed_layers(wanted)
        original = _point(layers, self.widths, self.original_ms)
        measured = [_point(layers, kept, ms) for kept, ms in self.plans]
        return LatencyLimit(
            device=self.device,
            limit_ms=to_predict(wanted, measured, original),
            layers=layers,
            steps=self.model.group_steps(round_to),
            finer=finer,
        )

    def ms(self, found: InTurn) -> float:
        """What a network takes; with a ratio as target, at the original's first pace."""
        return found.reached_ms if self.budget.ratio is None else found.ratio * self.original_ms

    def heard(self, kept: Widths, measured_ms: float) -> None:
        """Learn from a measured plan."""
        predicted = self.expected(kept)
        self.model.observe(f"plan {len(self.corrections) + 1}", kept, measured_ms)
        self.plans.append((kept, measured_ms))
        self.corrections.append(
            {
                "predicted_ms": predicted,
                "measured_ms": measured_ms,
                "factor": measured_ms / self.model.predict(kept),
                "measured_over_predicted": measured_ms / predicted,
                "of_target": measured_ms / self.limit_ms,
            }
        )

    def heard_smallest(self, kept: Widths, measured_ms: float) -> None:
        """Learn from the smallest network, which is no plan."""
        self.model.observe("smallest", kept, measured_ms)
        self.plans.append((kept, measured_ms))

    def expected(self, kept: Widths) -> float:
        """What these widths are expected to take, after all that was measured."""
        predicted = self.model.predict(kept)
        if not self.plans:
            return predicted
        near, ms = min(self.plans, key=lambda plan: abs(self.model.predict(plan[0]) / predicted - 1))
        return predicted * ms / self.model.predict(near)

    def holds(self, measured_ms: float) -> bool:
        """Whether a measured time is the target's at most."""
        return measured_ms <= self.limit_ms

    def near(self, measured_ms: float) -> bool:
        """Whether it lies in the window under the target."""
        return (1 - WINDOW) * self.limit_ms <= measured_ms <= self.limit_ms


def _point(layers: Sequence[TimedLayer], kept: Widths, measured_ms: float) -> Point:
    return Point(predicted_ms=sum(layer.ms(kept) for layer in layers), measured_ms=measured_ms)
