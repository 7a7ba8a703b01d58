"""What methods share that prune a little, look, and go on: the loop, its stop rule, and progress over rounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Generic, TypeVar

from workers.pruning.types import Json, Phase, Report

State = TypeVar("State")

TARGET: Final = "target"
ACCURACY: Final = "accuracy"
FLOOR: Final = "floor"
_ROUNDING: Final = 1e-9  # 0.95 - 0.92 is more than 0.03 in floating point

Shares = Mapping[Phase, tuple[float, float]]
# Where the phases within a round lie in it: those that rank before they train, and those that train before they rank.
RANK_FIRST: Final[Shares] = {
    Phase.SCORE: (0.0, 0.3),
    Phase.ALLOCATE: (0.3, 0.3),
    Phase.CUT: (0.3, 0.35),
    Phase.COMPENSATE: (0.35, 0.4),
    Phase.FINETUNE: (0.4, 0.95),
    Phase.VERIFY: (0.95, 1.0),
}
TRAIN_FIRST: Final[Shares] = {Phase.FINETUNE: (0.0, 0.85), Phase.SCORE: (0.85, 0.95), Phase.COMPENSATE: (0.95, 1.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round found."""

    number: int
    accuracy: float  # on the samples that decide
    accepted: bool
    channels: int  # that are left
    macs: int

    def to_json(self) -> dict[str, Json]:
        """Give the figures for the report and the journal."""
        figures = asdict(self)
        return {"round": figures.pop("number"), **figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class Course(Generic[State]):
    """How far pruning in rounds is: the last accepted state, every round, and why it stopped, once it has."""

    state: State
    rounds: tuple[Round, ...] = ()
    stopped_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[State]):
    """How to go on from a state, when the target is met, and how much accuracy may go."""

    advance: Callable[[State, int], State | None]  # the next state of a round; None where nothing more may go
    accuracy: Callable[[State], float]
    meets_target: Callable[[State], bool]
    size: Callable[[State], tuple[int, int]]  # channels and MACs that are left
    base: float  # accuracy before the first round
    max_drop: float


def next_round(course: Course[State], rule: Rule[State]) -> Course[State]:
    """Take one round, or say why there is none.

    Source: Wu, Singla, Jahanshahi, Bertino 2019, slides 7 and 21: prune, fine-tune, and stop when the accuracy after
    fine-tuning has dropped by more than three points. A state that dropped further is given up for the one before it.
    """
    if rule.meets_target(course.state):
        return replace(course, stopped_by=TARGET)
    number = len(course.rounds) + 1
    candidate = rule.advance(course.state, number)
    if candidate is None:
        return replace(course, stopped_by=FLOOR)
    accuracy = rule.accuracy(candidate)
    accepted = rule.base - accuracy <= rule.max_drop + _ROUNDING
    channels, macs = rule.size(candidate)
    found = Round(number=number, accuracy=accuracy, accepted=accepted, channels=channels, macs=macs)
    rounds = (*course.rounds, found)
    if not accepted:
        return replace(course, rounds=rounds, stopped_by=ACCURACY)
    return Course(state=candidate, rounds=rounds)


def run_rounds(start: Course[State], rule: Rule[State], keep: Callable[[Course[State]], None]) -> Course[State]:
    """Take rounds until one condition ends them; every course is given to `keep`, so that it outlives the attempt."""
    course = start
    while not course.stopped_by:
        course = next_round(course, rule)
        keep(course)
    return course


def rounds_from(entries: Json) -> tuple[Round, ...]:
    """Read recorded rounds."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise TypeError(f"recorded rounds are a list, found {type(entries).__name__}")
    return tuple(_round(entry) for entry in entries)


def _round(entry: Json) -> Round:
    if not isinstance(entry, Mapping):
        raise TypeError(f"a recorded round is an object, found {type(entry).__name__}")
    rest = {key: value for key, value in entry.items() if key != "round"}
    return Round(number=entry["round"], **rest)  # type: ignore[arg-type]  # written by to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    """A Report that shows all phases within a round as one piece of a longer phase."""

    report: Report
    start: float
    stop: float
    message: str
    shares: Shares
    phase: Phase = Phase.FINETUNE

    def __call__(self, phase: Phase, fraction: float, message: str = "", **metrics: float) -> None:
        """Report where the round is; what the phase itself thinks of the time that is left says nothing here."""
        metrics.pop("eta_seconds", None)
        low, high = self.shares.get(phase, (0.0, 0.0))
        inside = low + (high - low) * min(1.0, max(0.0, fraction))
        text = f"{self.message}: {message}" if message else self.message
        self.report(self.phase, self.start + (self.stop - self.start) * inside, text, **metrics)
