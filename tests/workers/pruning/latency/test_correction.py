"""Factors learned from whole networks."""

import pytest

from workers.pruning.latency.correction import Correction, Observed, held_out, learned


def observed(measured, **parts):
    """A network."""
    return Observed(name="n", parts_ms=parts, measured_ms=measured)


def test_nothing_measured_corrects_nothing():
    """Rows are believed until a network says otherwise."""
    assert learned([]).apply({"a": 2.0, "b": 1.0}) == 3.0
    assert Correction().factor("a") == 1.0


def test_one_network_scales_all_kinds_about_alike():
    """A single sum cannot tell which kind is slower."""
    found = learned([observed(3.0, a=1.0, b=1.0)])

    assert found.apply({"a": 1.0, "b": 1.0}) == pytest.approx(3.0, rel=0.01)
    assert found.factor("a") == pytest.approx(found.factor("b"))
    assert found.factor("never seen") == pytest.approx(1.4, rel=0.05)  # 0.3^2 of 0.3^2 + 0.15^2 / 2 is the scale's


def test_several_networks_tell_kinds_apart():
    """Two kinds, of which one takes twice as long inside a network."""
    found = learned(
        [observed(2.0 + 1.0, a=1.0, b=1.0), observed(6.0 + 1.0, a=3.0, b=1.0), observed(2.0 + 4.0, a=1.0, b=4.0)]
    )

    assert found.factor("a") == pytest.approx(2.0, rel=0.05)
    assert found.factor("b") == pytest.approx(1.0, rel=0.05)


def test_the_error_is_that_of_networks_held_out():
    """One network cannot be held out; consistent ones predict each other."""
    assert () == held_out([observed(2.0, a=1.0)])
    assert max(held_out([observed(2.0, a=1.0), observed(4.0, a=2.0)])) < 0.02
