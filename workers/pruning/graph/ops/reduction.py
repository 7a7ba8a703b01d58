"""Reductions along axes."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from workers.pruning.graph.ops.site import Kernel, Operator, Site

Reducer = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: Reducer, summary: str) -> Operator:
    def build(site: Site) -> Kernel:
        keep = bool(site.integer("keepdims", 1))
        nothing = bool(site.integer("noop_with_empty_axes"))
        read_axes = site.list_reader(1, "axes")

        def run(*inputs: Tensor) -> Tensor:
            x = inputs[0]
            axes = read_axes(inputs)
            if not axes:
                if nothing:
                    return x
                axes = list(range(x.dim()))
            return function(x, axes, keep)

        return run

    return Operator(build=build, summary=summary)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    return x.mean(axes, keepdim=keep)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    return x.sum(axes, keepdim=keep)


def _largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    return x.amax(axes, keepdim=keep)


def _smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001
    return x.amin(axes, keepdim=keep)


def _extreme_position(function: Callable[..., Tensor], summary: str) -> Operator:
    def build(site: Site) -> Kernel:
        axis, keep = site.integer("axis", 0), bool(site.integer("keepdims", 1))
        last = bool(site.integer("select_last_index"))

        def run(x: Tensor) -> Tensor:
            if not last:
                return function(x, axis, keepdim=keep)
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)

        return run

    return Operator(build=build, summary=summary)


def cumulative_sum(site: Site) -> Kernel:
    """Running sum along an axis."""
    exclusive, reverse = bool(site.integer("exclusive")), bool(site.integer("reverse"))
    read_axis = site.list_reader(1, "axis")

    def run(*inputs: Tensor) -> Tensor:
        x = inputs[0]
        axis = (read_axis(inputs) or [0])[0]
        x = x.flip(axis) if reverse else x
        total = x.cumsum(axis)
        total = total - x if exclusive else total
        return total.flip(axis) if reverse else total

    return run


def top_k(site: Site) -> Kernel:
    """The k largest or smallest entries and their positions."""
    axis, largest = site.integer("axis", -1), bool(site.integer("largest", 1))
    read_count = site.list_reader(1, "k")
    attribute_count = site.integer("k", 1)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        count = (read_count(inputs) or [attribute_count])[0]
        values, positions = torch.topk(inputs[0], count, axis, largest)
        return values, positions

    return run


OPERATORS: Final = {
    "ReduceMean": _reduction(_mean, "Mean along axes."),
    "ReduceSum": _reduction(_sum, "Sum along axes."),
    "ReduceMax": _reduction(_largest, "Largest entry along axes."),
    "ReduceMin": _reduction(_smallest, "Smallest entry along axes."),
    "ReduceProd": _reduction(_product, "Product along axes."),
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(x.abs(), axes, keep), "Sum of absolute entries along axes."),
    "ReduceL2": _reduction(
        lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep), "Root of the sum of squares along axes."
    ),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(x.square(), axes, keep), "Sum of squares along axes."),
    "ReduceLogSum": _reduction(lambda x, axes, keep: _sum(x, axes, keep).log(), "Logarithm of the sum along axes."),
    "ReduceLogSumExp": _reduction(torch.logsumexp, "Logarithm of the sum of exponentials along axes."),
    "ArgMax": _extreme_position(torch.argmax, "Position of the largest entry along an axis."),
    "ArgMin": _extreme_position(torch.argmin, "Position of the smallest entry along an axis."),
    "CumSum": Operator(build=cumulative_sum, summary="Running sum along an axis."),
    "TopK": Operator(build=top_k, summary="The k largest or smallest entries and their positions."),
}
