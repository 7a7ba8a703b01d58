"""The optimiser that fine-tuning and dynamic pruning share."""

import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.training.recipe import Recipe


def optimizer_of(network: GraphModule, recipe: Recipe) -> torch.optim.SGD:
    """Give SGD with Nesterov momentum; only matrices and filters decay, not biases and norms."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.SGD(filled, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
