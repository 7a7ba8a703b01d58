"""Information gain: the Fisher information of gates, against divergences that are computed outright."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.workers.pruning.journals import Watch, run_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL, images, loaded
from workers.pruning.errors import InvalidDataset, NonFiniteScore, NothingToPrune
from workers.pruning.graph.execute import GraphModule
from workers.pruning.groups.find import find
from workers.pruning.scores.collect import find_sites, gate_edits
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.scores.output import Kind
from workers.pruning.types import Phase

HEADS = """
<ir_version: 8, opset_import: ["" : 17]>
heads (float[N, 4] x, float[6, 4] w1, float[6] b1, float[3, 6] w2, float[3] b2)
    => (float[N, 3] %s)
{
  h = Gemm <transB = 1> (x, w1, b1)
  r = Relu (h)
  z = Gemm <transB = 1> (r, w2, b2)
  p = Softmax <axis = 1> (z)
  l = LogSoftmax <axis = 1> (z)
  s = Sigmoid (z)
}
"""
TWO = HEADS.replace("(float[N, 3] %s)", "(float[N, 3] p, float[N, 3] s)")


def gated_logits(graph: ir.Model, x: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """What the network answers when the same gates act on every sample."""
    grouping = find(graph)
    rows = torch.from_numpy(np.tile(gates.astype(np.float32), (len(x), 1)))
    module = GraphModule(graph, trainable=False).eval()
    with torch.no_grad():
        (out,) = module.run([torch.from_numpy(x)], edits=gate_edits(find_sites(graph, grouping), rows))
    return out.double().numpy()


def divergence(z: np.ndarray, other: np.ndarray) -> float:
    """KL between the classes of two sets of logits, mean over samples."""
    log_p, log_q = (torch.log_softmax(torch.from_numpy(a), 1).numpy() for a in (z, other))
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def without(grouping_size: int, unit: int, factor: float = 0.0) -> np.ndarray:
    gates = np.ones(grouping_size)
    gates[unit] = factor
    return gates


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def exact(graph: ir.Model, x: np.ndarray, **options: object) -> np.ndarray:
    batches = [[part] for part in np.array_split(x, 4)]
    return information_gain(graph, find(graph), batches, probes=1000, run=run_of(), **options).values


def test_a_small_change_of_a_gate_costs_what_the_score_says() -> None:
    """KL of a gate at 1 - e is e^2 times the score: within 10 % at e = 0.05, by Taylor's theorem."""
    graph, x = loaded(RESIDUAL), images(32)
    scores = exact(graph, x)
    original = gated_logits(graph, x, np.ones(len(scores)))
    felt = np.flatnonzero(scores > np.median(scores))

    for unit in felt[::3]:
        measured = divergence(original, gated_logits(graph, x, without(len(scores), unit, 0.95)))
        assert measured == pytest.approx(0.05**2 * scores[unit], rel=0.1)


def test_the_order_is_that_of_true_removal() -> None:
    """Rank correlation with the divergence of removing each unit alone is above 0.95, and above that of norms."""
    graph, x = loaded(RESIDUAL, seed=3), images(64)
    scores = exact(graph, x)
    original = gated_logits(graph, x, np.ones(len(scores)))
    truth = np.array(
        [divergence(original, gated_logits(graph, x, without(len(scores), unit))) for unit in range(len(scores))]
    )
    norms = magnitude(graph, find(graph)).values

    assert spearman(scores, truth) > 0.95
    assert spearman(scores, truth) > spearman(norms, truth)


def test_probes_estimate_the_exact_score() -> None:
    """The mean over 256 probes is within 10 % for the upper half of the units; four already order them."""
    graph, x = loaded(RESIDUAL), images(64)
    grouping = find(graph)
    truth = exact(graph, x)
    # 5 probes are fewer than 6 classes, so directions are drawn; the batch is repeated to draw more of them.
    many = information_gain(graph, grouping, [[x]] * 52, probes=5, run=run_of()).values
    few = information_gain(graph, grouping, [[images(256, seed=1)]], probes=4, run=run_of()).values
    upper = truth > np.median(truth)

    np.testing.assert_allclose(many[upper], truth[upper], rtol=0.1)
    assert spearman(few, exact(graph, images(256, seed=1))) > 0.95


def test_the_same_seed_gives_the_same_scores() -> None:
    """Scores are a function of network, data and seed."""
    graph, x = loaded(RESIDUAL), images(16)
    first, again, other = (
        information_gain(graph, find(graph), [[x]], probes=2, run=run_of(seed=seed)).values for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_probabilities_and_logits_score_alike() -> None:
    """A network that ends in a softmax or a log-softmax has the scores of its logits."""
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    logits, probabilities, logarithms = (exact(loaded(HEADS % name), x) for name in ("z", "p", "l"))

    np.testing.assert_allclose(probabilities, logits, rtol=1e-3)
    np.testing.assert_allclose(logarithms, logits, rtol=1e-3)


def test_independent_labels_use_the_information_of_coins() -> None:
    """Behind a sigmoid the score is 1/2 E sum p (1 - p) (dz/dm)^2, with dz/dm = w2 relu(h) by hand."""
    graph = loaded(HEADS % "s")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    weights = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    r = np.maximum(x @ weights["w1"].T + weights["b1"], 0)
    z = r @ weights["w2"].T + weights["b2"]
    p = 1 / (1 + np.exp(-z))
    slope = r[:, None, :] * weights["w2"][None]
    expected = 0.5 * ((p * (1 - p))[:, :, None] * slope**2).sum(1).mean(0)

    np.testing.assert_allclose(exact(graph, x), expected, rtol=1e-4)


def test_other_outputs_are_measured_against_their_own_spread() -> None:
    """As a Gaussian the score is 1/2 E sum (dz/dm)^2 / var(z), so the unit of an output does not matter."""
    graph = loaded(HEADS % "z")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    weights = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    r = np.maximum(x @ weights["w1"].T + weights["b1"], 0)
    z = r @ weights["w2"].T + weights["b2"]
    slope = r[:, None, :] * weights["w2"][None]
    expected = 0.5 * (slope**2 / z.var(0)[None, :, None]).sum(1).mean(0)

    np.testing.assert_allclose(exact(graph, x, head=Kind.GAUSSIAN), expected, rtol=1e-4)


def test_divergences_of_several_outputs_add_up() -> None:
    """With many draws, two heads have the sum of their scores."""
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    apart = exact(loaded(HEADS % "p"), x) + exact(loaded(HEADS % "s"), x)
    graph = loaded(TWO)
    together = information_gain(graph, find(graph), [[x]] * 100, probes=10, run=run_of()).values

    np.testing.assert_allclose(together, apart, rtol=0.05)


def test_positions_of_a_dense_prediction_add_up() -> None:
    """A map of class scores has the sum of the scores of its positions."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    dense (float[N, 3, 4, 4] x, float[6, 3, 1, 1] w1, float[6] b1, float[4, 6, 1, 1] w2, float[4] b2)
        => (float[N, 4, 4, 4] y)
    {
      a = Conv (x, w1, b1)
      r = Relu (a)
      y = Conv (r, w2, b2)
    }
    """
    graph = loaded(text)
    x = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)
    # Every layer is 1 x 1, so each position is a sample of its own: the score of the map is 16 times that of a pixel.
    pixels = x.transpose(0, 2, 3, 1).reshape(-1, 3, 1, 1)
    pixel = loaded(text.replace("4, 4]", "1, 1]"))
    whole = information_gain(graph, find(graph), [[x]] * 100, probes=8, run=run_of(), head=Kind.CATEGORICAL).values
    single = information_gain(
        pixel, find(pixel), [[pixels]] * 100, probes=8, run=run_of(), head=Kind.CATEGORICAL
    ).values

    np.testing.assert_allclose(whole, 16 * single, rtol=0.05)


def test_a_unit_that_is_never_active_scores_nothing() -> None:
    """Dead units have a score of exactly zero."""
    graph = loaded(HEADS % "z")
    bias = graph.graph.initializers["b1"]
    dead = bias.const_value.numpy().copy()
    dead[2] = -1000.0
    bias.const_value = ir.tensor(dead, name="b1")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    scores = exact(graph, x)

    assert scores[2] == 0
    assert (np.delete(scores, 2) > 0).all()


@pytest.mark.parametrize("output", ["z", "p", "s"])
def test_a_network_that_is_certain_of_everything_still_orders_its_units(output: str) -> None:
    """Probabilities of exactly 0 and 1 leave scores that differ."""
    graph = loaded(HEADS % output)
    value = graph.graph.initializers["w2"]
    value.const_value = ir.tensor(value.const_value.numpy() * 1000, name="w2")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    scores = exact(graph, x)

    assert (scores > 0).all()
    assert len(np.unique(scores)) == len(scores)


def test_every_operator_in_between_is_differentiated() -> None:
    """All units of a network with sigmoids, concatenation, depthwise and grouped layers are felt by the output."""
    scores = exact(loaded(MIXED), images(16))

    assert (scores > 0).all()


def test_progress_is_reported_batch_by_batch() -> None:
    """The fraction of the scoring phase grows with the batches."""
    watch = Watch()
    graph = loaded(RESIDUAL)
    information_gain(graph, find(graph), [[images(4)]] * 3, probes=1, run=run_of(report=watch))

    assert [(phase, round(fraction, 2)) for phase, fraction, *_ in watch.heard] == [
        (Phase.SCORE, 0.0),
        (Phase.SCORE, 0.33),
        (Phase.SCORE, 0.67),
        (Phase.SCORE, 1.0),
    ]


def test_no_data_is_refused() -> None:
    """The message says how many samples there were and how many it takes."""
    graph = loaded(RESIDUAL)
    with pytest.raises(InvalidDataset, match="needs calibration inputs; found 0; allowed at least 1"):
        information_gain(graph, find(graph), [], run=run_of())


def test_an_infinite_answer_is_refused() -> None:
    """The output is named."""
    graph, x = loaded(RESIDUAL), images(4)
    x[1, 0, 0, 0] = np.inf
    with pytest.raises(NonFiniteScore, match="answers NaN or infinity on the calibration data; at y"):
        information_gain(graph, find(graph), [[x]], run=run_of())


def test_a_network_that_answers_in_integers_is_refused() -> None:
    """Nothing can be differentiated behind an ArgMax, and the message says what to do."""
    text = (
        (HEADS % "z").replace("float[N, 3] z", "int64[N, 1] k").replace("  p =", "  k = ArgMax <axis = 1> (z)\n  p =")
    )
    graph = loaded(text)
    with pytest.raises(NothingToPrune, match="every output is an integer"):
        information_gain(graph, find(graph), [[np.ones((2, 4), np.float32)]], run=run_of())
