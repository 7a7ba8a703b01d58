"""The optimiser that fine-tuning and dynamic pruning share."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypedDict

import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.training.recipe import Recipe


class Group(TypedDict):
    """Parameters that are treated alike."""

    params: list[torch.nn.Parameter]
    lr: float
    weight_decay: float


class Descent:
    """Stochastic gradient descent with Nesterov momentum.

    Source: Sutskever et al. 2013 in the form of torch.optim.SGD, whose results it gives bit by bit, and whose names it
    has. That class loads the compiler of torch before its first step: measured, 2 s and more of each job.
    """

    def __init__(self, groups: Sequence[Group], *, momentum: float) -> None:
        self.param_groups = list(groups)
        self.state: defaultdict[torch.Tensor, dict[str, torch.Tensor]] = defaultdict(dict)
        self._momentum = momentum

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: torch.nn.Parameter, gradient: torch.Tensor, group: Group) -> None:
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        held = self.state[parameter]
        momentum = held.get("momentum_buffer")
        if momentum is None:
            momentum = held["momentum_buffer"] = gradient.detach().clone()
        else:
            momentum.mul_(self._momentum).add_(gradient)
        parameter.add_(gradient.add(momentum, alpha=self._momentum), alpha=-group["lr"])


def optimizer_of(network: GraphModule, recipe: Recipe) -> Descent:
    """Give SGD with Nesterov momentum; only matrices and filters decay, not biases and norms."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate = recipe.learning_rate
    groups: list[Group] = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
    ]
    return Descent([group for group in groups if group["params"]], momentum=recipe.momentum)
