"""Factors learned from whole networks."""

import pytest

from workers.pruning.latency.correction import Correction, Observed, held_out, learned


def observed(measured, **parts):
    """A network."""
    return Observed(name="n", parts_ms=parts, measured_ms=measured)


def test_nothing_measured_corrects_nothing():
    """Rows are believed until a network says otherwise."""
    assert learned([]).apply({"a": 2.0, "b": 1.0}) == 3.0
    assert Correction().factor("a", 1.0) == 1.0


def test_a_network_is_believed_at_its_own_size():
    """What it took is what it is predicted to take afterwards."""
    found = learned([observed(3.6, a=2.0, b=1.0)])

    assert found.apply({"a": 2.0, "b": 1.0}) == pytest.approx(3.6, rel=0.01)


def test_it_teaches_less_the_smaller_another_is():
    """Large networks miss caches that small ones fit into: the ratio of one is not that of the other."""
    found = learned([observed(12.0, a=10.0)])

    ratios = [found.apply({"a": size}) / size for size in (10.0, 5.0, 1.0, 0.1)]

    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] == pytest.approx(1.2, rel=0.01)
    # 0.1^2 + 0.05^2 of 0.1^2 + 0.05^2 + 0.15^2 + 0.02^2 is common to all sizes.
    assert ratios[-1] == pytest.approx(1.2**0.3531, rel=0.01)


def test_networks_of_two_sizes_are_interpolated():
    """Between a small network that the rows predict and a large one that they do not lies half of the way."""
    found = learned([observed(1.0, a=1.0), observed(12.0, a=10.0)])

    assert found.apply({"a": 1.0}) == pytest.approx(1.0, rel=0.01)
    assert 1.03 < found.apply({"a": 10**0.5}) / 10**0.5 < 1.15


def test_kinds_are_told_apart():
    """Of networks of one size, those with more of a kind take longer."""
    found = learned([observed(3.3, a=2.0, b=1.0), observed(3.0, a=0.0, b=3.0), observed(3.6, a=3.0, b=0.0)])

    assert found.factor("a", 3.0) > found.factor("b", 3.0) + 0.02


def test_the_sum_of_rows_for_a_time_is_found():
    """It is the inverse of the correction."""
    found = learned([observed(1.0, a=1.0), observed(12.0, a=10.0)])

    for size in (0.5, 2.0, 10.0):
        corrected = size * found.factor("never seen", size)
        assert found.sum_for(corrected) == pytest.approx(size, rel=1e-3)


def test_the_error_is_that_of_networks_held_out():
    """One network cannot be held out; consistent ones predict each other."""
    assert () == held_out([observed(2.0, a=1.0)])
    assert max(held_out([observed(2.1, a=2.0), observed(2.2, a=2.1)])) < 0.02
