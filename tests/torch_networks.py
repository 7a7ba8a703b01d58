"""Networks as users have them: defined in torch, exported by both exporters; each export is made once per session."""

import contextlib
import functools
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import DenseNet, Exporter, MobileNetV2, UNet, Vgg16, conv_bn, export, seeded


class ZeroPadded(nn.Module):
    """Shortcut without weights (He et al. 2016, option A): every second pixel, zeros for the new channels."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, values: Tensor) -> Tensor:
        before = self.added // 2
        return functional.pad(values[:, :, ::2, ::2], (0, 0, 0, 0, before, self.added - before))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = shortcut

    def forward(self, values: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(values)) + self.shortcut(values))


class ResNet(nn.Module):
    """Three stages of two blocks, 8, 16 and 32 channels; between stages a projection or zero padding."""

    def __init__(self, *, projection: bool) -> None:
        super().__init__()
        blocks: list[nn.Module] = [conv_bn(3, 8), Block(8, 8, 1, nn.Identity()), Block(8, 8, 1, nn.Identity())]
        for width in (16, 32):
            kept = nn.Sequential(nn.Conv2d(width // 2, width, 1, 2, bias=False), nn.BatchNorm2d(width))
            shortcut = kept if projection else ZeroPadded(width // 2)
            blocks += [Block(width // 2, width, 2, shortcut), Block(width, width, 1, nn.Identity())]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Convolutions whose channels are scaled by a small network that looks at all of them (Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.body = conv_bn(16, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = self.stem(images)
        scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(values.mean((2, 3))))))
        values = values * scale[:, :, None, None]
        return self.head(self.body(values).mean((2, 3)))


class Transformer(nn.Module):
    """Patches, one block of attention with two heads of 8, one MLP of 48, both with LayerNormalization."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.joint, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        values = self.patches(images).flatten(2).transpose(1, 2)
        values = torch.cat([self.token.expand(values.shape[0], -1, -1), values], 1) + self.position
        values = values + self.attention(self.norm1(values))
        values = values + self.narrow(functional.gelu(self.wide(self.norm2(values))))
        return self.head(self.norm3(values)[:, 0])

    def attention(self, values: Tensor) -> Tensor:
        joint = self.joint(values).reshape(values.shape[0], 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(joint[0] @ joint[1].transpose(2, 3) * 8**-0.5, -1)
        return self.out((weights @ joint[2]).transpose(1, 2).reshape(values.shape[0], 17, 16))


class ShuffleNet(nn.Module):
    """One unit of ShuffleNetV2 (Ma et al. 2018): half the channels pass, the halves are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branch = nn.Sequential(
            conv_bn(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), conv_bn(8, 8, 1)
        )
        self.tail = conv_bn(16, 24, 1)
        self.head = nn.Linear(24, 10)

    def forward(self, images: Tensor) -> Tensor:
        left, right = self.stem(images).chunk(2, 1)
        joined = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = joined.shape
        shuffled = joined.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.head(self.tail(shuffled.reshape(batch, channels, height, width)).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg16": Vgg16,
    "mobilenetv2": MobileNetV2,
    "densenet": DenseNet,
    "unet": UNet,
    "resnet_projection": functools.partial(ResNet, projection=True),
    "resnet_padded": functools.partial(ResNet, projection=False),
    "squeeze_excite": SqueezeExcite,
    "transformer": Transformer,
    "shufflenet": ShuffleNet,
}


@functools.cache
def exported(name: str, exporter: Exporter, *, folded: bool) -> bytes:
    """The ONNX file of a network with seeded weights and a dynamic batch, for 32 x 32 images."""
    with contextlib.redirect_stdout(io.StringIO()):
        return export(seeded(NETWORKS[name]), exporter, folded=folded)


@functools.cache
def vgg16_for_224() -> bytes:
    """The 553 MB file of VGG-16 for 224 x 224 images and 1,000 classes, by the legacy exporter, without BN."""
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        return export(Vgg16(1000, 224, 4096, norm=False).eval(), "legacy", folded=True, side=224)
