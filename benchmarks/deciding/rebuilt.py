"""The networks of the checkpoints as torch modules, for tools that prune modules and no ONNX files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import conv_bn


class CifarBlock(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, values: Tensor) -> Tensor:
        """Give the values behind this part."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(values)))))
        shortcut = values[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return functional.relu(inner + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32 x 32 images (He et al. 2016, section 4.2, option A), names as in the checkpoints."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        per_stage, width = (depth - 2) // 6, 16
        for number, outputs in enumerate((16, 32, 64), start=1):
            blocks = []
            for _ in range(per_stage):
                blocks.append(CifarBlock(width, outputs, 1 if width == outputs else 2))
                width = outputs
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        values = functional.relu(self.bn1(self.conv1(images)))
        values = self.layer3(self.layer2(self.layer1(values)))
        return self.linear(values.mean((2, 3)))


class SmallConvNet(nn.Module):
    """Four convolutions and two linear layers: the kind of network that is trained from nothing in minutes."""

    def __init__(self, channels: int, side: int, widths: tuple[int, int], hidden: int) -> None:
        super().__init__()
        first, second = widths
        self.features = nn.Sequential(
            conv_bn(channels, first),
            conv_bn(first, first),
            nn.MaxPool2d(2),
            conv_bn(first, second),
            conv_bn(second, second),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Linear(second * (side // 4) ** 2, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Give the outputs of a batch of images."""
        return self.head(torch.flatten(self.features(images), 1))


def with_weights(network: nn.Module, source: Path) -> nn.Module:
    """Fill a module from a safetensors file, or from the initializers of an ONNX file that kept their names."""
    held: Mapping[str, Tensor] = load_file(source) if source.suffix == ".safetensors" else _initializers(source)
    wanted = network.state_dict()
    counters = {name: wanted[name] for name in wanted if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **{name: held[name] for name in wanted if name not in counters}})
    return network.eval()


def _initializers(path: Path) -> dict[str, Tensor]:
    values = ir.load(path).graph.initializers
    return {
        name: torch.from_numpy(np.array(value.const_value.numpy()))
        for name, value in values.items()
        if value.const_value is not None
    }
