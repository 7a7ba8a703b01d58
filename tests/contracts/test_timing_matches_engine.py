"""Quantiles, intervals and instability are the same on both sides of the import contracts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import timing
from workers.pruning.measure import stats
from workers.pruning.types import Measurement

SAMPLES = st.lists(st.floats(0.01, 1000.0), min_size=1, max_size=80)


@given(samples=SAMPLES, share=st.sampled_from([0.5, 0.9, 0.99]))
def test_both_sides_state_the_same_of_samples(samples: list[float], share: float) -> None:
    """Whatever the samples, the service and the engine give the same figures and reasons."""
    whole = stats.median(samples)

    assert timing.quantile(samples, share) == stats.quantile(samples, share)
    assert timing.median_interval(samples) == (whole.low, whole.high)
    assert timing.instability(samples) == stats.instability(samples)


@pytest.mark.parametrize(
    ("samples", "reasons"),
    [([2.0] * 30, 0), ([1.0] * 10 + [2.0] * 10 + [3.0] * 10, 2), ([1.0 + i / 1000 for i in range(90)], 1)],
)
def test_drift_and_width_are_told_apart(samples: list[float], reasons: int) -> None:
    """By hand: constant samples are stable, a staircase is wide and drifts, a gentle slope drifts."""
    assert len(timing.instability(samples)) == reasons


@pytest.mark.parametrize(
    ("host", "reasons"),
    [
        ({}, 0),
        ({"on_cpu_share": 0.95, "notes": []}, 0),
        ({"on_cpu_share": 0.5, "notes": ["throttled 3 times", 7, "x" * 999]}, 3),
        ({"on_cpu_share": "much", "notes": "cold"}, 0),
        ({"notes": ["again"] * 50}, 10),
    ],
)
def test_what_the_machine_noted_counts_on_both_sides(host: dict[str, Any], reasons: int) -> None:
    """Other programs and throttling make a latency unstable, however quiet the samples look."""
    samples = (2.0,) * 30
    measured = measurement(samples_ms=samples, host=host)

    assert timing.unstable(samples, host) == stats.unstable(measured)
    assert len(timing.unstable(samples, host)) == reasons


def measurement(*, samples_ms: tuple[float, ...], host: dict[str, Any]) -> Measurement:
    """A measurement of which only samples and host matter."""
    figures = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms"), 2.0)
    counts = dict.fromkeys(("warmup", "batch", "threads"), 1)
    names = dict.fromkeys(("runtime", "runtime_version", "provider"), "r")
    return Measurement(samples_ms=samples_ms, host=host, **figures, **counts, **names)
