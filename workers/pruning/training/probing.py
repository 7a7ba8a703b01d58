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
_NOISE: Final = 1e-3  # of a loss in the fast precision

Loss = Callable[[], torch.Tensor]


def completed(recipe: Recipe, teacher: GraphModule | None, probes: Sequence[torch.Tensor], device: str) -> Recipe:
    """Give the recipe with the precision and the views that the original bears; without one there are no views."""
    kind = precision.fastest(device)
    if teacher is None:
        return replace(recipe, precision=kind)
    with torch.no_grad():
        exact = teacher(*probes)
        with precision.arithmetic(kind, device):
            fast = exact if kind == precision.FLOAT32 else teacher(*probes)
    borne = precision.bearable(exact, fast)
    recipe = replace(recipe, precision=kind if borne else precision.FLOAT32)
    if not (recipe.head.is_classification and len(probes) == 1 and probes[0].ndim == 4):
        return recipe
    with torch.no_grad(), precision.arithmetic(recipe.precision, device):
        max_shift, flip = views.understood(
            probes[0],
            lambda images: teacher(images)[0].argmax(dim=1),
            answers=(fast if borne else exact)[0].argmax(dim=1),
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
    allowed = _after(losses, (), 0.0) * (1.0 + _NOISE)
    for loss_of in losses:
        network.zero_grad(set_to_none=True)
        loss_of().backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        moved = [(each, each.detach().clone(), each.grad) for each in network.parameters() if each.grad is not None]
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
