"""Other readings of information gain, against figures worked out by hand."""

import numpy as np
import pytest

from tests.workers.pruning.journals import Watch, run_of
from tests.workers.pruning.seeded import RESIDUAL, images, loaded
from workers.pruning.errors import InvalidDataset
from workers.pruning.groups.find import find
from workers.pruning.scores.gain_variants import entropy_gain, exact_gain, linearised_gain
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.types import Phase

PERCEPTRON = """
<ir_version: 8, opset_import: ["" : 17]>
perceptron (float[N, 4] x, float[6, 4] w1, float[6] b1, float[3, 6] w2, float[3] b2) => (float[N, 3] z)
{
  h = Gemm <transB = 1> (x, w1, b1)
  r = Relu (h)
  z = Gemm <transB = 1> (r, w2, b2)
}
"""
MAP = """
<ir_version: 8, opset_import: ["" : 17]>
dense (float[N, 3, 4, 4] x, float[6, 3, 1, 1] w1, float[6] b1, float[4, 6, 1, 1] w2, float[4] b2)
    => (float[N, 4, 4, 4] y)
{
  a = Conv (x, w1, b1)
  r = Relu (a)
  y = Conv (r, w2, b2)
}
"""
VARIANTS = [exact_gain, linearised_gain, entropy_gain]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


def gated(x: np.ndarray, gates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden activations and logits with gates on the hidden units."""
    weights = {name: v.const_value.numpy().astype(float) for name, v in loaded(PERCEPTRON).graph.initializers.items()}
    r = np.maximum(x @ weights["w1"].T + weights["b1"], 0) * gates
    return r, r @ weights["w2"].T + weights["b2"]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_exact_takes_every_direction(x: np.ndarray) -> None:
    """It is 1/2 E J^T (diag(p) - p p^T) J, with J worked out by hand."""
    graph = loaded(PERCEPTRON)
    r, z = gated(x, np.ones(6))
    w2 = graph.graph.initializers["w2"].const_value.numpy()
    p, slope = softmax(z), r[:, None, :] * w2[None]
    expected = 0.5 * ((p[:, :, None] * slope**2).sum(1) - (p[:, :, None] * slope).sum(1) ** 2).mean(0)
    scores = exact_gain(graph, find(graph), [[x]], run=run_of())

    assert scores.source == "information_gain_exact"
    np.testing.assert_allclose(scores.values, expected, rtol=1e-3)


def test_linearised_is_the_divergence_of_shifted_logits(x: np.ndarray) -> None:
    """In a network that is linear behind its gates, z - J is removal itself, so the score is the true divergence."""
    graph = loaded(PERCEPTRON)
    p = softmax(gated(x, np.ones(6))[1])
    expected = []
    for unit in range(6):
        gates = np.ones(6)
        gates[unit] = 0
        expected.append((p * (np.log(p) - np.log(softmax(gated(x, gates)[1])))).sum(1).mean())
    scores = linearised_gain(graph, find(graph), [[x[:12]], [x[12:]]], run=run_of())

    np.testing.assert_allclose(scores.values, expected, rtol=1e-4, atol=1e-7)


def test_entropy_is_the_slope_of_the_uncertainty(x: np.ndarray) -> None:
    """The mean absolute derivative of the entropy, by central differences."""
    graph = loaded(PERCEPTRON)

    def entropy(unit: int, gate: float) -> np.ndarray:
        gates = np.ones(6)
        gates[unit] = gate
        p = softmax(gated(x, gates)[1])
        return -(p * np.log(p)).sum(1)

    expected = [np.abs((entropy(unit, 1 + 1e-5) - entropy(unit, 1 - 1e-5)) / 2e-5).mean() for unit in range(6)]
    scores = entropy_gain(graph, find(graph), [[x]], run=run_of())

    np.testing.assert_allclose(scores.values, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("variant", [exact_gain, linearised_gain])
def test_readings_order_units_alike(variant) -> None:
    """Rank correlation with the default's exact form is above 0.9 on a residual network."""
    graph, x = loaded(RESIDUAL), images(32)
    grouping = find(graph)
    default = information_gain(graph, grouping, [[x]], probes=64, run=run_of()).values
    other = variant(graph, grouping, [[x]], run=run_of()).values
    first, second = (np.argsort(np.argsort(values)) for values in (default, other))

    assert np.corrcoef(first, second)[0, 1] > 0.9


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_without_class_scores_are_refused(variant) -> None:
    """The message names the output and the reading that serves it."""
    graph = loaded(MAP)
    with pytest.raises(InvalidDataset, match=r"at y.*Use the default, half_fisher"):
        variant(graph, find(graph), [[np.ones((2, 3, 4, 4), np.float32)]], run=run_of())


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_data_is_refused(variant) -> None:
    """The message says how many samples there were."""
    graph = loaded(RESIDUAL)
    with pytest.raises(InvalidDataset, match="found 0; allowed at least 1"):
        variant(graph, find(graph), [], run=run_of())


@pytest.mark.parametrize("variant", VARIANTS)
def test_progress_ends_at_one(variant) -> None:
    """The scoring phase is reported and complete."""
    watch, graph = Watch(), loaded(RESIDUAL)
    variant(graph, find(graph), [[images(4)]] * 2, run=run_of(report=watch))

    assert {phase for phase, *_ in watch.heard} == {Phase.SCORE}
    assert watch.heard[-1][1] == 1.0
