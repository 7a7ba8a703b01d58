"""The alternating direction method on problems whose answers are known."""

from itertools import pairwise

import numpy as np
import pytest

from workers.pruning.methods.admm import Problem, advance, cubic, distance, norm, start

TARGET = np.array([[3.0, 4.0], [0.3, 0.4], [1.0, 0.0], [0.1, 0.1]])  # rows are filters; norms 5, 0.5, 1, 0.14


def largest_two(_state, v):
    """Keep the two rows with the largest norm."""
    keep = np.zeros(len(TARGET), np.bool_)
    keep[np.argsort(-np.linalg.norm(v["w"], axis=1))[:2]] = True
    return {"w": np.where(keep[:, None], v["w"], 0.0)}, keep


def nearest(_state, anchors, rho):
    """Solve min 1/2 |W - TARGET|^2 + rho/2 |W - anchor|^2, in closed form."""
    return {"w": (TARGET + rho * anchors["w"]) / (1 + rho)}


def problem(*, improve=nearest, growth=1.0, rho_max=10.0):
    return Problem(point=lambda state: state, improve=improve, project=largest_two, growth=growth, rho_max=rho_max)


def test_the_halves_come_to_agree_on_a_convex_loss():
    """|W - Z| falls to nothing, and Z is the target with its two smaller rows gone, by Eckart and Young's argument."""
    iterate = start(problem(), {"w": TARGET}, 1.0)
    for _ in range(40):
        iterate = advance(problem(), iterate)
    primal = [each.primal for each in iterate.residuals]

    assert primal[-1] < 1e-6 < primal[0]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(primal))
    np.testing.assert_allclose(iterate.z["w"], np.where([[True], [False], [True], [False]], TARGET, 0.0), atol=1e-6)
    assert iterate.settled


def test_the_dual_grows_by_what_is_left_between_the_halves():
    """After the first round U is W - Z, after the second it has grown by the next W - Z."""
    first = advance(problem(), start(problem(), {"w": TARGET}, 1.0))
    second = advance(problem(), first)

    np.testing.assert_allclose(first.u["w"], first.state["w"] - first.z["w"])
    np.testing.assert_allclose(second.u["w"], first.u["w"] + second.state["w"] - second.z["w"])
    assert second.u["w"][1, 0] > 0  # the row that goes pulls with the sign of what is left of it


def test_a_pull_without_strength_is_one_shot():
    """With rho near zero and one round, W stays at the minimum of the loss and Z is the projection of that."""
    iterate = advance(problem(), start(problem(), {"w": TARGET}, 1e-12))
    once, _ = largest_two(None, {"w": TARGET})

    np.testing.assert_allclose(iterate.z["w"], once["w"], atol=1e-9)


def test_the_pull_grows_to_its_limit():
    """rho is multiplied every round and stops at its largest value."""
    iterate = start(problem(growth=10.0, rho_max=0.5), {"w": TARGET}, 0.01)
    for _ in range(3):
        iterate = advance(problem(growth=10.0, rho_max=0.5), iterate)

    assert [each.rho for each in iterate.residuals] == pytest.approx([0.01, 0.1, 0.5])


def test_a_choice_that_changes_is_not_settled():
    """Agreement of the halves is not enough: the choice must have stood for two rounds."""
    iterate = start(problem(improve=lambda *_: {"w": np.zeros_like(TARGET)}), {"w": TARGET}, 1.0)
    settled = []
    for _ in range(4):
        iterate = advance(problem(improve=lambda *_: {"w": np.zeros_like(TARGET)}), iterate)
        settled.append(iterate.settled)

    assert settled == [False, False, True, True]


def test_the_schedule_is_fast_first_and_complete_at_the_end():
    """Half of the rounds are seven eighths of the way; the last is all of it."""
    assert [cubic(number, 4) for number in range(5)] == pytest.approx([0, 37 / 64, 7 / 8, 63 / 64, 1])


def test_norms_run_over_all_arrays():
    """3 and 4 in different arrays make 5."""
    assert norm({"a": np.array([3.0]), "b": np.array([[4.0]])}) == 5.0
    assert distance({"a": np.array([3.0])}, {"a": np.array([1.0])}) == 2.0
