"""Real exports: loaded, run, counted, compared with ONNX Runtime."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.workers.pruning.graph.single import run_reference
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import input_specs, load
from workers.pruning.graph.save import to_bytes

pytestmark = pytest.mark.data

QUICK = [
    *(f"resnet20_cifar10_{kind}" for kind in ("dynamo_bn", "dynamo_bnfolded", "legacy_bn", "legacy_bnfolded")),
    "resnet56_cifar10_dynamo_bn",
    "crackcnn_brickwork_dynamo_bn",
]
LONG = [
    *(f"resnet{depth}_cifar10_dynamo_{kind}" for depth in (32, 44) for kind in ("bn", "bnfolded")),
    *(f"resnet56_cifar10_{kind}" for kind in ("dynamo_bnfolded", "legacy_bn", "legacy_bnfolded")),
    "resnet56_cifar10jpeg_legacy_bn",
    "resnet56_cifar10jpeg_dynamo_bnfolded",
    *(f"crackcnn_brickwork_{kind}" for kind in ("dynamo_bnfolded", "legacy_bn")),
]
CIFAR = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
# Pixels 0..255 where that is what the network was trained on: YOLOX on noise around zero is so ill-conditioned that
# both runtimes differ from a run in double precision by 1e-4.
ZOO = {
    "ultraface_rfb320": (1.0, 1e-4),
    "fastestdet": (1.0, 1e-4),
    "ppocrv3_det": (1.0, 1e-4),
    "blazeface_front": (1.0, 1e-4),
    "squeezenet_fp16": (1.0, 2e-3),  # computed in single precision here, in half by ONNX Runtime
    "mnist_cntk": (255.0, 1e-4),
    "yolox_nano": (255.0, 1e-4),
    "winml_cifar10": (1.0, 1e-4),
}


def _agree(path, scale: float, tolerance: float) -> None:
    content, loaded = path.read_bytes(), load(path)
    module = GraphModule(loaded).eval()
    (spec,) = input_specs(loaded)
    for batch in (1, 5) if not isinstance(spec.shape[0], int) else (1,):
        free = (batch, 3, 96, 160)
        shape = [axis if isinstance(axis, int) else free[place] for place, axis in enumerate(spec.shape)]
        random = np.random.default_rng(batch)
        x = random.standard_normal(shape) if scale == 1.0 else random.uniform(0, scale, shape)
        x = x.astype(spec.dtype)
        with torch.no_grad():
            outputs = module(torch.from_numpy(x))
        for expected, actual in zip(run_reference(content, {spec.name: x}), outputs, strict=True):
            largest = max(float(np.abs(expected).max()), 1e-3)
            np.testing.assert_allclose(actual.numpy(), expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("name", CIFAR)
def test_an_export_gives_what_onnx_runtime_gives(data_dir, name):
    """Every exporter's form of the networks with verified accuracy, at batch 1 and 5."""
    _agree(data_dir / "models" / f"{name}.onnx", 1.0, 1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_a_network_of_another_exporter_gives_what_onnx_runtime_gives(data_dir, name):
    """pytorch 1.2 to 1.11, PaddlePaddle, tf2onnx, CNTK, caffe2."""
    scale, tolerance = ZOO[name]

    _agree(data_dir / "zoo" / f"{name}.onnx", scale, tolerance)


@pytest.mark.parametrize("depth", [20, 56])
def test_exports_of_one_network_become_alike(data_dir, depth):
    """Unoptimised and legacy exports end with the same layers, and with no constant chain among them."""
    dynamo = load(data_dir / "models" / f"resnet{depth}_cifar10_dynamo_bn.onnx")
    legacy = load(data_dir / "models" / f"resnet{depth}_cifar10_legacy_bn.onnx")
    layers = [Counter(node.op_type for node in network.graph) for network in (dynamo, legacy)]

    for op_type in ("Conv", "BatchNormalization", "Relu", "Add", "Pad", "Gemm"):
        assert layers[0][op_type] == layers[1][op_type]
    for network in layers:
        assert not network.keys() & {"Constant", "Expand", "CastLike", "Shape", "Cast", "ConstantOfShape", "Concat"}
    assert not any(len(node.inputs) > 2 for node in dynamo.graph if node.op_type == "Conv")


@pytest.mark.parametrize("name", ["resnet20_cifar10_dynamo_bn", "resnet20_cifar10_legacy_bn"])
def test_a_loaded_export_is_written_and_read_unchanged(data_dir, name):
    """What is written loads to the same bytes."""
    once = to_bytes(load(data_dir / "models" / f"{name}.onnx"))

    assert to_bytes(load(once)) == once


def test_every_parameter_of_a_real_network_is_trained(data_dir):
    """As many as the checkpoint had: 269,722 (README of the data folder)."""
    module = GraphModule(load(data_dir / "models" / "resnet20_cifar10_dynamo_bn.onnx"))
    module(torch.zeros(2, 3, 32, 32))[0].sum().backward()

    assert sum(parameter.numel() for parameter in module.parameters()) == 269_722
    assert all(parameter.grad is not None for parameter in module.parameters())
