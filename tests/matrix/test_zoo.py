"""Files of other people's exporters: analysed, cut, checked, and still right where there is data to tell."""

import functools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.setting import bare_run, cifar
from tests.matrix.journey import Analysis, analyse, prune
from workers.pipeline import prune as pruned
from workers.prune_spec import PruneSpec, Target
from workers.pruning.graph.load import load

pytestmark = pytest.mark.data

ZOO = (
    "blazeface_front",
    "fastestdet",
    "mnist_cntk",
    "ppocrv3_det",
    "squeezenet_fp16",
    "ultraface_rfb320",
    "winml_cifar10",
    "yolox_nano",
)
DETECTORS = ("ultraface_rfb320", "blazeface_front", "fastestdet", "yolox_nano", "ppocrv3_det")


@functools.cache
def analysed(path: Path) -> Analysis:
    """The analysis of a file."""
    return analyse(load(path))


@pytest.mark.parametrize("name", ZOO)
def test_a_foreign_file_is_cut_to_seventy_percent(data_dir, name) -> None:
    """Every file has something to remove and reaches the target; all that surgery promises holds."""
    analysis = analysed(data_dir / "zoo" / f"{name}.onnx")

    assert analysis.least < 0.1
    prune(analysis, 0.7, seed=1)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_cut_to_half(data_dir, name) -> None:
    """By the norms of its weights; its outputs keep their shapes."""
    analysis = analysed(data_dir / "zoo" / f"{name}.onnx")
    smaller = prune(analysis, 0.5, seed=0)

    assert [value.name for value in analysis.graph.graph.outputs] == [value.name for value in smaller.graph.outputs]


def test_outputs_of_a_detector_are_the_only_reason_for_what_stays(data_dir) -> None:
    """YOLOX: the nine convolutions that give boxes, objectness and classes, and nothing else."""
    frozen = analysed(data_dir / "zoo" / "yolox_nano.onnx").grouping.frozen

    assert 9 == sum(entry.op_type == "Conv" for entry in frozen)
    assert {"Conv"} == {entry.op_type for entry in frozen if "tied to" in entry.reason}


def test_an_open_image_size_is_kept(data_dir) -> None:
    """The text detector takes two sizes before and after."""
    analysis = analysed(data_dir / "zoo" / "ppocrv3_det.onnx")
    smaller = prune(analysis, 0.7, seed=0)
    (before,), (after,) = analysis.graph.graph.inputs, smaller.graph.inputs

    assert list(before.shape) == list(after.shape)
    assert not all(isinstance(length, int) for length in after.shape)
    assert np.isfinite(analysis.full.macs)


def _digits(data_dir: Path, folder: Path) -> Path:
    """5,000 training images of MNIST, and all 10,000 test images to judge by."""
    arrays = np.load(data_dir / "mnist_70000.npz")
    path = folder / "mnist.npz"
    train_x, train_y = arrays["train_x"], arrays["train_y"]
    np.savez(path, x=train_x[:5000], y=train_y[:5000], x_val=arrays["test_x"], y_val=arrays["test_y"])
    return path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["mnist_cntk", "winml_cifar10"])
def test_a_classifier_keeps_its_accuracy(data_dir, tmp_path, name) -> None:
    """At 70 % of the MACs with the defaults: within one point on real test images, pixels as its README says."""
    if name == "mnist_cntk":
        data, preprocessing = _digits(data_dir, tmp_path), {"scale": 1.0, "mean": [0.0], "std": [1.0]}
    else:
        data = cifar(tmp_path, held_out=False)
        preprocessing = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "layout": "NHWC"}
    spec = PruneSpec(target_sets=((Target(metric="flops", ratio=0.7),),), preprocessing=preprocessing, measure=False)
    network = data_dir / "zoo" / f"{name}.onnx"
    result = pruned(spec, network=network, dataset=data, out=tmp_path / "out", run=bare_run())

    assert result["after"]["macs"] <= 0.7 * result["before"]["macs"]
    assert result["after"]["accuracy"] >= result["before"]["accuracy"] - 0.01
