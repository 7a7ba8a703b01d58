"""Where a predicted time has to lie, on devices whose law is a line."""

import pytest

from workers.pruning.methods.bracket import Point, to_predict


def point(predicted, measured):
    """Something that was measured."""
    return Point(predicted_ms=predicted, measured_ms=measured)


def test_without_plans_predictions_are_believed():
    """The original alone says nothing of what is missing at other widths."""
    assert to_predict(4.0, [], point(8.0, 8.0)) == 4.0


def test_a_line_through_two_points_is_followed():
    """Where a run takes 2 ms whatever the widths, one plan and the original tell what the next has to be."""
    original, plan = point(8.0, 10.0), point(4.0, 6.0)

    assert to_predict(5.0, [plan], original) == pytest.approx(3.0)


def test_between_two_plans_the_line_is_cut():
    """Regula falsi: a quarter of the way in time is a quarter of the way in what is predicted."""
    plans = [point(4.0, 5.0), point(3.0, 3.0)]

    assert to_predict(3.5, plans, point(8.0, 10.0)) == pytest.approx(3.25)


def test_every_plan_shortens_the_bracket():
    """Next to one end of a bracket the result still keeps a tenth of it away."""
    plans = [point(4.0, 5.0), point(2.0, 3.0)]

    found = to_predict(3.01, plans, point(8.0, 10.0))

    assert 2.0 * 2.0**0.1 <= found * (1 + 1e-9)
    assert found < 4.0


@pytest.mark.parametrize("predicted", [7.9, 4.001, 9.0])
def test_noise_does_not_carry_far_away(predicted):
    """Whatever line two points give, a step is at most twice as far as the times are apart."""
    found = to_predict(5.0, [point(predicted, 6.0)], point(8.0, 6.1))

    assert predicted * (5 / 6) ** 2 <= found * (1 + 1e-9)
    assert found <= predicted * (5 / 6) ** 0.5 * (1 + 1e-9)
