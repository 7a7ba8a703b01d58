"""Medians, intervals and the question whether a difference of timings is real. No assumption about distributions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from workers.pruning.types import FloatArray, Measurement

CONFIDENCE: Final = 0.95
DRIFT_ALLOWED: Final = 0.05  # of the median, first third against last third
WIDTH_ALLOWED: Final = 0.05  # half-width of the median's interval, of the median
NOTES_AT_MOST: Final = 10
NOTE_LENGTH: Final = 200
ON_CPU_REQUIRED: Final = 0.9  # of wall time; below it, other programs took the processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and where the true value lies, with a confidence of at least 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Latency of one network over that of another, timed in turn."""

    ratio: Interval
    is_real: bool  # the interval does not contain 1
    on_cpu_ratio: float | None  # of median processor times: what the ratio is where no other program interrupts
    warnings: tuple[str, ...]  # why these timings are unstable; empty if they are not


def median(samples: Sequence[float]) -> Interval:
    """Estimate the median and its interval from the order of the samples alone.

    Source: order statistics; the number of samples below the median is binomial(n, 1/2), so [x_k, x_(n+1-k)] covers it
    with probability 1 - 2 P(binomial < k) (Conover, Practical Nonparametric Statistics, 3.2). Below 6 samples no such
    interval reaches 95 %, and the range of the samples stands in.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("the median of no samples")
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    rank = max(1, lower_rank(len(ordered)))
    return Interval(value=float(np.median(ordered)), low=float(ordered[rank - 1]), high=float(ordered[-rank]))


def lower_rank(count: int) -> int:
    """Return the largest k with P(binomial(count, 1/2) < k) <= (1 - CONFIDENCE) / 2; 0 if there is none."""
    tail, rank = 0.0, 0
    while True:
        log_mass = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2)
        tail += math.exp(log_mass)
        if tail > (1 - CONFIDENCE) / 2:
            return rank
        rank += 1


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the sample that `share` of all samples do not exceed (the nearest rank, so a value that occurred)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def instability(samples: Sequence[float]) -> tuple[str, ...]:
    """Say in words why samples do not state one latency: a wide interval, or a drift from first to last.

    The drift compares the medians of the first and last third; both must lie within 5 % of the whole median.
    """
    whole = median(samples)
    reasons = []
    half_width = (whole.high - whole.low) / 2 / whole.value
    if half_width > WIDTH_ALLOWED:
        reasons.append(f"the interval of the median is +-{half_width:.1%} wide (allowed {WIDTH_ALLOWED:.0%})")
    third = len(samples) // 3
    if third:
        first, last = float(np.median(samples[:third])), float(np.median(samples[-third:]))
        drift = (last - first) / whole.value
        if abs(drift) > DRIFT_ALLOWED:
            reasons.append(f"the latency drifted by {drift:+.1%} during the measurement (allowed {DRIFT_ALLOWED:.0%})")
    return tuple(reasons)


def compare(before: Measurement, after: Measurement) -> Comparison:
    """Give the latency ratio after / before of two networks that were timed in turn.

    Source: samples are paired in time by round, so drift that both share cancels; the ratio is the median over rounds
    of the ratio of the rounds' medians, with its order-statistic interval.

    Raises:
        ValueError: the networks were not timed in the same rounds.
    """
    if len(before.samples_ms) != len(after.samples_ms):
        raise ValueError("networks are compared over the same rounds")
    ratios = round_medians(after) / round_medians(before)
    ratio = median(ratios.tolist())
    times = [one.host.get("on_cpu_p50_ms") for one in (before, after)]
    on_cpu = times[1] / times[0] if isinstance(times[0], float) and isinstance(times[1], float) else None
    warnings = [f"before: {reason}" for reason in unstable(before)]
    warnings += [f"after: {reason}" for reason in unstable(after)]
    return Comparison(
        ratio=ratio, is_real=not ratio.low <= 1 <= ratio.high, on_cpu_ratio=on_cpu, warnings=tuple(warnings)
    )


def unstable(measurement: Measurement) -> tuple[str, ...]:
    """Say why a measurement does not state one latency: its samples, other programs, or what the machine noted."""
    reasons = list(instability(measurement.samples_ms))
    on_cpu = measurement.host.get("on_cpu_share")
    if isinstance(on_cpu, float) and on_cpu < ON_CPU_REQUIRED:
        reasons.append(f"other programs took the processor for {1 - on_cpu:.0%} of the time")
    notes = measurement.host.get("notes")
    if isinstance(notes, Sequence) and not isinstance(notes, str):
        reasons += [note[:NOTE_LENGTH] for note in notes[:NOTES_AT_MOST] if isinstance(note, str)]
    return tuple(reasons)


def round_medians(measurement: Measurement) -> FloatArray:
    """Return the median of each round of a measurement."""
    size = per_round(measurement)
    samples = np.asarray(measurement.samples_ms, dtype=np.float64)
    return np.median(samples[: len(samples) // size * size].reshape(-1, size), axis=1)


def per_round(measurement: Measurement) -> int:
    """Return how many samples of a measurement lie in one round."""
    size = measurement.host.get("runs_per_round")
    return size if isinstance(size, int) else 1
