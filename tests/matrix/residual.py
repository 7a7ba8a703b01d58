"""Residual classifiers: with projections, with padded shortcuts, wide, grouped, normalised first."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Pooled, Residual, SqueezeExcite, conv, projection


class _ZeroPadded(nn.Module):
    def __init__(self, added: int, step: int = 2) -> None:
        super().__init__()
        self.added, self.step = added, step

    def forward(self, values: Tensor) -> Tensor:
        before = self.added // 2
        values = values[:, :, :: self.step, :: self.step]
        return functional.pad(values, (0, 0, 0, 0, before, self.added - before))


def _stages(block, widths, repeats, *, padded: bool) -> list[nn.Module]:
    """Blocks of all stages; the first of each but the first stage halves the image and changes the width."""
    layers: list[nn.Module] = []
    for before, width in pairwise((widths[0], *widths)):
        for repeat in range(repeats):
            changes = repeat == 0 and width != before
            kept = _ZeroPadded(width - before) if padded else projection(before, width, 2)
            layers.append(block(before, width, 2, kept) if changes else block(width, width, 1, None))
    return layers


def _basic(inputs: int, outputs: int, stride: int, shortcut: nn.Module | None) -> nn.Module:
    body = nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, act=nn.Identity()))
    return Residual(body, shortcut)


def _resnet18(*, padded: bool) -> nn.Module:
    stem = [conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return Pooled(nn.Sequential(*stem, *_stages(_basic, (8, 16, 32, 64), 2, padded=padded)), 64)


def resnet18() -> nn.Module:
    """He et al. 2016: stem with pooling, two basic blocks a stage, projections."""
    return _resnet18(padded=False)


def resnet18_padded() -> nn.Module:
    """The same with shortcuts without weights (option A): zeros for new channels."""
    return _resnet18(padded=True)


def _bottleneck(inputs: int, hidden: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Module:
    body = nn.Sequential(
        conv(inputs, hidden, 1), conv(hidden, hidden, 3, stride, groups), conv(hidden, outputs, 1, act=nn.Identity())
    )
    same = inputs == outputs and stride == 1
    return Residual(body, None if same else projection(inputs, outputs, stride))


def _wide_bottleneck(inputs: int, outputs: int, stride: int, shortcut: nn.Module | None) -> nn.Module:
    hidden = outputs // 4
    body = nn.Sequential(
        conv(inputs, hidden, 1), conv(hidden, hidden, 3, stride), conv(hidden, outputs, 1, act=nn.Identity())
    )
    return Residual(body, shortcut)


def _resnet50(*, padded: bool) -> nn.Module:
    first = [conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1)]
    wider = _ZeroPadded(24, step=1) if padded else projection(8, 32, 1)
    first.append(_wide_bottleneck(8, 32, 1, wider))
    return Pooled(nn.Sequential(*first, *_stages(_wide_bottleneck, (32, 64, 96), 2, padded=padded)), 96)


def resnet50() -> nn.Module:
    """He et al. 2016: bottlenecks of expansion 4, projections."""
    return _resnet50(padded=False)


def resnet50_padded() -> nn.Module:
    """Bottlenecks with shortcuts without weights (option A)."""
    return _resnet50(padded=True)


def resnet20() -> nn.Module:
    """He et al. 2016 for CIFAR: shortcuts without weights (option A)."""
    return Pooled(nn.Sequential(conv(3, 8), *_stages(_basic, (8, 16, 32), 3, padded=True)), 32)


def resnet56() -> nn.Module:
    """He et al. 2016 for CIFAR: nine blocks a stage, projections, a quarter of the width."""
    return Pooled(nn.Sequential(conv(3, 4), *_stages(_basic, (4, 8, 16), 9, padded=False)), 16)


def resnet56_padded() -> nn.Module:
    """He et al. 2016 for CIFAR: nine blocks a stage, shortcuts without weights (option A)."""
    return Pooled(nn.Sequential(conv(3, 4), *_stages(_basic, (4, 8, 16), 9, padded=True)), 16)


class _PreActivation(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, values: Tensor) -> Tensor:
        ready = functional.relu(self.norm1(values))
        shortcut = values if self.project is None else self.project(ready)
        return self.conv2(self.dropout(functional.relu(self.norm2(self.conv1(ready))))) + shortcut


def preactivation_resnet() -> nn.Module:
    """He et al. 2016b: normalisation and activation in front of the convolutions."""
    blocks = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), _PreActivation(8, 8, 1), _PreActivation(8, 16, 2)]
    return Pooled(nn.Sequential(*blocks, _PreActivation(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()), 16)


def wide_resnet() -> nn.Module:
    """Zagoruyko and Komodakis 2016: few pre-activation blocks, 4 times as wide, dropout between convolutions."""
    blocks = [nn.Conv2d(3, 4, 3, 1, 1, bias=False), _PreActivation(4, 16, 1, 0.3), _PreActivation(16, 16, 1, 0.3)]
    blocks += [_PreActivation(16, 32, 2, 0.3), _PreActivation(32, 32, 1, 0.3)]
    return Pooled(nn.Sequential(*blocks, nn.BatchNorm2d(32), nn.ReLU()), 32)


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
    two = Residual(_RegNetBody(16, 32, 2), projection(16, 32, 2))
    return Pooled(nn.Sequential(conv(3, 16), one, two), 32)
