"""What only the networks themselves can tell before they train: fast arithmetic, views, and a rate that they bear."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.training import precision, views
from workers.pruning.training.recipe import Recipe

LARGEST_GRADIENT: Final = 10.0  # norm; ResNet-56 at half its MACs has 3 to 4, networks without normalisation far more
RATE_BATCHES: Final = 3  # that the rate is tried on
SAFETY: Final = 2.0  # a step of so many rates still has to lower the loss
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
    recipe = replace(recipe, precision=kind if precision.bearable(exact, fast) else precision.FLOAT32)
    if not (recipe.head.is_classification and len(probes) == 1 and probes[0].ndim == 4):
        return recipe
    with torch.no_grad(), precision.arithmetic(recipe.precision, device):
        max_shift, flip = views.understood(probes[0], lambda images: teacher(images)[0].argmax(dim=1))
    return replace(recipe, max_shift=max_shift, flip=flip)


def bearable_rate(rate: float, network: torch.nn.Module, losses: Iterable[Loss]) -> float:
    """Halve the rate until a step of twice its length lowers the loss of every batch that it was taken from.

    Source: derivation. Along the gradient of a batch its loss falls as long as the step is shorter than 2 over the
    curvature there; momentum bears at least as much. Networks with normalisation bear 0.01 by far; one that was
    trained on a few hundred large images did not bear a quarter of it: its loss rose a hundredfold in one step.
    The network is left as it was.
    """
    statistics = [buffer.clone() for buffer in network.buffers()]
    smallest = rate / 2**_HALVINGS
    for loss_of in losses:
        network.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        moved = [(each, each.detach().clone(), each.grad) for each in network.parameters() if each.grad is not None]
        allowed = loss.item() * (1.0 + _NOISE)
        while rate > smallest and not _after(loss_of, moved, SAFETY * rate) <= allowed:
            rate /= 2
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, stored in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(stored)
    return rate


def _after(loss_of: Loss, moved: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], length: float) -> float:
    """The loss behind a step against the gradient; the weights are put back."""
    with torch.no_grad():
        for parameter, start, gradient in moved:
            parameter.copy_(start - length * gradient)
        found = loss_of().item()
        for parameter, start, _ in moved:
            parameter.copy_(start)
    return found
