"""The list of architectures, and their files as torch's two exporters write them."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tests.matrix import classifiers, detectors, mobile, pictures, residual, sequences

Exporter = Literal["legacy", "legacy_bn", "dynamo", "dynamo_bn"]
EXPORTERS: tuple[Exporter, ...] = ("legacy", "legacy_bn", "dynamo", "dynamo_bn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How to build a network and what to feed it: shapes without the batch; a bound makes an input of integers."""

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...] = ((3, 32, 32),)
    below: int | None = None


def _words(build: Callable[[], nn.Module], length: int, below: int, count: int = 1) -> Architecture:
    return Architecture(build=build, inputs=((length,),) * count, below=below)


ARCHITECTURES: dict[str, Architecture] = {
    **{
        name: Architecture(build=getattr(module, name))
        for module, names in (
            (classifiers, "vgg11 vgg16 vgg19 densenet inception squeezenet convnext repvgg groupnorm_net"),
            (residual, "resnet18 resnet18_padded resnet50 resnet50_padded resnet20 resnet56 resnet56_padded"),
            (residual, "preactivation_resnet wide_resnet resnext regnet"),
            (mobile, "mobilenet_v1 mobilenet_v2 mobilenet_v3 efficientnet efficientnet_v2 mnasnet"),
            (mobile, "shufflenet_v1 shufflenet_v2 ghostnet mobilevit"),
        )
        for name in names.split()
    },
    "unet": Architecture(build=pictures.UNet),
    "deeplab": Architecture(build=pictures.DeepLab),
    "retinanet": Architecture(build=detectors.RetinaNet),
    "yolo3": Architecture(build=detectors.Yolo3),
    "yolo5": Architecture(build=detectors.Yolo5),
    "yolo8": Architecture(build=detectors.Yolo8),
    "yolo11": Architecture(build=detectors.Yolo11),
    "ssd": Architecture(build=detectors.Ssd),
    "espcn": Architecture(build=pictures.espcn, inputs=((1, 16, 16),)),
    "two_in_two_out": Architecture(build=pictures.TwoInTwoOut, inputs=((3, 16, 16), (6,))),
    "two_tower": Architecture(build=pictures.TwoTower, inputs=((3, 16, 16), (3, 16, 16))),
    "vit": Architecture(build=sequences.Vit),
    "deit": Architecture(build=sequences.Deit),
    "swin": Architecture(build=sequences.Swin),
    "mixer": Architecture(build=sequences.Mixer),
    "bert": _words(sequences.Bert, 16, 2, 3),
    "gpt": _words(sequences.Gpt, 16, 40),
    "llama": _words(sequences.Llama, 12, 40),
    "audio_cnn": Architecture(build=sequences.audio_cnn, inputs=((1, 128),)),
    "tcn": Architecture(build=sequences.Tcn, inputs=((4, 24),)),
    "pointnet": Architecture(build=sequences.PointNet, inputs=((3, 20),)),
    "lstm_tagger": _words(sequences.Tagger, 8, 30),
}  # fmt: skip


def built(name: str) -> nn.Module:
    """The network with seeded weights, and statistics and scales that are not the identity."""
    torch.manual_seed(7)
    network = ARCHITECTURES[name].build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return network.eval()


def feed(name: str, batch: int) -> tuple[Tensor, ...]:
    """Inputs of an architecture."""
    architecture = ARCHITECTURES[name]
    if architecture.below is not None:
        return tuple(torch.randint(0, architecture.below, (batch, *shape)) for shape in architecture.inputs)
    return tuple(torch.randn(batch, *shape) for shape in architecture.inputs)


@functools.cache
def exported(name: str, exporter: Exporter = "legacy") -> bytes:
    """The file of an architecture with a dynamic batch, BatchNormalization folded or (`_bn`) kept."""
    network = built(name)
    inputs = feed(name, 2)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter.startswith("dynamo"):
            return _dynamo(network, inputs, folded=exporter == "dynamo")
        return _legacy(network, inputs, folded=exporter == "legacy")


def _legacy(network: nn.Module, inputs: tuple[Tensor, ...], *, folded: bool) -> bytes:
    buffer = io.BytesIO()
    names = [f"input{index}" for index in range(len(inputs))]
    training = torch.onnx.TrainingMode
    torch.onnx.export(
        network,
        inputs,
        buffer,
        dynamo=False,
        opset_version=17,
        training=training.EVAL if folded else training.PRESERVE,
        do_constant_folding=folded,
        input_names=names,
        dynamic_axes={name: {0: "batch"} for name in names},
    )
    return buffer.getvalue()


def _dynamo(network: nn.Module, inputs: tuple[Tensor, ...], *, folded: bool) -> bytes:
    buffer = io.BytesIO()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.onnx.export(
        network,
        inputs,
        dynamo=True,
        optimize=folded,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        verbose=False,
    )
    program.save(buffer)
    return buffer.getvalue()
