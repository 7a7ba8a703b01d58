"""Moments of what enters a convolution, from whole lines of its output at a time.

Neighbours in a line read the same inputs, one column apart, so most of their second moment is the same numbers again.
"""

from collections.abc import Sequence

import torch

from workers.pruning.compensation.solve import Moments


class Lines:
    """Rows in lines: row p of line n reads u[p + columns[0], n], u[p + columns[1], n], ... and wants y[p, n].

    Source: derivation. The moment of two columns that are `distance` apart, summed over a line, differs from that of
    the next two only at both ends. So one product for each distance serves all pairs: of 3 columns 3 long products and
    6 short ones in place of 9 long ones, and inputs are gathered for lines and not for every position.
    """

    def __init__(self, columns: Sequence[int], *, num_channels: int, centred: bool) -> None:
        self._columns = list(columns)
        self._num_channels = num_channels
        self._centred = centred
        self._count = 0
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None
        self._sums: tuple[torch.Tensor, ...] = ()

    def add(self, u: torch.Tensor, y: torch.Tensor) -> None:
        """Add lines. Products in float32 per call, sums in float64.

        Shapes: u (columns of the padded input, n, e), its last axis (other positions of the kernel, channels); y
        (positions of a line, n, m).
        """
        u, y = u.float(), y.float()
        width, num_inputs = len(y), u.shape[2]
        if self._shift is None:
            self._begin(u, y)
        if self._shift is not None and self._centred:  # padding is shifted too: it is an input like any other
            u, y = u - self._shift[0].repeat(num_inputs // self._num_channels), y - self._shift[1]
        self._count += width * u.shape[1]
        sum_x, sum_y, xx, xy = self._sums
        totals, wanted = u.sum(1), y.reshape(-1, y.shape[2])
        sum_y += wanted.sum(0)
        for number, start in enumerate(self._columns):
            sum_x[number] += totals[start : start + width].sum(0)
            xy[number] += u[start : start + width].reshape(-1, num_inputs).T @ wanted
        for distance in sorted({b - a for a in self._columns for b in self._columns if b >= a}):
            for start, moment in _moments(u, self._columns, distance, width):
                xx[self._columns.index(start), self._columns.index(start + distance)] += moment

    def _begin(self, u: torch.Tensor, y: torch.Tensor) -> None:
        count, num_inputs, num_outputs = len(self._columns), u.shape[2], y.shape[2]
        shapes = ((count, num_inputs), (num_outputs,), (count, count, num_inputs, num_inputs))
        sums = [torch.zeros(shape, dtype=torch.float64, device=u.device) for shape in shapes]
        last = torch.zeros((count, num_inputs, num_outputs), dtype=torch.float64, device=u.device)
        self._sums = (*sums, last)
        means = (u.reshape(-1, self._num_channels).mean(0), y.reshape(-1, num_outputs).mean(0))
        self._shift = means if self._centred else (torch.zeros_like(means[0]), torch.zeros_like(means[1]))

    def moments(self) -> Moments | None:
        """All of it, inputs ordered as `design.to_matrix` has them; None where nothing was added."""
        if self._shift is None:
            return None
        sum_x, sum_y, xx, xy = self._sums
        count, num_channels = len(self._columns), self._num_channels
        for i in range(count):
            for j in range(i):
                xx[i, j] = xx[j, i].T
        num_outputs, num_inputs = len(sum_y), sum_x.numel()
        return Moments(
            count=self._count,
            shift_x=self._shift[0].repeat(num_inputs // num_channels)[None, None],
            shift_y=self._shift[1][None, None],
            sum_x=sum_x.reshape(count, -1, num_channels).transpose(0, 1).reshape(1, -1),
            sum_y=sum_y[None],
            xx=xx.reshape(count, count, -1, num_channels, sum_x.shape[1] // num_channels, num_channels)
            .permute(2, 0, 3, 4, 1, 5)
            .reshape(1, num_inputs, num_inputs),
            xy=xy.reshape(count, -1, num_channels, num_outputs).transpose(0, 1).reshape(1, num_inputs, num_outputs),
        )


def _moments(u: torch.Tensor, columns: Sequence[int], distance: int, width: int) -> list[tuple[int, torch.Tensor]]:
    """For each column that has another one `distance` behind it, the second moment of both over a line's positions."""
    starts = [column for column in columns if column + distance in columns]
    inner, outer = range(starts[-1], starts[0] + width), range(starts[0], starts[-1] + width)
    if not inner:
        return [(start, _product(u, range(start, start + width), distance)) for start in starts]
    shared = _product(u, inner, distance)
    ends = {number: _product(u, range(number, number + 1), distance) for number in outer if number not in inner}
    return [
        (start, sum((part for number, part in ends.items() if start <= number < start + width), shared))
        for start in starts
    ]


def _product(u: torch.Tensor, where: range, distance: int) -> torch.Tensor:
    first = u[where.start : where.stop].reshape(-1, u.shape[2])
    return first.T @ u[where.start + distance : where.stop + distance].reshape(-1, u.shape[2])
