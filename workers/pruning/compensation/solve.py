"""Ridge regression that pulls towards the weights there are, from moments gathered batch by batch.

Legend: g groups solved side by side, n rows, d inputs of a row, m outputs.
"""

from dataclasses import dataclass
from typing import Final

import torch

_MOST_ROWS: Final = 32768
_FEWEST_ROWS: Final = 4096
_ROW_BUDGET: Final = 2e11  # rows x inputs^2


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """weight (g, m, d) and bias (g, m), float64; the bias is what was given where it may not change."""

    weight: torch.Tensor
    bias: torch.Tensor

    @property
    def is_finite(self) -> bool:
        """Whether it can be used."""
        return bool(torch.isfinite(self.weight).all() and torch.isfinite(self.bias).all())


def num_rows(num_inputs: int) -> int:
    """How many rows a regression on `num_inputs` gets: 32,768, fewer where the moments would cost too much.

    From about 5,800 inputs on there are fewer rows than inputs, and `solve` turns to the dual form.
    """
    return int(min(_MOST_ROWS, max(_FEWEST_ROWS, _ROW_BUDGET / num_inputs**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What the primal form needs of n rows (x, y), each less a shift.

    Shapes: shift_x (g, 1, d), shift_y (g, 1, m), sum_x (g, d), sum_y (g, m), xx (g, d, d), xy (g, d, m); sums float64.
    """

    count: int
    shift_x: torch.Tensor
    shift_y: torch.Tensor
    sum_x: torch.Tensor
    sum_y: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor


class Rows:
    """Rows of inputs and wanted outputs, kept as moments, or as they are when there are fewer rows than inputs."""

    def __init__(self, expected: int, *, centred: bool) -> None:
        self._expected = expected
        self._centred = centred
        self.count = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._moments: list[torch.Tensor] = []
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    @classmethod
    def of(cls, moments: Moments, *, centred: bool) -> "Rows":
        """Rows of which only the moments are known."""
        rows = cls(moments.count, centred=centred)
        rows.count = moments.count
        rows._shift = (moments.shift_x, moments.shift_y)
        rows._moments = [moments.sum_x, moments.sum_y, moments.xx, moments.xy]
        return rows

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add rows: x (g, n, d), y (g, n, m). Products in float32 per call, sums in float64."""
        x, y = x.float(), y.float()
        if self._shift is None:
            zero = (torch.zeros_like(x[:, :1]), torch.zeros_like(y[:, :1]))
            self._shift = (x.mean(1, keepdim=True), y.mean(1, keepdim=True)) if self._centred else zero
        x, y = x - self._shift[0], y - self._shift[1]  # near the mean, so that nothing cancels later
        self.count += x.shape[1]
        if self._expected < x.shape[2]:
            self._kept.append((x, y))
            return
        xt = x.transpose(1, 2)
        parts = [x.sum(1), y.sum(1), torch.bmm(xt, x), torch.bmm(xt, y)]
        if self._moments:
            self._moments = [total + part for total, part in zip(self._moments, parts, strict=True)]
        else:
            self._moments = [part.double() for part in parts]

    def solve(self, weight: torch.Tensor, bias: torch.Tensor, ridge: float) -> Solution:
        """Return argmin over W, b of mean ||W x + b - y||^2 + ridge * s * ||W - weight||^2.

        Source: normal equations (C + l I) W^T = D + l weight^T with C, D the (centred) second moments, l = ridge * s
        and s the mean of C's diagonal. Where rows are fewer than inputs, s grows by inputs / rows, the mean of those
        eigenvalues that are not zero, and the dual form is solved, the same minimiser from a smaller system:
        W = weight + A^T X with (X X^T / n + l I) A = (Y - X weight^T) / n.
        The bias is not regularised; without centring it stays as it is.

        Shapes: weight (g, m, d), bias (g, m).
        """
        weight, bias = weight.double(), bias.double()
        solved = self._dual(weight, ridge) if self._kept else self._primal(weight, ridge)
        if not self._centred:
            return Solution(weight=solved, bias=bias)
        mean_x, mean_y = self._means()
        return Solution(weight=solved, bias=mean_y - torch.einsum("gmd,gd->gm", solved, mean_x))

    def _means(self) -> tuple[torch.Tensor, torch.Tensor]:
        shift_x, shift_y = self._shift or (torch.zeros(()), torch.zeros(()))
        sums = self._moments[:2] or [torch.cat(part, 1).double().sum(1) for part in zip(*self._kept, strict=True)]
        return sums[0] / self.count + shift_x[:, 0], sums[1] / self.count + shift_y[:, 0]

    def _primal(self, weight: torch.Tensor, ridge: float) -> torch.Tensor:
        sum_x, sum_y, xx, xy = self._moments
        c, d = xx / self.count, xy / self.count
        if self._centred:
            mean_x, mean_y = sum_x / self.count, sum_y / self.count
            c = c - mean_x[:, :, None] * mean_x[:, None, :]
            d = d - mean_x[:, :, None] * mean_y[:, None, :]
        strength = _strength(c, ridge)
        system = c + strength * torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
        solved: torch.Tensor = torch.linalg.solve_ex(system, d + strength * weight.transpose(1, 2))[0]
        return solved.transpose(1, 2)

    def _dual(self, weight: torch.Tensor, ridge: float) -> torch.Tensor:
        x, y = (torch.cat(part, 1) for part in zip(*self._kept, strict=True))
        if self._centred:
            x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        gram = torch.bmm(x, x.transpose(1, 2)).double() / self.count
        strength = _strength(gram, ridge)
        residual = (y - torch.bmm(x, weight.transpose(1, 2).float())).double()
        system = gram + strength * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        dual = torch.linalg.solve_ex(system, residual / self.count)[0]
        return weight + torch.bmm(dual.transpose(1, 2).float(), x).double()


def _strength(moment: torch.Tensor, ridge: float) -> torch.Tensor:
    """Strength of the pull, (g, 1, 1). Inputs that are all constant leave nothing to solve for: there any will do."""
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)
    return torch.where(mean > 0, ridge * mean, torch.ones_like(mean))[:, None, None]
