"""Medians and intervals: against tables of the binomial, by hand, and by covering the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pruning.measure.stats import compare, instability, lower_rank, median, quantile
from workers.pruning.types import Measurement


def measurement(samples, *, per_round=1, on_cpu=1.0, on_cpu_ms=None):
    """Give a measurement with these samples."""
    return Measurement(
        samples_ms=tuple(samples),
        p50_ms=0.0,
        p90_ms=0.0,
        p99_ms=0.0,
        mean_ms=0.0,
        load_ms=0.0,
        warmup=0,
        batch=1,
        threads=1,
        runtime="",
        runtime_version="",
        provider="",
        host={"runs_per_round": per_round, "on_cpu_share": on_cpu, "on_cpu_p50_ms": on_cpu_ms},
    )


# Ranks of the 95 % interval of the median: Conover, Practical Nonparametric Statistics, from binomial(n, 1/2) tables:
# P(B <= 0) = 1/64 for n = 6; P(B <= 1) = 0.0107 for n = 10; P(B <= 5) = 0.0207 for n = 20 (B <= 6: 0.0577).
@pytest.mark.parametrize(("count", "rank"), [(1, 0), (5, 0), (6, 1), (10, 2), (20, 6), (25, 8), (100, 40)])
def test_ranks_are_those_of_the_binomial(count, rank):
    """The interval of the median starts at the tabulated rank."""
    assert lower_rank(count) == rank


def test_the_interval_is_made_of_order_statistics():
    """Of 1..10 the median is 5.5, between the 2nd and the 9th value."""
    found = median([7, 1, 10, 4, 2, 9, 3, 8, 5, 6])

    assert (found.value, found.low, found.high) == (5.5, 2, 9)


def test_few_samples_give_their_range():
    """Below 6 samples the interval is all of them; none is an error."""
    assert (median([3.0, 1.0]).low, median([3.0, 1.0]).high) == (1.0, 3.0)
    with pytest.raises(ValueError, match="no samples"):
        median([])


def test_the_interval_covers_the_median_as_often_as_it_says():
    """Of 1,000 sets of 30 skewed samples, at least 94 % of the intervals cover the true median, ln 2."""
    rng = np.random.default_rng(0)
    intervals = [median(rng.exponential(size=30).tolist()) for _ in range(1000)]

    assert np.mean([found.low <= np.log(2) <= found.high for found in intervals]) >= 0.94


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=60))
def test_the_interval_contains_the_median_and_stays_within_the_samples(samples):
    """min <= low <= median <= high <= max, whatever the samples."""
    found = median(samples)

    assert min(samples) <= found.low <= found.value <= found.high <= max(samples)


def test_quantiles_are_values_that_occurred():
    """By nearest rank: of 1..100 the 0.99 quantile is 99, of ten values the 0.9 quantile is the ninth."""
    assert quantile(list(range(1, 101)), 0.99) == 99
    assert quantile([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 0.9) == 90
    assert quantile([5.0], 0.01) == 5.0


def test_a_steady_latency_is_stable():
    """Samples that scatter by 1 % about one value have no instability."""
    samples = np.random.default_rng(0).normal(10, 0.1, 100)

    assert instability(samples.tolist()) == ()


def test_a_drift_is_stated():
    """A latency that rises by 20 % from first to last is not one latency."""
    samples = np.linspace(9, 11, 90).tolist()

    # By hand: thirds have medians 9.326 and 10.674; (10.674 - 9.326) / 10 = 13.5 %.
    assert instability(samples) == ("the latency drifted by +13.5% during the measurement (allowed 5%)",)


def test_a_wide_interval_is_stated():
    """Samples that alternate between two values do not state a median."""
    reasons = instability([8.0, 12.0] * 10)

    assert reasons == ("the interval of the median is +-20.0% wide (allowed 5%)",)


def test_the_ratio_cancels_what_both_networks_share():
    """Where the machine slows down by half during the measurement, the ratio of paired samples is exact."""
    machine = np.linspace(1, 2, 50)

    found = compare(measurement(10 * machine), measurement(6 * machine))

    assert found.ratio.value == pytest.approx(0.6)
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(0.6), pytest.approx(0.6))
    assert found.is_real
    assert any(warning.startswith("before: the latency drifted") for warning in found.warnings)


def test_rounds_are_the_unit_of_comparison():
    """One slow run among the four of a round does not move the ratio."""
    before = [10.0, 10.0, 10.0, 90.0] * 10
    after = [5.0, 5.0, 5.0, 5.0] * 10

    assert compare(measurement(before, per_round=4), measurement(after, per_round=4)).ratio.high == 0.5


def test_equal_networks_do_not_differ():
    """The interval of a ratio of equal latencies contains 1."""
    rng = np.random.default_rng(0)

    assert not compare(measurement(rng.normal(10, 1, 80)), measurement(rng.normal(10, 1, 80))).is_real


def test_other_programs_on_the_processor_are_stated():
    """Time off the processor is stated with its share."""
    busy = measurement([10.0] * 20, on_cpu=0.7)

    assert compare(busy, measurement([10.0] * 20)).warnings == (
        "before: other programs took the processor for 30% of the time",
    )


def test_processor_time_gives_a_ratio_beside_the_measured_one():
    """Median processor times of 8 and 6 ms give 0.75, whatever the wall says; without them there is none."""
    before, after = measurement([10.0] * 20, on_cpu_ms=8.0), measurement([9.0] * 20, on_cpu_ms=6.0)

    assert compare(before, after).on_cpu_ratio == 0.75
    assert compare(before, measurement([9.0] * 20)).on_cpu_ratio is None


def test_networks_of_other_rounds_are_not_compared():
    """Different numbers of samples are our mistake."""
    with pytest.raises(ValueError, match="same rounds"):
        compare(measurement([1.0]), measurement([1.0, 2.0]))
