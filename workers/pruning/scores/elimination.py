"""Optimal-brain-surgeon elimination: units go one by one, each time the one that the others can best stand in for.

Legend: n units of a group, k columns of one unit, D = n k, m outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from workers.pruning.types import FloatArray, IntArray

_PENDING: Final = 256  # columns of updates that are gathered before they are multiplied out
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """One reader of a group's units, as a least-squares problem.

    Shapes: inverse (D, D), the block of the inverse second moment of everything that the layer reads; weight (m, D),
    rows scaled so that a squared change counts in the units of the score. Columns are ordered by unit; float64.
    """

    inverse: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The order in which the units of a group go, and what each costs at its turn."""

    order: IntArray  # (n,), unit within the group
    increments: FloatArray  # (n,), damage added by order[i] when order[:i] are gone


def eliminate(regressions: Sequence[Regression], num_units: int) -> Curve:
    """Remove the units of one group one by one, the cheapest first, until none is left.

    Source: Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (NeurIPS 1992), in
    blocks, layer by layer, as in Kwon et al. 2022 and Kurtic et al., "ZipLM" (2023). For a reader with weights W and
    inverse second moment P of its inputs, removing the block c and refitting the rest costs 1/2 tr(W_c P_cc^-1 W_c^T);
    then W -= W_c P_cc^-1 P_c: and P -= P_:c P_cc^-1 P_c:, so that both stay those of the regression on what is left.
    Ours: a unit costs the sum over all readers of its group, and goes from all at once. Updates of P are gathered and
    multiplied out together.
    """
    systems = [_System(regression, num_units) for regression in regressions]
    alive = np.arange(num_units)
    order, increments = np.empty(num_units, np.int64), np.zeros(num_units)
    for turn in range(num_units):
        costs = sum((system.costs(alive) for system in systems), torch.zeros(len(alive), dtype=torch.float64))
        cheapest = int(costs.argmin())
        order[turn], increments[turn] = alive[cheapest], max(0.0, float(costs[cheapest]))
        for system in systems:
            system.remove(int(alive[cheapest]))
        alive = np.delete(alive, cheapest)
    return Curve(order=order, increments=increments)


def nondecreasing(increments: FloatArray) -> FloatArray:
    """The nearest increments that never fall, with the same sums where they had to be pooled.

    Source: pool adjacent violators; the result is the slope of the lower convex hull of the damage curve, which is what
    a choice by damage per cost follows: a cheap removal behind a dear one is reached through both.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in increments:
        mean, size = float(value), 1
        while means and means[-1] > mean:
            last, count = means.pop(), sizes.pop()
            mean, size = (mean * size + last * count) / (size + count), size + count
        means.append(mean)
        sizes.append(size)
    return np.repeat(means, sizes)


class _System:
    """One regression while units leave it. Rows and columns of units that are gone are left as they are."""

    def __init__(self, regression: Regression, num_units: int) -> None:
        self._inverse = regression.inverse.clone()
        self._weight = regression.weight.clone()
        self._size = regression.inverse.shape[0] // num_units
        self._blocks = _diagonal_blocks(self._inverse, self._size)
        self._pending: list[torch.Tensor] = []
        self._slots = np.arange(num_units)  # unit -> where its columns are now

    def costs(self, alive: IntArray) -> torch.Tensor:
        """What the removal of each of these units would cost. Shapes: (units,), on the CPU."""
        if self._weight.shape[0] == 0:
            return torch.zeros(len(alive), dtype=torch.float64)
        if len(alive) * 2 <= len(self._blocks) and len(alive) > 1:
            self._compact(alive)
        slots = torch.from_numpy(self._slots[alive]).to(self._weight.device)
        rows = self._weight.reshape(len(self._weight), -1, self._size).index_select(1, slots).permute(1, 2, 0)
        squares = rows @ rows.transpose(1, 2)
        blocks = self._blocks.index_select(0, slots)
        solved = squares / blocks if self._size == 1 else torch.linalg.solve_ex(blocks, squares)[0]
        return 0.5 * solved.diagonal(dim1=1, dim2=2).sum(1).cpu()

    def remove(self, unit: int) -> None:
        """Take one unit away and let the others make up for it."""
        slot = int(self._slots[unit])
        columns = slice(slot * self._size, (slot + 1) * self._size)
        column = self._inverse[:, columns]
        for update in self._pending:
            column = column - update @ update[columns].T
        factor = _factor(column[columns])
        scaled = torch.linalg.solve_triangular(factor, column.T, upper=False).T  # P_:c L^-T
        held = torch.linalg.solve_triangular(factor, self._weight[:, columns].T, upper=False).T
        self._weight.sub_(held @ scaled.T)
        parts = scaled.reshape(-1, self._size, self._size)
        self._blocks.sub_(parts @ parts.transpose(1, 2))
        self._blocks[slot] = torch.eye(self._size, dtype=torch.float64)
        self._pending.append(scaled)
        if len(self._pending) * self._size >= _PENDING:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            updates = torch.cat(self._pending, 1)
            self._inverse.addmm_(updates, updates.T, alpha=-1)
            self._pending = []

    def _compact(self, alive: IntArray) -> None:
        self._flush()
        slots = self._slots[alive]
        columns = torch.from_numpy((slots[:, None] * self._size + np.arange(self._size)).reshape(-1))
        columns = columns.to(self._inverse.device)
        self._inverse = self._inverse.index_select(0, columns).index_select(1, columns)
        self._weight = self._weight.index_select(1, columns)
        self._blocks = self._blocks.index_select(0, torch.from_numpy(slots).to(columns.device))
        self._slots = np.full(len(self._slots), -1)
        self._slots[alive] = np.arange(len(alive))


def _diagonal_blocks(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """Shapes: (D, D) to (n, k, k)."""
    count = len(matrix) // size
    return matrix.reshape(count, size, count, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()


def _factor(block: torch.Tensor) -> torch.Tensor:
    """Cholesky factor of a block that is positive definite but for rounding."""
    block = (block + block.T) / 2
    factor: torch.Tensor
    factor, failed = torch.linalg.cholesky_ex(block)
    strength = _TINY
    while int(failed):
        strength *= 10
        jitter = strength * block.diagonal().abs().mean().clamp_min(_TINY)
        factor, failed = torch.linalg.cholesky_ex(block + jitter * torch.eye(len(block)).to(block))
    return factor
