"""Real networks at half their multiply-adds, repaired without training: accuracy on held-out images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from tests.workers.pruning.journals import run_of
from workers.pruning.allocation.rank import allocate
from workers.pruning.compensation.batch_statistics import channel_statistics
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.graph.cost import count
from workers.pruning.graph.load import load
from workers.pruning.graph.renormalise import fold, insert, to_insert
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Budget, Keep, Metric, Scores

pytestmark = pytest.mark.data
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def normalised(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(((pixels.astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def held_out(data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 1,000 lossless test images."""
    archive = np.load(data_dir / "cifar10_lossless_5000.npz")
    return normalised(archive["test_x"]), archive["test_y"]


@pytest.fixture(scope="module")
def calibration(data_dir: Path) -> list[list[np.ndarray]]:
    """512 of the 4,000 lossless training images, without labels."""
    pixels = np.load(data_dir / "cifar10_lossless_5000.npz")["train_x"]
    chosen = normalised(pixels[np.random.default_rng(0).permutation(len(pixels))[:512]])
    return [[part] for part in np.array_split(chosen, 8)]


def accuracy(graph: ir.Model, held_out: tuple[np.ndarray, np.ndarray]) -> float:
    """Percent of the held-out images that ONNX Runtime classifies correctly."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    images, labels = held_out
    right = [
        session.run(None, {"input": images[start : start + 100]})[0].argmax(1) == labels[start : start + 100]
        for start in range(0, len(images), 100)
    ]
    return float(100 * np.concatenate(right).mean())


def halved(graph: ir.Model, batches: Sequence[Sequence[np.ndarray]]) -> tuple[Scores, Keep, ir.Model]:
    """Scores, what stays and the cut network at half the multiply-adds, by information gain per multiply-add."""
    grouping = find(graph)
    scores = information_gain(graph, grouping, batches, probes=4, run=run_of())
    budget = Budget(metric=Metric.MACS, limit=0.5 * count(graph).macs)
    keep = allocate(scores, grouping, cost_model(graph, grouping), [budget], alpha=1.0, round_to=1)
    return scores, keep, cut(graph, grouping, keep)


def test_resnet20_at_half_its_work(
    data_dir: Path, held_out: tuple[np.ndarray, np.ndarray], calibration: list[list[np.ndarray]]
) -> None:
    """Repair brings ResNet-20 within 8 points of the original where the cut alone costs more than 20."""
    graph = load(data_dir / "models" / "resnet20_cifar10_legacy_bn.onnx")
    _, keep, smaller = halved(graph, calibration[:2])
    repaired = compensate(graph, smaller, find(graph), keep, calibration, run=run_of())
    original = accuracy(graph, held_out)

    assert original == pytest.approx(91.5, abs=0.1)  # measured when the checkpoint was collected
    assert accuracy(smaller, held_out) < original - 20
    assert accuracy(repaired, held_out) > original - 8


def test_normalisation_put_back_into_a_folded_resnet20_changes_nothing(
    data_dir: Path, held_out: tuple[np.ndarray, np.ndarray], calibration: list[list[np.ndarray]]
) -> None:
    """All 19 convolutions get a BatchNormalization, the accuracy stays, and folding leaves none."""
    graph = load(data_dir / "models" / "resnet20_cifar10_dynamo_bnfolded.onnx")
    names = to_insert(graph)
    inserted = insert(graph, channel_statistics(graph, names, calibration[:2], run_of()))
    folded = fold(inserted)

    assert len(names) == 19
    assert accuracy(inserted, held_out) == pytest.approx(accuracy(graph, held_out), abs=0.11)
    assert [node.op_type for node in folded.graph] == [node.op_type for node in graph.graph]
    for name, value in graph.graph.initializers.items():
        expected = value.const_value.numpy()
        np.testing.assert_allclose(folded.graph.initializers[name].const_value.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("export", ["legacy_bn", "legacy_bnfolded", "dynamo_bn", "dynamo_bnfolded"])
def test_resnet56_at_half_its_work_loses_less_than_four_points(
    export: str, data_dir: Path, held_out: tuple[np.ndarray, np.ndarray], calibration: list[list[np.ndarray]]
) -> None:
    """Without training, every export of ResNet-56 stays within 4 points of its accuracy."""
    graph = load(data_dir / "models" / f"resnet56_cifar10_{export}.onnx")
    _, keep, smaller = halved(graph, calibration)
    repaired = compensate(graph, smaller, find(graph), keep, calibration, run=run_of())

    assert count(repaired).macs <= 0.5 * count(graph).macs
    assert accuracy(repaired, held_out) > accuracy(graph, held_out) - 4
