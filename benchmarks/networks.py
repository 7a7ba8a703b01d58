"""Networks of the usual kinds, defined here, with seeded random weights, exported as users export theirs."""

import io
import logging
import warnings
from collections.abc import Callable
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Exporter = Literal["dynamo", "legacy"]


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNormalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Vgg16(nn.Module):
    """VGG-16 with BatchNormalization (Simonyan and Zisserman 2015, configuration D), for any input side."""

    def __init__(self, num_classes: int = 10, side: int = 32, hidden: int = 512, *, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(
                conv_bn(inputs, width) if norm else nn.Sequential(nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU())
            )
            inputs = width
        self.features = nn.Sequential(*layers)
        flat = 512 * (side // 32) ** 2
        self.head = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        return self.head(torch.flatten(self.features(images), 1))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; the sum where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        parts: list[nn.Module] = []
        if expansion != 1:
            parts += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        parts += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.parts = nn.Sequential(*parts)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, values: Tensor) -> Tensor:
        """Give the values behind this part."""
        return values + self.parts(values) if self.residual else self.parts(values)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, table 2); strides as for small or large inputs."""

    def __init__(self, num_classes: int = 10, side: int = 32) -> None:
        super().__init__()
        small = side < 96
        rows = [(1, 16, 1, 1), (6, 24, 2, 1 if small else 2), (6, 32, 3, 2), (6, 64, 4, 2)]
        rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
        parts: list[nn.Module] = [
            nn.Conv2d(3, 32, 3, 1 if small else 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU6(),
        ]
        inputs = 32
        for expansion, outputs, repeats, stride in rows:
            for repeat in range(repeats):
                parts.append(InvertedResidual(inputs, outputs, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        parts += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
        self.features = nn.Sequential(*parts)
        self.head = nn.Linear(1280, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        return self.head(self.features(images).mean((2, 3)))


class DenseLayer(nn.Module):
    """BatchNormalization, ReLU, convolution twice; the result joins what came in."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Give the values behind this part."""
        new = self.conv1(functional.relu(self.norm1(values)))
        return torch.cat([values, self.conv2(functional.relu(self.norm2(new)))], 1)


class DenseNet(nn.Module):
    """DenseNet-BC (Huang et al. 2017) with three blocks of four layers, growth 12."""

    def __init__(self, num_classes: int = 10, growth: int = 12) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 2 * growth, 3, 1, 1, bias=False)]
        width = 2 * growth
        for block in range(3):
            for _ in range(4):
                parts.append(DenseLayer(width, growth))
                width += growth
            if block < 2:
                parts += [
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                width //= 2
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        return self.head(self.features(images).mean((2, 3)))


class UNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) with two levels, one transposed convolution and one resize; a map per class."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(3, 16), conv_bn(16, 16))
        self.down2 = nn.Sequential(conv_bn(16, 32), conv_bn(32, 32))
        self.bottom = nn.Sequential(conv_bn(32, 64), conv_bn(64, 64))
        self.raise2 = nn.ConvTranspose2d(64, 32, 2, 2)
        self.up2 = nn.Sequential(conv_bn(64, 32), conv_bn(32, 32))
        self.up1 = nn.Sequential(conv_bn(48, 16), conv_bn(16, 16))
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        first = self.down1(images)
        second = self.down2(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        values = self.up2(torch.cat([self.raise2(bottom), second], 1))
        values = functional.interpolate(values, scale_factor=2.0, mode="nearest")
        return self.head(self.up1(torch.cat([values, first], 1)))


NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "vgg16": Vgg16,
    "mobilenetv2": MobileNetV2,
    "densenet": DenseNet,
    "unet": UNet,
}


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build with seeded weights and BatchNormalization statistics that are not the identity."""
    torch.manual_seed(seed)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def export(network: nn.Module, exporter: Exporter, *, folded: bool, side: int = 32, channels: int = 3) -> bytes:
    """Export with a dynamic batch axis, BatchNormalization kept or folded, by the new or the legacy exporter."""
    images = torch.randn(2, channels, side, side)
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                optimize=folded,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            program.save(buffer)
        else:
            training = torch.onnx.TrainingMode
            torch.onnx.export(
                network,
                (images,),
                buffer,
                dynamo=False,
                opset_version=13,
                training=training.EVAL if folded else training.PRESERVE,
                do_constant_folding=folded,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            )
    return buffer.getvalue()
