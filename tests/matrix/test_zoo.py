"""Files of other people's exporters: analysed, cut, checked, and still right where there is data to tell."""

import functools
from pathlib import Path

import numpy as np
import pytest

from tests.matrix.journey import Analysis, analyse, prune
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
