"""Optimal brain surgeon in blocks: the books after every removal, against regressions that are solved outright."""

import numpy as np
import pytest
import torch

from workers.pruning.scores.elimination import Regression, eliminate, nondecreasing


def moment(rng, size, samples=300):
    """Second moment of correlated inputs."""
    x = rng.normal(size=(samples, size)) @ rng.normal(size=(size, size))
    return x.T @ x / samples + 0.01 * np.eye(size)


def regression(h, weight, columns):
    """One reader whose first `columns` inputs belong to the group."""
    inverse = np.linalg.inv(h)[:columns, :columns]
    return Regression(inverse=torch.from_numpy(inverse), weight=torch.from_numpy(weight[:, :columns].copy()))


def refitted(h, weight, gone):
    """Weights of the inputs that stay, refitted to answers of the original; and 1/2 E |change of the answers|^2."""
    stays = np.setdiff1d(np.arange(len(h)), gone)
    fitted = np.linalg.solve(h[np.ix_(stays, stays)], h[stays] @ weight.T).T
    change = weight.copy()
    change[:, stays] -= fitted
    return fitted, stays, 0.5 * np.trace(change @ h @ change.T)


@pytest.mark.parametrize(("units", "size"), [(7, 1), (9, 3), (40, 9)])
def test_damage_is_that_of_the_least_squares_optimum_after_every_removal(units: int, size: int) -> None:
    """Summed increments of two readers, one of which reads other inputs too, equal the errors solved directly."""
    rng = np.random.default_rng(units)
    problems = [(moment(rng, units * size + extra), extra) for extra in (0, 5)]
    problems = [(h, rng.normal(size=(4, len(h)))) for h, _ in problems]
    curve = eliminate([regression(h, weight, units * size) for h, weight in problems], units)

    assert sorted(curve.order) == list(range(units))
    for turn in range(1, units + 1, max(1, units // 8)):
        gone = (curve.order[:turn, None] * size + np.arange(size)).reshape(-1)
        wanted = sum(refitted(h, weight, gone)[2] for h, weight in problems)
        assert curve.increments[:turn].sum() == pytest.approx(wanted, rel=1e-6)


def test_the_cheapest_unit_goes_at_every_turn() -> None:
    """At each turn no other removal would have added less."""
    rng = np.random.default_rng(3)
    h = moment(rng, 12)
    weight = rng.normal(size=(3, 12))
    curve = eliminate([regression(h, weight, 12)], 12)
    for turn in range(12):
        left = np.setdiff1d(np.arange(12), curve.order[:turn])
        damages = [refitted(h, weight, np.append(curve.order[:turn], unit))[2] for unit in left]
        assert left[int(np.argmin(damages))] == curve.order[turn]


def test_of_twins_one_goes_first_and_the_other_never_next() -> None:
    """Two inputs that always agree are redundant once: after the first the second costs what a single one would."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    x[:, 1] = x[:, 0]
    h = x.T @ x / 400 + 1e-6 * np.eye(6)
    curve = eliminate([regression(h, rng.normal(size=(5, 6)) + 2.0, 6)], 6)

    assert curve.order[0] in {0, 1}
    assert curve.order[1] not in {0, 1}
    assert curve.increments[0] < 1e-3 * curve.increments[1]


def test_a_group_that_nobody_reads_costs_nothing() -> None:
    """Without readers units go in their order, for nothing."""
    curve = eliminate([], 3)

    assert list(curve.order) == [0, 1, 2]
    assert not curve.increments.any()


def test_increments_that_fall_are_pooled() -> None:
    """Pooling keeps the sum of every run that it levels, and leaves what rises alone."""
    np.testing.assert_allclose(nondecreasing(np.array([1.0, 3.0, 2.0, 5.0])), [1.0, 2.5, 2.5, 5.0])
    np.testing.assert_allclose(nondecreasing(np.array([4.0, 1.0, 1.0])), [2.0, 2.0, 2.0])
    assert nondecreasing(np.zeros(0)).size == 0
