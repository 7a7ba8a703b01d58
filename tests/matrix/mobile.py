"""Networks for telephones: depthwise convolutions, shuffles, cheap copies, one with attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Pooled, Residual, SqueezeExcite, conv, shuffled
from tests.matrix.sequences import JointAttention, Mlp


def mobilenet_v1() -> nn.Module:
    """Howard et al. 2017: depthwise, then pointwise."""
    layers = [conv(3, 8, 3, 2)]
    for inputs, outputs, stride in ((8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1)]
    return Pooled(nn.Sequential(*layers), 64)


def _inverted(
    inputs: int,
    hidden: int,
    outputs: int,
    stride: int,
    act: nn.Module,
    *,
    gate: nn.Module | None = None,
    kernel: int = 3,
):
    parts = [conv(inputs, hidden, 1, act=act), conv(hidden, hidden, kernel, stride, hidden, act=act)]
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
    """Tan and Le 2019: SiLU, squeeze-excite in the expanded part, kernels of 3 and 5."""
    act = nn.SiLU()
    blocks = [
        _inverted(8, 32, 16, 2, act, gate=SqueezeExcite(32, 4, nn.Sigmoid())),
        _inverted(16, 64, 16, 1, act, gate=SqueezeExcite(64, 8, nn.Sigmoid()), kernel=5),
    ]
    return Pooled(nn.Sequential(conv(3, 8, 3, 2, act=act), *blocks, conv(16, 64, 1, act=act)), 64)


def _fused(inputs: int, hidden: int, outputs: int, stride: int) -> nn.Module:
    act = nn.SiLU()
    body = nn.Sequential(conv(inputs, hidden, 3, stride, act=act), conv(hidden, outputs, 1, act=nn.Identity()))
    return Residual(body, act=nn.Identity()) if stride == 1 and inputs == outputs else body


def efficientnet_v2() -> nn.Module:
    """Tan and Le 2021: early blocks fused into one convolution, squeeze-excite in the late ones only."""
    act = nn.SiLU()
    early = [Residual(conv(8, 8, act=act), act=nn.Identity()), _fused(8, 32, 12, 2), _fused(12, 48, 12, 1)]
    late = [
        _inverted(12, 48, 16, 2, act, gate=SqueezeExcite(48, 3, nn.Sigmoid())),
        _inverted(16, 64, 16, 1, act, gate=SqueezeExcite(64, 4, nn.Sigmoid())),
    ]
    return Pooled(nn.Sequential(conv(3, 8, 3, 2, act=act), *early, *late, conv(16, 64, 1, act=act)), 64)


def mnasnet() -> nn.Module:
    """Tan et al. 2019, A1: a separable block, inverted residuals of 6 and 3, kernels of 5 with squeeze-excite."""
    act = nn.ReLU()
    separable = nn.Sequential(conv(8, 8, 3, 1, 8), conv(8, 6, 1, act=nn.Identity()))
    blocks = [
        _inverted(6, 36, 10, 2, act),
        _inverted(10, 60, 10, 1, act),
        _inverted(10, 30, 12, 2, act, gate=SqueezeExcite(30, 4, nn.Sigmoid()), kernel=5),
        _inverted(12, 36, 12, 1, act, gate=SqueezeExcite(36, 4, nn.Sigmoid()), kernel=5),
    ]
    return Pooled(nn.Sequential(conv(3, 8, 3, 2), separable, *blocks, conv(12, 40, 1)), 40)


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


class _MobileVitBlock(nn.Module):
    """Convolutions, then attention among equal places of all 2 x 2 patches, then convolutions over both."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.local, self.raise_ = conv(inputs, inputs, act=nn.SiLU()), nn.Conv2d(inputs, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attention, self.mlp = JointAttention(width, 2), Mlp(width, 2 * width)
        self.lower, self.join = conv(width, inputs, 1, act=nn.SiLU()), conv(2 * inputs, inputs, act=nn.SiLU())

    def forward(self, images: Tensor) -> Tensor:
        values = self.raise_(self.local(images))
        batch, width, rows, columns = values.shape
        values = values.reshape(batch * width * rows // 2, 2, columns // 2, 2).transpose(1, 2)
        values = values.reshape(batch, width, rows * columns // 4, 4).transpose(1, 3)
        values = values.reshape(batch * 4, rows * columns // 4, width)
        values = values + self.attention(self.norms[0](values))
        values = self.norms[2](values + self.mlp(self.norms[1](values)))
        values = values.reshape(batch, 4, rows * columns // 4, width).transpose(1, 3)
        values = values.reshape(batch * width * rows // 2, columns // 2, 2, 2).transpose(1, 2)
        return self.join(torch.cat([images, self.lower(values.reshape(batch, width, rows, columns))], 1))


def mobilevit() -> nn.Module:
    """Mehta and Rastegari 2022: inverted residuals, then transformers over unfolded patches."""
    act = nn.SiLU()
    stem = [conv(3, 8, 3, 2, act=act), _inverted(8, 32, 12, 2, act)]
    return Pooled(nn.Sequential(*stem, _MobileVitBlock(12, 16), conv(12, 40, 1, act=act)), 40)
