"""Detectors: backbone blocks, pyramids, heads and the arithmetic that turns their outputs into boxes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.matrix.parts import Residual, conv


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


def _leaky(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    return conv(inputs, outputs, kernel, stride, act=nn.LeakyReLU(0.1))


class Yolo3(nn.Module):
    """Redmon and Farhadi 2018: residual backbone, five convolutions a level, boxes from anchors by exp."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(_leaky(3, 8, 3, 2), _leaky(8, 16, 3, 2), self._block(16))
        self.two = nn.Sequential(_leaky(16, 32, 3, 2), self._block(32), self._block(32))
        self.deep, self.shallow = self._five(32, 16), self._five(24, 8)
        self.route = _leaky(16, 8)
        self.heads = nn.ModuleList([self._head(16), self._head(8)])
        self.register_buffer("anchors", torch.tensor([[10.0, 13], [16, 30], [33, 23]]).view(1, 3, 1, 1, 2))

    @staticmethod
    def _block(width: int) -> nn.Module:
        return Residual(nn.Sequential(_leaky(width, width // 2), _leaky(width // 2, width, 3)), act=nn.Identity())

    @staticmethod
    def _five(inputs: int, width: int) -> nn.Module:
        wide = 2 * width
        layers = [_leaky(inputs, width), _leaky(width, wide, 3), _leaky(wide, width), _leaky(width, wide, 3)]
        return nn.Sequential(*layers, _leaky(wide, width))

    @staticmethod
    def _head(width: int) -> nn.Module:
        return nn.Sequential(_leaky(width, 2 * width, 3), nn.Conv2d(2 * width, 21, 1))

    def forward(self, images: Tensor) -> Tensor:
        one = self.one(images)
        deep = self.deep(self.two(one))
        raised = functional.interpolate(self.route(deep), scale_factor=2.0, mode="nearest")
        levels = [deep, self.shallow(torch.cat([raised, one], 1))]
        found = []
        for head, values in zip(self.heads, levels, strict=True):
            raw = head(values)
            batch, _, height, width = raw.shape
            cells = raw.view(batch, 3, 7, height, width).permute(0, 1, 3, 4, 2)
            size = cells[..., 2:4].exp() * self.anchors
            cells = torch.cat([cells[..., :2].sigmoid(), size, cells[..., 4:].sigmoid()], -1)
            found.append(cells.reshape(batch, -1, 7))
        return torch.cat(found, 1)


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
    def __init__(self, block: type[nn.Module], top: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.one = _silu(3, 8, 3, 2), nn.Sequential(_silu(8, 16, 3, 2), block(16, 16))
        self.two = nn.Sequential(_silu(16, 32, 3, 2), block(32, 32), SPPF(32) if top is None else top)
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


class C3k2(nn.Module):
    """YOLO11: C2f whose inner parts are C3 blocks with kernels of 3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.first, self.join = _silu(inputs, 2 * half), _silu(3 * half, outputs)
        self.inner = C3(half, half)

    def forward(self, values: Tensor) -> Tensor:
        left, right = self.first(values).chunk(2, 1)
        return self.join(torch.cat([left, right, self.inner(right)], 1))


class _PlaceAttention(nn.Module):
    """YOLO11: attention whose keys are half as long as its values, with a depthwise convolution of the values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.keys = self.size // 2
        self.joint = conv(width, width + 2 * self.keys * heads, 1, act=nn.Identity())
        self.places = conv(width, width, 3, groups=width, act=nn.Identity())
        self.out = conv(width, width, 1, act=nn.Identity())

    def forward(self, values: Tensor) -> Tensor:
        batch, channels, height, width = values.shape
        joint = self.joint(values).view(batch, self.heads, 2 * self.keys + self.size, height * width)
        query, key, value = joint.split([self.keys, self.keys, self.size], 2)
        weights = (query.transpose(-2, -1) @ key * self.keys**-0.5).softmax(-1)
        mixed = (value @ weights.transpose(-2, -1)).view(batch, channels, height, width)
        return self.out(mixed + self.places(value.reshape(batch, channels, height, width)))


class C2PSA(nn.Module):
    """YOLO11: half of the channels pass, the other half goes through attention and a small network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.first, self.join = _silu(width, width), _silu(width, width)
        self.attention = Residual(_PlaceAttention(half, 2), act=nn.Identity())
        self.mlp = Residual(
            nn.Sequential(_silu(half, 2 * half), conv(2 * half, half, 1, act=nn.Identity())), act=nn.Identity()
        )

    def forward(self, values: Tensor) -> Tensor:
        left, right = self.first(values).chunk(2, 1)
        return self.join(torch.cat([left, self.mlp(self.attention(right))], 1))


def _classes11(inputs: int) -> nn.Module:
    depthwise = conv(inputs, inputs, 3, groups=inputs, act=nn.SiLU())
    return nn.Sequential(depthwise, _silu(inputs, 16), nn.Conv2d(16, 2, 1))


class Yolo11(Yolo8):
    """C3k2 blocks, attention behind the pyramid's top, depthwise convolutions in the class branch."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = _Neck(C3k2, top=nn.Sequential(SPPF(32), C2PSA(32)))
        self.classes = nn.ModuleList(_classes11(width) for width in (16, 32))


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
