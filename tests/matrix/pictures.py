"""Detectors, segmenters and other networks that give maps instead of classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Residual, conv


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


class RetinaNet(nn.Module):
    """Lin et al. 2017: a feature pyramid and one head that is applied to every level."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv(3, 8, 3, 2), conv(8, 16, 3, 2), conv(16, 24, 3, 2)])
        self.sides = nn.ModuleList([nn.Conv2d(width, 16, 1) for width in (8, 16, 24)])
        self.smooth = nn.ModuleList([nn.Conv2d(16, 16, 3, 1, 1) for _ in range(3)])
        self.classes = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 6, 3, 1, 1))
        self.boxes = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = []
        for stage in self.stages:
            images = stage(images)
            levels.append(images)
        pyramid = [side(level) for side, level in zip(self.sides, levels, strict=True)]
        for index in (1, 0):
            pyramid[index] = pyramid[index] + functional.interpolate(pyramid[index + 1], scale_factor=2.0)
        pyramid = [smooth(level) for smooth, level in zip(self.smooth, pyramid, strict=True)]
        classes = [self.classes(level).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 3) for level in pyramid]
        boxes = [self.boxes(level).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4) for level in pyramid]
        return torch.cat(classes, 1), torch.cat(boxes, 1)


def _silu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    return conv(inputs, outputs, kernel, stride, act=nn.SiLU())


def _inner(width: int) -> nn.Module:
    return Residual(nn.Sequential(_silu(width, width, 1), _silu(width, width, 3)), act=nn.Identity())


class C3(nn.Module):
    """YOLOv5: two paths of half the width, one of them with bottlenecks, joined."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left, self.right, self.join = _silu(inputs, half), _silu(inputs, half), _silu(2 * half, outputs)
        self.inner = _inner(half)

    def forward(self, values: Tensor) -> Tensor:
        return self.join(torch.cat([self.inner(self.left(values)), self.right(values)], 1))


class C2f(nn.Module):
    """YOLOv8: the first convolution is split in two, every bottleneck adds a part, all parts are joined."""

    def __init__(self, inputs: int, outputs: int, count: int = 2) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.join = _silu(inputs, 2 * half), _silu((2 + count) * half, outputs)
        self.inner = nn.ModuleList(_inner(half) for _ in range(count))

    def forward(self, values: Tensor) -> Tensor:
        parts = list(self.first(values).chunk(2, 1))
        for inner in self.inner:
            parts.append(inner(parts[-1]))
        return self.join(torch.cat(parts, 1))


class SPPF(nn.Module):
    """Pooling three times in a row, all steps joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow, self.join, self.pool = _silu(width, width // 2), _silu(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, values: Tensor) -> Tensor:
        parts = [self.narrow(values)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.join(torch.cat(parts, 1))


class _Neck(nn.Module):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.stem, self.one = _silu(3, 8, 3, 2), nn.Sequential(_silu(8, 16, 3, 2), block(16, 16))
        self.two = nn.Sequential(_silu(16, 32, 3, 2), block(32, 32), SPPF(32))
        self.up, self.down = block(48, 16), _silu(16, 16, 3, 2)
        self.out = block(48, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        one = self.one(self.stem(images))
        two = self.two(one)
        raised = self.up(torch.cat([functional.interpolate(two, scale_factor=2.0), one], 1))
        return [raised, self.out(torch.cat([self.down(raised), two], 1))]


class Yolo5(nn.Module):
    """C3 blocks; the head gives 3 anchors x (box, objectness, 2 classes) per cell, decoded on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = _Neck(C3)
        self.heads = nn.ModuleList([nn.Conv2d(16, 21, 1), nn.Conv2d(32, 21, 1)])

    def forward(self, images: Tensor) -> Tensor:
        found = []
        for head, values in zip(self.heads, self.neck(images), strict=True):
            raw = head(values)
            batch, _, height, width = raw.shape
            cells = raw.view(batch, 3, 7, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            centre, size, rest = cells.split((2, 2, 3), 4)
            found.append(torch.cat([centre * 2 - 0.5, (size * 2) ** 2, rest], 4).reshape(batch, -1, 7))
        return torch.cat(found, 1)


class Yolo8(nn.Module):
    """C2f blocks; boxes as distributions over 4 distances per side, read by a fixed convolution after a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = _Neck(C2f)
        self.boxes = nn.ModuleList(nn.Sequential(_silu(w, 16, 3), nn.Conv2d(16, 16, 1)) for w in (16, 32))
        self.classes = nn.ModuleList(nn.Sequential(_silu(w, 16, 3), nn.Conv2d(16, 2, 1)) for w in (16, 32))
        self.expected = nn.Conv2d(4, 1, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        levels = [
            torch.cat([boxes(values), classes(values)], 1).flatten(2)
            for values, boxes, classes in zip(self.neck(images), self.boxes, self.classes, strict=True)
        ]
        boxes, classes = torch.cat(levels, 2).split((16, 2), 1)
        batch, _, cells = boxes.shape
        distances = self.expected(boxes.view(batch, 4, 4, cells).transpose(2, 1).softmax(1)).view(batch, 4, cells)
        low, high = distances.chunk(2, 1)
        return torch.cat([(low + high) / 2, high - low, classes.sigmoid()], 1)


class Ssd(nn.Module):
    """Liu et al. 2016: L2-normalised first level, a box and a class convolution per level."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = conv(3, 12, 3, 2), conv(12, 24, 3, 2), conv(24, 24, 3, 2)
        self.scale = nn.Parameter(torch.full((1, 24, 1, 1), 20.0))
        self.boxes = nn.ModuleList([nn.Conv2d(24, 8, 3, 1, 1), nn.Conv2d(24, 8, 3, 1, 1)])
        self.classes = nn.ModuleList([nn.Conv2d(24, 6, 3, 1, 1), nn.Conv2d(24, 6, 3, 1, 1)])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        first = self.two(self.one(images))
        levels = [first / first.pow(2).sum(1, keepdim=True).sqrt().clamp(min=1e-6) * self.scale, self.three(first)]
        boxes = [b(v).permute(0, 2, 3, 1).flatten(1) for b, v in zip(self.boxes, levels, strict=True)]
        classes = [c(v).permute(0, 2, 3, 1).flatten(1) for c, v in zip(self.classes, levels, strict=True)]
        scores = torch.cat(classes, 1).reshape(images.shape[0], -1, 3).softmax(2)
        return torch.cat(boxes, 1).reshape(images.shape[0], -1, 4), scores


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
