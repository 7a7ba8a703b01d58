"""Pieces that many networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, act: nn.Module | None = None):
    """Convolution, BatchNormalization and an activation, ReLU if none is given."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU() if act is None else act,
    )


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Shortcut with weights (He et al. 2016, option B)."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Body plus shortcut, then an activation."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()
        self.act = nn.ReLU() if act is None else act

    def forward(self, values: Tensor) -> Tensor:
        return self.act(self.body(values) + self.shortcut(values))


class Joined(nn.Module):
    """Branches side by side, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat([branch(values) for branch in self.branches], 1)


class Pooled(nn.Module):
    """Features, global average, linear classifier."""

    def __init__(self, features: nn.Module, width: int, num_classes: int = 5) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.adaptive_avg_pool2d(self.features(images), 1).flatten(1))


class SqueezeExcite(nn.Module):
    """Channels scaled by a small network that looks at all of them (Hu et al. 2018)."""

    def __init__(self, width: int, hidden: int, gate: nn.Module) -> None:
        super().__init__()
        self.squeeze, self.excite, self.gate = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1), gate

    def forward(self, values: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(values, 1)
        return values * self.gate(self.excite(functional.relu(self.squeeze(pooled))))


def shuffled(values: Tensor, groups: int) -> Tensor:
    """Interleave the groups of channels (Zhang et al. 2018)."""
    batch, channels, height, width = values.shape
    values = values.view(batch, groups, channels // groups, height, width).transpose(1, 2)
    return values.reshape(batch, channels, height, width)


class LayerNorm2d(nn.Module):
    """LayerNormalization over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
