"""A network that was timed in turn with the original: what it takes, and by which judgement that is said.

Where the clock of a machine drifts, both networks drift with it, and the ratio of runs that lie side by side does not.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from workers.pruning.latency.table import on_one_clock
from workers.pruning.measure.stats import Interval, compare, per_round
from workers.pruning.types import Measurement

_LEAST_ROUNDS: Final = 6  # below that no interval of 95 % can be stated


class Judgement(StrEnum):
    """What a latency target is judged by."""

    PAIRED = "paired ratio"  # the median over rounds of what the network takes over what the original takes
    MEDIANS = "medians"  # of each network over all its runs


@dataclass(frozen=True, slots=True, kw_only=True)
class InTurn:
    """A network beside the original of the same run."""

    original_ms: float
    reached_ms: float  # judged by pairs, at the pace of the original's median
    ratio: float
    interval: Interval | None  # of the ratio, where it is of pairs
    judged_by: Judgement
    clock: str  # wall, or processor


def by_ratio(original: Measurement, other: Measurement) -> InTurn:
    """Judge by the ratio of runs that were made side by side; by medians where they were not made in rounds.

    Source: `measure.stats.compare`. It is of wall time: other programs interrupt both networks of a round, and the
    median over rounds leaves out those in which only one was.
    """
    pair = same_rounds(original, other)
    if pair is None:
        return by_medians(original, other)
    ratio = compare(*pair).ratio
    return InTurn(
        original_ms=original.p50_ms,
        reached_ms=ratio.value * original.p50_ms,
        ratio=ratio.value,
        interval=ratio,
        judged_by=Judgement.PAIRED,
        clock="wall",
    )


def by_medians(original: Measurement, other: Measurement) -> InTurn:
    """Judge by the median of each: both of processor time where other programs disturbed either and it is known."""
    pair = {"original": original, "other": other}
    medians = on_one_clock(pair)
    return InTurn(
        original_ms=medians["original"],
        reached_ms=medians["other"],
        ratio=medians["other"] / medians["original"],
        interval=None,
        judged_by=Judgement.MEDIANS,
        clock="processor" if any(medians[name] != pair[name].p50_ms for name in pair) else "wall",
    )


def same_rounds(one: Measurement, other: Measurement) -> tuple[Measurement, Measurement] | None:
    """Give two measurements with the samples of the rounds that both have; None where these are not the same rounds.

    An agent that ran out of time may leave one network a round behind the other.
    """
    size = per_round(one)
    counts = [len(each.samples_ms) for each in (one, other)]
    if per_round(other) != size or min(counts) < _LEAST_ROUNDS * size or abs(counts[0] - counts[1]) > size:
        return None
    kept = [replace(each, samples_ms=each.samples_ms[: min(counts)]) for each in (one, other)]
    return kept[0], kept[1]
