"""What only the networks themselves can tell before they train: fast arithmetic, views, and a rate that they bear."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch

from workers.pruning.graph import precision
from workers.pruning.graph.execute import GraphModule
from workers.pruning.training import views
from workers.pruning.training.recipe import Recipe

LARGEST_GRADIENT: Final = 10.0  # norm; ResNet-56 at half its MACs has 3 to 4, networks without normalisation far more
RATE_BATCHES: Final = 3  # that the rate is tried on
SAFETY: Final = 4.0  # a step of so many rates still has to lower the loss
_HALVINGS: Final = 12
_VIEWED: Final = 128  # samples that decide the views
_NOISE: Final = 1e-3  # of a loss in the fast precision

Loss = Callable[[], torch.Tensor]


def completed(recipe: Recipe, teacher: GraphModule | None, probes: Sequence[torch.Tensor], device: str) -> Recipe:
    """Give the recipe with the precision and the views that the original bears; without one there are no views."""
    if teacher is None:
        return replace(recipe, precision=precision.fastest(device))
    kind = precision.fastest_borne(teacher, probes, device)
    recipe = replace(recipe, precision=kind)
    if not (recipe.head.is_classification and len(probes) == 1 and probes[0].ndim == 4):
        return recipe
    with torch.no_grad(), precision.arithmetic(kind, device):
        max_shift, flip = views.understood(
            probes[0][:_VIEWED],
            lambda images: teacher(images)[0].argmax(dim=1),
        )
    return replace(recipe, max_shift=max_shift, flip=flip)


def bearable_rate(rate: float, network: torch.nn.Module, losses: Sequence[Loss]) -> float:
    """Halve the rate until a step of four times its length, taken from any batch, lowers the loss of all together.

    Source: derivation. A step that lowers its own batch's loss may be too long for the curvature, or follow what only
    that batch says; both show in the others. ResNet-20 at half its multiply-adds bears eight times 0.01. One that
    was trained on 500 large images and answered almost as its original bore no quarter of it: the loss rose a
    hundredfold in one step.
    The network is left as it was.
    """
    statistics = [buffer.clone() for buffer in network.buffers()]
    smallest = rate / 2**_HALVINGS
    before, moves = 0.0, []
    for loss_of in losses:
        network.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        before += loss.item()
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        moves.append(
            [(each, each.detach().clone(), each.grad) for each in network.parameters() if each.grad is not None]
        )
    allowed = before * (1.0 + _NOISE)
    for moved in moves:
        while rate > smallest and not _after(losses, moved, SAFETY * rate) <= allowed:
            rate /= 2
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, stored in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(stored)
    return rate


def _after(
    losses: Sequence[Loss], moved: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], length: float
) -> float:
    """The sum of the losses behind a step against the gradient; the weights are put back."""
    with torch.no_grad():
        for parameter, start, gradient in moved:
            parameter.copy_(start - length * gradient)
        found = sum(loss_of().item() for loss_of in losses)
        for parameter, start, _ in moved:
            parameter.copy_(start)
    return found
