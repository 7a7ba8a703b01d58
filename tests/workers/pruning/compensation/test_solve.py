"""The ridge regression behind compensation, against its definition."""

import numpy as np
import pytest
import torch

from workers.pruning.compensation.solve import Rows, num_rows


def problem(num_rows: int, num_inputs: int, num_outputs: int = 3, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, num_rows, num_inputs, generator=generator) + 2.0
    y = torch.randn(1, num_rows, num_outputs, generator=generator) - 1.0
    weight = torch.randn(1, num_outputs, num_inputs, generator=generator).double()
    return x, y, weight, torch.zeros(1, num_outputs, dtype=torch.float64)


def loss(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, start: torch.Tensor, ridge: float) -> torch.Tensor:
    """The objective of the docstring at the best bias for `weight`."""
    x, y = x[0].double(), y[0].double()
    residual = y - x @ weight[0].T
    strength = ridge * (x - x.mean(0)).square().mean(0).mean()
    return (residual - residual.mean(0)).square().sum(1).mean() + strength * (weight - start).square().sum()


@pytest.mark.parametrize(("rows", "inputs"), [(200, 7), (12, 30)])
def test_the_solution_is_where_the_objective_is_flat(rows: int, inputs: int) -> None:
    """The gradient of the objective vanishes at the solution, with more rows than inputs (primal) or fewer (dual)."""
    x, y, weight, bias = problem(rows, inputs)
    kept = Rows(rows, centred=True)
    kept.add(x, y)
    # With fewer rows than inputs the strength grows by inputs / rows.
    ridge = 0.1 if rows > inputs else 0.1 * inputs / rows
    solved = kept.solve(weight, bias, 0.1).weight.requires_grad_()

    (gradient,) = torch.autograd.grad(loss(x, y, solved, weight, ridge), solved)

    assert gradient.abs().max() < 1e-5


def test_splitting_rows_into_batches_changes_nothing() -> None:
    """Moments of two halves add up to those of the whole, also with means far from zero."""
    x, y, weight, bias = problem(100, 5)
    x = x + 100.0
    whole, halves = Rows(100, centred=True), Rows(100, centred=True)
    whole.add(x, y)
    halves.add(x[:, :30], y[:, :30])
    halves.add(x[:, 30:], y[:, 30:])

    np.testing.assert_allclose(
        halves.solve(weight, bias, 0.01).weight, whole.solve(weight, bias, 0.01).weight, atol=1e-4
    )


def test_what_is_explained_already_is_kept() -> None:
    """Where the outputs are a linear function of the inputs with the weights there are, they stay."""
    x, _, weight, _ = problem(100, 5)
    y = x @ weight[0].T.float() + 0.5
    rows = Rows(100, centred=True)
    rows.add(x, y)
    solution = rows.solve(weight, torch.zeros(1, 3), 0.01)

    np.testing.assert_allclose(solution.weight, weight, atol=1e-5)
    np.testing.assert_allclose(solution.bias, 0.5, atol=1e-5)


def test_without_centring_the_bias_stays() -> None:
    """A layer without a bias gets none: the fit goes through the origin."""
    x, y, weight, bias = problem(100, 5)
    rows = Rows(100, centred=False)
    rows.add(x, y)
    solution = rows.solve(weight, bias, 0.0)

    expected = np.linalg.lstsq(x[0].numpy(), y[0].numpy(), rcond=None)[0].T
    np.testing.assert_allclose(solution.weight[0], expected, atol=1e-4)
    np.testing.assert_allclose(solution.bias, 0.0)


@pytest.mark.parametrize("expected", [50, 3])
def test_inputs_that_never_vary_leave_the_weights(expected: int) -> None:
    """A layer that reads only constants keeps its weights; its bias takes the mean, by definition of the fit."""
    _, y, weight, bias = problem(50, 5)
    rows = Rows(expected, centred=True)
    rows.add(torch.zeros(1, 50, 5), y)
    solution = rows.solve(weight, bias, 0.01)

    np.testing.assert_allclose(solution.weight, weight)
    np.testing.assert_allclose(solution.bias, y.double().mean(1), atol=1e-6)


def test_groups_are_solved_apart() -> None:
    """Each group of a grouped convolution has its own regression."""
    problems = [problem(60, 4, seed=seed) for seed in (1, 2)]
    x, y, weight, bias = (torch.cat([p[i] for p in problems]) for i in range(4))
    both = Rows(60, centred=True)
    both.add(x, y)
    solution = both.solve(weight, bias, 0.01)

    for index, (xi, yi, wi, bi) in enumerate(problems):
        one = Rows(60, centred=True)
        one.add(xi, yi)
        np.testing.assert_allclose(solution.weight[index], one.solve(wi, bi, 0.01).weight[0], atol=1e-8)


def test_infinite_rows_give_a_solution_that_says_so() -> None:
    """The caller can tell that there is nothing to use."""
    x, y, weight, bias = problem(50, 5)
    x[0, 3, 2] = torch.inf
    rows = Rows(50, centred=True)
    rows.add(x, y)

    assert not rows.solve(weight, bias, 0.01).is_finite


@pytest.mark.parametrize(("inputs", "expected"), [(576, 32768), (4608, 9419), (25088, 4096)])
def test_wide_layers_get_fewer_rows(inputs: int, expected: int) -> None:
    """Rows times inputs squared stay within 2e11: by the formula 2e11 / d^2 between 4,096 and 32,768."""
    assert num_rows(inputs) == expected
