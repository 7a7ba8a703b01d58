"""Convolutional classifiers, each with the traits of its paper and as few channels and layers as show them."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Joined, LayerNorm2d, Pooled, Residual, SqueezeExcite, conv, shuffled


def vgg11() -> nn.Module:
    """Simonyan and Zisserman 2015, configuration A, an eighth of the width, biases, no normalisation."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (8, 0, 16, 0, 32, 32, 0, 64, 64, 0, 64, 64, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU()]
        inputs = width
    head = [nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 5)]
    return nn.Sequential(*layers, *head)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _basic(inputs: int, outputs: int, stride: int = 1, shortcut: nn.Module | None = None) -> nn.Module:
    body = nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, act=nn.Identity()))
    return Residual(body, shortcut)


def resnet18() -> nn.Module:
    """He et al. 2016: stem with pooling, two basic blocks a stage, projections."""
    layers = [conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), _basic(8, 8), _basic(8, 8)]
    for width in (16, 32, 64):
        layers += [_basic(width // 2, width, 2, _projection(width // 2, width, 2)), _basic(width, width)]
    return Pooled(nn.Sequential(*layers), 64)


def _bottleneck(inputs: int, hidden: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Module:
    body = nn.Sequential(
        conv(inputs, hidden, 1), conv(hidden, hidden, 3, stride, groups), conv(hidden, outputs, 1, act=nn.Identity())
    )
    same = inputs == outputs and stride == 1
    return Residual(body, None if same else _projection(inputs, outputs, stride))


def resnet50() -> nn.Module:
    """He et al. 2016: bottlenecks of expansion 4."""
    layers = [conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1)]
    inputs = 8
    for width, repeats in ((8, 2), (16, 2), (24, 2)):
        for repeat in range(repeats):
            layers.append(_bottleneck(inputs, width, 4 * width, 2 if repeat == 0 and width > 8 else 1))
            inputs = 4 * width
    return Pooled(nn.Sequential(*layers), inputs)


class _ZeroPadded(nn.Module):
    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, values: Tensor) -> Tensor:
        before = self.added // 2
        return functional.pad(values[:, :, ::2, ::2], (0, 0, 0, 0, before, self.added - before))


def resnet20() -> nn.Module:
    """He et al. 2016 for CIFAR: shortcuts without weights (option A)."""
    layers = [conv(3, 8), _basic(8, 8), _basic(8, 8)]
    for width in (16, 32):
        layers += [_basic(width // 2, width, 2, _ZeroPadded(width // 2)), _basic(width, width)]
    return Pooled(nn.Sequential(*layers), 32)


class _PreActivation(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, values: Tensor) -> Tensor:
        ready = functional.relu(self.norm1(values))
        shortcut = values if self.project is None else self.project(ready)
        return self.conv2(functional.relu(self.norm2(self.conv1(ready)))) + shortcut


def preactivation_resnet() -> nn.Module:
    """He et al. 2016b: normalisation and activation in front of the convolutions."""
    blocks = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), _PreActivation(8, 8, 1), _PreActivation(8, 16, 2)]
    return Pooled(nn.Sequential(*blocks, _PreActivation(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()), 16)


def resnext() -> nn.Module:
    """Xie et al. 2017: bottlenecks whose middle has 4 groups."""
    return Pooled(nn.Sequential(conv(3, 16), _bottleneck(16, 16, 32, 1, 4), _bottleneck(32, 32, 64, 2, 4)), 64)


class _RegNetBody(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 1), conv(outputs, outputs, 3, stride, outputs // 8)
        self.gate = SqueezeExcite(outputs, 4, nn.Sigmoid())
        self.third = conv(outputs, outputs, 1, act=nn.Identity())

    def forward(self, values: Tensor) -> Tensor:
        return self.third(self.gate(self.second(self.first(values))))


def regnet() -> nn.Module:
    """Radosavovic et al. 2020, Y block: group width 8, squeeze-excite."""
    one = Residual(_RegNetBody(16, 16, 1))
    two = Residual(_RegNetBody(16, 32, 2), _projection(16, 32, 2))
    return Pooled(nn.Sequential(conv(3, 16), one, two), 32)


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


def mobilenet_v1() -> nn.Module:
    """Howard et al. 2017: depthwise, then pointwise."""
    layers = [conv(3, 8, 3, 2)]
    for inputs, outputs, stride in ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1)]
    return Pooled(nn.Sequential(*layers), 64)


def _inverted(inputs: int, hidden: int, outputs: int, stride: int, act: nn.Module, *, gate: nn.Module | None = None):
    parts = [conv(inputs, hidden, 1, act=act), conv(hidden, hidden, 3, stride, hidden, act=act)]
    parts += [gate] if gate is not None else []
    body = nn.Sequential(*parts, conv(hidden, outputs, 1, act=nn.Identity()))
    return Residual(body, act=nn.Identity()) if stride == 1 and inputs == outputs else body


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018: inverted residuals, ReLU6."""
    act = nn.ReLU6()
    blocks = [_inverted(8, 48, 16, 2, act), _inverted(16, 96, 16, 1, act), _inverted(16, 96, 24, 2, act)]
    return Pooled(nn.Sequential(conv(3, 8, act=act), *blocks, conv(24, 64, 1, act=act)), 64)


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019: hard swish, squeeze-excite with a hard sigmoid."""
    act = nn.Hardswish()
    blocks = [
        _inverted(8, 32, 16, 2, act, gate=SqueezeExcite(32, 8, nn.Hardsigmoid())),
        _inverted(16, 64, 16, 1, act, gate=SqueezeExcite(64, 16, nn.Hardsigmoid())),
        _inverted(16, 64, 24, 2, nn.ReLU()),
    ]
    return Pooled(nn.Sequential(conv(3, 8, act=act), *blocks, conv(24, 64, 1, act=act)), 64)


def efficientnet() -> nn.Module:
    """Tan and Le 2019 and 2021: SiLU, squeeze-excite in the expanded part, one fused block of version 2."""
    act = nn.SiLU()
    fused = nn.Sequential(conv(8, 32, act=act), conv(32, 8, 1, act=nn.Identity()))
    blocks = [
        Residual(fused, act=nn.Identity()),
        _inverted(8, 32, 16, 2, act, gate=SqueezeExcite(32, 4, nn.Sigmoid())),
        _inverted(16, 64, 16, 1, act, gate=SqueezeExcite(64, 8, nn.Sigmoid())),
    ]
    return Pooled(nn.Sequential(conv(3, 8, 3, 2, act=act), *blocks, conv(16, 64, 1, act=act)), 64)


class _ShuffleV1(nn.Module):
    def __init__(self, width: int, hidden: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.first = conv(width, hidden, 1, groups=groups)
        self.depthwise = conv(hidden, hidden, 3, groups=hidden, act=nn.Identity())
        self.last = conv(hidden, width, 1, groups=groups, act=nn.Identity())

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.depthwise(shuffled(self.first(values), self.groups))
        return functional.relu(values + self.last(hidden))


def shufflenet_v1() -> nn.Module:
    """Zhang et al. 2018: grouped pointwise convolutions with a shuffle between them."""
    return Pooled(nn.Sequential(conv(3, 24, 3, 2), _ShuffleV1(24, 12, 3), _ShuffleV1(24, 12, 3), conv(24, 32, 1)), 32)


class _ShuffleV2(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        depthwise = conv(half, half, 3, groups=half, act=nn.Identity())
        self.branch = nn.Sequential(conv(half, half, 1), depthwise, conv(half, half, 1))

    def forward(self, values: Tensor) -> Tensor:
        left, right = values.chunk(2, 1)
        return shuffled(torch.cat([left, self.branch(right)], 1), 2)


class _ShuffleV2Down(nn.Module):
    def __init__(self, inputs: int, half: int) -> None:
        super().__init__()
        self.left = nn.Sequential(conv(inputs, inputs, 3, 2, inputs, act=nn.Identity()), conv(inputs, half, 1))
        middle = conv(half, half, 3, 2, half, act=nn.Identity())
        self.right = nn.Sequential(conv(inputs, half, 1), middle, conv(half, half, 1))

    def forward(self, values: Tensor) -> Tensor:
        return shuffled(torch.cat([self.left(values), self.right(values)], 1), 2)


def shufflenet_v2() -> nn.Module:
    """Ma et al. 2018: half of the channels pass, the halves are interleaved."""
    return Pooled(nn.Sequential(conv(3, 8), _ShuffleV2Down(8, 16), _ShuffleV2(32), _ShuffleV2(32), conv(32, 48, 1)), 48)


class _Ghost(nn.Module):
    def __init__(self, inputs: int, outputs: int, act: nn.Module) -> None:
        super().__init__()
        half = (outputs + 1) // 2
        self.outputs = outputs
        self.primary, self.cheap = conv(inputs, half, 1, act=act), conv(half, half, 3, groups=half, act=act)

    def forward(self, values: Tensor) -> Tensor:
        first = self.primary(values)
        return torch.cat([first, self.cheap(first)], 1)[:, : self.outputs]


def ghostnet() -> nn.Module:
    """Han et al. 2020: half of the channels are cheap copies of the other half, with one sliced off."""
    body = nn.Sequential(_Ghost(16, 31, nn.ReLU()), _Ghost(31, 16, nn.Identity()))
    return Pooled(nn.Sequential(conv(3, 16), Residual(body, act=nn.Identity()), conv(16, 32, 1)), 32)


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
            _projection(inputs, outputs, stride),
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
