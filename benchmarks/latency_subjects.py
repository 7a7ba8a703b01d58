"""The networks whose latency is predicted and aimed at, and random widths of them."""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from benchmarks.networks import MobileNetV2, Vgg16, export, seeded
from benchmarks.setting import data_dir
from workers.pruning.graph.save import to_bytes
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Grouping, Keep


def _file(path: str) -> Callable[[], bytes]:
    return (data_dir() / path).read_bytes


def _built(build: Callable[[], object]) -> Callable[[], bytes]:
    def content() -> bytes:
        with contextlib.redirect_stdout(io.StringIO()):
            return export(seeded(build), "legacy", folded=True)

    return content


SUBJECTS: Final[Mapping[str, Callable[[], bytes]]] = {
    "resnet56": _file("models/resnet56_cifar10_legacy_bnfolded.onnx"),
    "resnet20": _file("models/resnet20_cifar10_legacy_bnfolded.onnx"),
    "mobilenetv2": _built(MobileNetV2),
    "vgg16": _built(Vgg16),
    "ultraface_rfb320": _file("zoo/ultraface_rfb320.onnx"),
    "winml_cifar10": _file("zoo/winml_cifar10.onnx"),
    "fastestdet": _file("zoo/fastestdet.onnx"),
    "mnist_cntk": _file("zoo/mnist_cntk.onnx"),
}


def random_widths(widths: Sequence[int], steps: Sequence[int], share: float, seed: int) -> list[int]:
    """About this share of every group, give or take a third, in multiples of its step."""
    factors = np.random.default_rng([seed, 11]).uniform(2 / 3, 4 / 3, len(widths))
    wanted = (share * float(factor) * width for factor, width in zip(factors, widths, strict=True))
    return [
        min(width, max(1, step * max(1, round(about / step))))
        for about, step, width in zip(wanted, steps, widths, strict=True)
    ]


def at_widths(graph: ir.Model, grouping: Grouping, kept: Sequence[int]) -> bytes:
    """The network with the first so many units of every group: latency depends on widths alone."""
    mask = np.zeros(grouping.num_units, np.bool_)
    for group, width in zip(grouping.groups, kept, strict=True):
        mask[group.start : group.start + width] = True
    return to_bytes(cut(graph, grouping, Keep(mask=mask)))
