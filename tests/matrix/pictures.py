"""Segmenters and other networks that give maps or embeddings instead of classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import conv


class UNet(nn.Module):
    """Ronneberger et al. 2015: skips joined, one transposed convolution and one bilinear resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(3, 8), conv(8, 16), conv(16, 32)
        self.raise2, self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), conv(32, 16), conv(24, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.down1(images)
        second = self.down2(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        values = self.up2(torch.cat([self.raise2(bottom), second], 1))
        values = functional.interpolate(values, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.up1(torch.cat([values, first], 1)))


class DeepLab(nn.Module):
    """Chen et al. 2018: dilated branches, one of them of the whole image, resized to the size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv(3, 12, 3, 2), conv(12, 24, 3, 2)
        self.rates = nn.ModuleList(nn.Conv2d(24, 8, 3, 1, rate, rate, bias=False) for rate in (1, 2, 4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.whole, self.join = nn.Conv2d(24, 8, 1), conv(32, 16, 1)
        self.low, self.refine, self.head = conv(12, 6, 1), conv(22, 16), nn.Conv2d(16, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        low = self.stem(images)
        deep = self.deep(low)
        maps = [functional.relu(norm(rate(deep))) for rate, norm in zip(self.rates, self.norms, strict=True)]
        whole = functional.relu(self.whole(functional.adaptive_avg_pool2d(deep, 1)))
        maps.append(functional.interpolate(whole, size=deep.shape[2:], mode="bilinear", align_corners=False))
        joined = functional.interpolate(self.join(torch.cat(maps, 1)), size=low.shape[2:], mode="nearest")
        values = self.head(self.refine(torch.cat([joined, self.low(low)], 1)))
        return functional.interpolate(values, size=images.shape[2:], mode="bilinear", align_corners=False)


def espcn() -> nn.Module:
    """Shi et al. 2016: channels become pixels at the end, and once in the middle."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 1, 2), nn.Tanh(), nn.Conv2d(16, 32, 3, 1, 1), nn.Tanh(), nn.PixelShuffle(2),
        nn.Conv2d(8, 12, 3, 1, 1), nn.Tanh(), nn.Conv2d(12, 4, 3, 1, 1), nn.PixelShuffle(2),
    )  # fmt: skip


class TwoInTwoOut(nn.Module):
    """An image and a vector in; a class and a map out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed, self.body = conv(3, 12), nn.Linear(6, 12), conv(12, 16)
        self.map, self.head = nn.Conv2d(16, 2, 1), nn.Linear(16, 5)

    def forward(self, images: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        values = self.body(self.stem(images) + self.embed(facts)[:, :, None, None])
        return self.head(values.mean((2, 3))), self.map(values)


class TwoTower(nn.Module):
    """One encoder for both images; how alike the embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 8, 3, 2), conv(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.project = nn.Linear(16, 12)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        one, two = (functional.normalize(self.project(self.encoder(side))) for side in (left, right))
        return (one * two).sum(1)
