"""What samples of one latency state: quantiles, the interval of the median, and whether they state one latency at all.

The engine has the same rules over arrays (workers/pruning/measure/stats.py), which this side cannot import; a contract
test holds the two equal. Here they are computed from what a device sends and from what is stored: never trusted.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

CONFIDENCE: Final = 0.95
DRIFT_ALLOWED: Final = 0.05  # of the median, first third against last third
NOTES_AT_MOST: Final = 10
NOTE_LENGTH: Final = 200
ON_CPU_REQUIRED: Final = 0.9  # of wall time; below it, other programs took the processor
WIDTH_ALLOWED: Final = 0.05  # half-width of the median's interval, of the median


def quantile(samples: Sequence[float], share: float) -> float:
    """Give the sample that `share` of all samples do not exceed: the nearest rank, so a value that occurred."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Give where the median lies, with a confidence of at least 95 %.

    Source: order statistics; the number of samples below the median is binomial(n, 1/2) (Conover, Practical
    Nonparametric Statistics, 3.2). Below 6 samples no such interval reaches 95 %, and their range stands in.
    """
    ordered = sorted(samples)
    rank = max(1, _lower_rank(len(ordered)))
    return ordered[rank - 1], ordered[-rank]


def instability(samples: Sequence[float]) -> tuple[str, ...]:
    """Say in words why samples do not state one latency: a wide interval, or a drift from first to last."""
    middle = median(samples)
    low, high = median_interval(samples)
    reasons = []
    half_width = (high - low) / 2 / middle
    if half_width > WIDTH_ALLOWED:
        reasons.append(f"the interval of the median is +-{half_width:.1%} wide (allowed {WIDTH_ALLOWED:.0%})")
    third = len(samples) // 3
    if third:
        drift = (median(samples[-third:]) - median(samples[:third])) / middle
        if abs(drift) > DRIFT_ALLOWED:
            reasons.append(f"the latency drifted by {drift:+.1%} during the measurement (allowed {DRIFT_ALLOWED:.0%})")
    return tuple(reasons)


def unstable(samples: Sequence[float], host: Mapping[str, object]) -> tuple[str, ...]:
    """Say why a measurement does not state one latency: its samples, other programs, or what the machine noted."""
    reasons = list(instability(samples))
    share = host.get("on_cpu_share")
    if isinstance(share, float) and share < ON_CPU_REQUIRED:
        reasons.append(f"other programs took the processor for {1 - share:.0%} of the time")
    notes = host.get("notes")
    if isinstance(notes, list):
        reasons += [note[:NOTE_LENGTH] for note in notes[:NOTES_AT_MOST] if isinstance(note, str)]
    return tuple(reasons)


def _lower_rank(count: int) -> int:
    """Give the largest k with P(binomial(count, 1/2) < k) <= (1 - CONFIDENCE) / 2; 0 if there is none."""
    tail, rank = 0.0, 0
    while True:
        log_mass = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2)
        tail += math.exp(log_mass)
        if tail > (1 - CONFIDENCE) / 2:
            return rank
        rank += 1
