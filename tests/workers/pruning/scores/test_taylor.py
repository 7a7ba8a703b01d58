"""Taylor scores, against gradients worked out by hand."""

import numpy as np
import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import RESIDUAL, images, loaded
from workers.pruning.errors import InvalidDataset
from workers.pruning.groups.find import find
from workers.pruning.scores.taylor import taylor

PERCEPTRON = """
<ir_version: 8, opset_import: ["" : 17]>
perceptron (float[N, 4] x, float[6, 4] w1, float[6] b1, float[3, 6] w2, float[3] b2) => (float[N, 3] z)
{
  h = Gemm <transB = 1> (x, w1, b1)
  r = Relu (h)
  z = Gemm <transB = 1> (r, w2, b2)
}
"""


def worked_by_hand(labels: np.ndarray, x: np.ndarray) -> np.ndarray:
    """d loss / d gate per sample: relu(h)_c times <w2[:, c], p - e_label>."""
    weights = {name: v.const_value.numpy() for name, v in loaded(PERCEPTRON).graph.initializers.items()}
    r = np.maximum(x @ weights["w1"].T + weights["b1"], 0)
    z = r @ weights["w2"].T + weights["b2"]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return r * ((p - np.eye(3)[labels]) @ weights["w2"])


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def test_the_square_is_taken_of_each_sample(x: np.ndarray) -> None:
    """The score is the mean over samples of the squared gradient."""
    graph, labels = loaded(PERCEPTRON), np.arange(20) % 3
    scores = taylor(graph, find(graph), [[x[:12]], [x[12:]]], [labels[:12], labels[12:]], run=run_of())

    assert scores.source == "taylor_square"
    np.testing.assert_allclose(scores.values, (worked_by_hand(labels, x) ** 2).mean(0), rtol=1e-4)


def test_the_absolute_value_is_taken_of_each_sample(x: np.ndarray) -> None:
    """Gradients of opposite sign do not cancel."""
    graph, labels = loaded(PERCEPTRON), np.arange(20) % 3
    scores = taylor(graph, find(graph), [[x]], [labels], criterion="absolute", run=run_of())

    np.testing.assert_allclose(scores.values, np.abs(worked_by_hand(labels, x)).mean(0), rtol=1e-4)


def test_without_labels_the_networks_own_choice_is_used(x: np.ndarray) -> None:
    """The classes with the largest logits stand in for labels."""
    graph = loaded(PERCEPTRON)
    weights = {name: v.const_value.numpy() for name, v in graph.graph.initializers.items()}
    r = np.maximum(x @ weights["w1"].T + weights["b1"], 0)
    chosen = (r @ weights["w2"].T + weights["b2"]).argmax(1)

    unlabelled = taylor(graph, find(graph), [[x]], run=run_of()).values

    np.testing.assert_allclose(unlabelled, (worked_by_hand(chosen, x) ** 2).mean(0), rtol=1e-4)


def test_labels_that_do_not_fit_are_refused(x: np.ndarray) -> None:
    """Both lengths are in the message."""
    graph = loaded(PERCEPTRON)
    with pytest.raises(InvalidDataset, match=r"found \[3\]; allowed \[20\]"):
        taylor(graph, find(graph), [[x]], [np.zeros(3, np.int64)], run=run_of())


def test_no_data_is_refused() -> None:
    """There is nothing to differentiate."""
    graph = loaded(RESIDUAL)
    with pytest.raises(InvalidDataset, match="need calibration inputs"):
        taylor(graph, find(graph), [[images(0)]], run=run_of())


def test_an_output_that_holds_no_classes_is_refused(x: np.ndarray) -> None:
    """The message points to the score that serves every output."""
    graph = loaded(PERCEPTRON.replace("(float[N, 3] z)", "(float[N, 3] s)").replace("\n}", "\n  s = Sigmoid (z)\n}"))
    with pytest.raises(InvalidDataset, match=r"one score per class; at s\. Use information gain"):
        taylor(graph, find(graph), [[x]], run=run_of())
