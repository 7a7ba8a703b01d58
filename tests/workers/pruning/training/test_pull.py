"""Fine-tuning under a pull: some weights are drawn to anchors, in parts of one schedule."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.methods.tasks import CHAIN
from tests.workers.pruning.seeded import seeded
from workers.pruning.graph.weights import weights
from workers.pruning.training.data import synthetic
from workers.pruning.training.loop import Pull, finetune
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import TensorSpec

SETTINGS = FinetuneSettings(steps=20, batch_size=32)


@pytest.fixture(scope="module")
def graph():
    return seeded(CHAIN)


@pytest.fixture(scope="module")
def data(graph):
    return synthetic(graph, [TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8))], seed=0, num_samples=80)


def pulled(graph, data, strength, part=(0, 1), settings=SETTINGS):
    """How far w1 is from zero after training that draws it there, and the curve of the training."""
    pull = Pull(anchors={"w1": np.zeros_like(weights(graph)["w1"])}, strength=strength, part=part)
    done = finetune(graph, graph, data, settings, run_of(), pull=pull)
    return float(np.linalg.norm(weights(done.graph)["w1"])), done


def test_a_pull_brings_weights_towards_their_anchors(graph, data):
    """The stronger the pull, the nearer the weights; those that no anchor names are not drawn."""
    start = float(np.linalg.norm(weights(graph)["w1"]))
    weak, strong = (pulled(graph, data, strength)[0] for strength in (0.1, 3.0))

    assert strong < weak < start


def test_what_was_pulled_is_kept_though_the_loss_rose(graph, data):
    """A network that answers as the original can only lose by a pull, and is not put back."""
    _, done = pulled(graph, data, 1.0)

    assert done.loss_after > done.loss_before
    assert done.graph is not graph


def test_parts_make_one_schedule(graph, data):
    """The second of two parts starts at the middle of the cosine: half the rate, falling to zero."""
    settings = replace(SETTINGS, learning_rate=0.01)
    first = [point.learning_rate for point in pulled(graph, data, 1.0, (0, 2), settings)[1].curve]
    second = [point.learning_rate for point in pulled(graph, data, 1.0, (1, 2), settings)[1].curve]

    assert first[0] == pytest.approx(0.01)
    assert second[0] == pytest.approx(0.005)
    assert [*first, *second] == sorted([*first, *second], reverse=True)
    assert second[-1] < 1e-3
