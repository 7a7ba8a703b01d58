"""Convolutional classifiers, each with the traits of its paper and as few channels and layers as show them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Joined, LayerNorm2d, Pooled, conv, projection

_VGG = {
    "vgg11": "8 P 16 P 32 32 P 64 64 P 64 64 P",
    "vgg16": "8 8 P 16 16 P 32 32 32 P 64 64 64 P 64 64 64 P",
    "vgg19": "8 8 P 16 16 P 32 32 32 32 P 64 64 64 64 P 64 64 64 64 P",
}


def _vgg(configuration: str, *, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for word in _VGG[configuration].split():
        if word == "P":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, int(word), 3, 1, 1)]
        layers += [nn.BatchNorm2d(int(word)), nn.ReLU()] if norm else [nn.ReLU()]
        inputs = int(word)
    head = [nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 5)]
    return nn.Sequential(*layers, *head)


def vgg11() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration A, an eighth of the width, biases, no normalisation."""
    return _vgg("vgg11", norm=False)


def vgg16() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration D, with BatchNormalization."""
    return _vgg("vgg16", norm=True)


def vgg19() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration E, with BatchNormalization."""
    return _vgg("vgg19", norm=True)


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        new = self.conv1(functional.relu(self.norm1(values)))
        return torch.cat([values, self.conv2(functional.relu(self.norm2(new)))], 1)


def densenet() -> nn.Module:
    """Huang et al. 2017: two dense blocks of three layers, growth 8."""
    first = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), *(_DenseLayer(16 + 8 * i, 8) for i in range(3))]
    between = [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1, bias=False), nn.AvgPool2d(2)]
    second = [*(_DenseLayer(20 + 8 * i, 8) for i in range(3)), nn.BatchNorm2d(44), nn.ReLU()]
    return Pooled(nn.Sequential(*first, *between, *second), 44)


def inception() -> nn.Module:
    """Szegedy et al. 2015: four branches, one with pooling, factorised kernels."""

    def block(inputs: int) -> nn.Module:
        narrow = nn.Sequential(
            nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.ReLU(), nn.Conv2d(8, 8, (3, 1), padding=(1, 0)), nn.ReLU()
        )
        return Joined(
            conv(inputs, 8, 1),
            nn.Sequential(conv(inputs, 8, 1), conv(8, 12)),
            nn.Sequential(conv(inputs, 8, 1), narrow),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(inputs, 4, 1)),
        )

    return Pooled(nn.Sequential(conv(3, 12), block(12), nn.MaxPool2d(2), block(32)), 32)


def squeezenet() -> nn.Module:
    """Iandola et al. 2016: fire modules; the classifier is a convolution."""

    def fire(inputs: int, narrow: int, wide: int) -> nn.Module:
        squeeze = nn.Sequential(nn.Conv2d(inputs, narrow, 1), nn.ReLU())
        ones = nn.Sequential(nn.Conv2d(narrow, wide, 1), nn.ReLU())
        threes = nn.Sequential(nn.Conv2d(narrow, wide, 3, 1, 1), nn.ReLU())
        return nn.Sequential(squeeze, Joined(ones, threes))

    stem = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    tail = [nn.Dropout(), nn.Conv2d(48, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*stem, fire(16, 8, 16), fire(32, 8, 24), *tail)


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, 1, 3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(values).permute(0, 2, 3, 1))
        hidden = self.scale * self.narrow(functional.gelu(self.wide(hidden)))
        return values + hidden.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """Liu et al. 2022: depthwise 7 x 7, LayerNormalization, layer scale; images turned channels last."""
    down = nn.Sequential(LayerNorm2d(12), nn.Conv2d(12, 24, 2, 2))
    stem = nn.Sequential(nn.Conv2d(3, 12, 4, 4), LayerNorm2d(12))
    return Pooled(nn.Sequential(stem, _ConvNeXtBlock(12), down, _ConvNeXtBlock(24), LayerNorm2d(24)), 24)


class _RepVggBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.large, self.small = (
            conv(inputs, outputs, 3, stride, act=nn.Identity()),
            projection(inputs, outputs, stride),
        )
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, values: Tensor) -> Tensor:
        total = self.large(values) + self.small(values)
        return functional.relu(total if self.skip is None else total + self.skip(values))


def repvgg() -> nn.Module:
    """Ding et al. 2021, before its branches are merged."""
    blocks = [_RepVggBlock(3, 16, 2), _RepVggBlock(16, 16, 1), _RepVggBlock(16, 32, 2), _RepVggBlock(32, 32, 1)]
    return Pooled(nn.Sequential(*blocks), 32)


class _GroupNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(3, 16, 3, 1, 1), nn.GroupNorm(4, 16)
        self.body, self.norm2 = nn.Conv2d(16, 24, 3, 1, 1), nn.InstanceNorm2d(24, affine=True)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.norm2(self.body(functional.relu(self.norm1(self.stem(images))))))


def groupnorm_net() -> nn.Module:
    """Wu and He 2018: normalised over groups of channels; one layer per image and channel (Ulyanov et al. 2016)."""
    return Pooled(nn.Sequential(_GroupNormBlock(), conv(24, 32), nn.GroupNorm(1, 32)), 32)
