"""How good a network is: shares, intervals and distances, by hand on networks of one layer."""

import math

import numpy as np
import onnx_ir as ir
import pytest

from workers.pruning.errors import InvalidDataset, InvalidGraph
from workers.pruning.graph.load import input_specs, load
from workers.pruning.training.data import open_dataset
from workers.pruning.training.evaluate import answer, evaluate, judge, wilson
from workers.pruning.training.preprocessing import Wish, infer
from workers.pruning.training.samples import Samples, StoredRows
from workers.pruning.types import TensorSpec


def network(body, *, batch="N", out="float[N,2] y"):
    """Parse a network of one input x of 2 numbers."""
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 13]> g (float[{batch},2] x) => ({out}) {{ {body} }}')


def samples(x, labels=None):
    """Give rows as stored samples."""
    x = np.asarray(x, dtype=np.float32)
    spec = TensorSpec(name="x", dtype="float32", shape=(None, *x.shape[1:]))
    rows = StoredRows(stored=x, preprocessing=infer(Wish(), spec, x.shape[1:], x.dtype))
    labels = None if labels is None else np.asarray(labels, dtype=np.int64)
    return Samples(rows=(rows,), index=np.arange(len(x)), labels=labels)


DOUBLED = network("y = Add(x, x)")
NEGATED = network("p = Constant<value_floats = [-1.0, -1.0]>()  y = Mul(x, p)")


def test_accuracy_is_the_share_of_right_answers():
    """Two of four answers are right; the interval is Wilson's."""
    given = evaluate(DOUBLED, samples([[0, 1], [0, 1], [1, 0], [1, 0]], [1, 0, 0, 1]))

    assert given.accuracy == 0.5
    assert given.accuracy_interval == wilson(2, 4)
    assert given.num_samples == 4
    assert (given.agreement, given.mean_kl) == (None, None)


def test_the_interval_is_wilsons():
    """Of 10 trials 8 succeed: 0.490 to 0.943, worked by hand with Wilson's formula."""
    # centre (0.8 + 1.92073 / 10) / (1 + 3.84146 / 10) = 0.71674; half 1.95996 / 1.384146 * sqrt(0.016 + 0.0096036).
    low, high = wilson(8, 10)

    assert low == pytest.approx(0.71674 - 0.22658, abs=1e-4)
    assert high == pytest.approx(0.71674 + 0.22658, abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert wilson(0, 10)[0] == 0.0


def test_a_network_agrees_with_itself():
    """Beside itself agreement is 1 and divergence 0."""
    given = evaluate(DOUBLED, samples([[0, 1], [3, 1]]), reference=DOUBLED)

    assert (given.agreement, given.mean_kl, given.accuracy) == (1.0, 0.0, None)


def test_divergence_is_of_the_original_from_the_network():
    """KL(original || network) of logits (0, 2 ln 3) and (0, -ln 3), by hand: p = (0.1, 0.9), q = (0.75, 0.25)."""
    expected = 0.1 * math.log(0.1 / 0.75) + 0.9 * math.log(0.9 / 0.25)

    given = evaluate(NEGATED, samples([[0, math.log(3)]]), reference=DOUBLED)

    assert given.agreement == 0.0
    assert given.mean_kl == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("last", ["y = Softmax(z)", "y = LogSoftmax(z)", "y = Identity(z)"])
def test_probabilities_and_logits_say_the_same(last):
    """Behind a softmax, a log-softmax or neither, a network's answers are the same."""
    graph = network(f"z = Add(x, x)  {last}")

    given = evaluate(graph, samples([[0.0, 1.0], [2.0, -1.0]], [1, 0]), reference=DOUBLED)

    assert given.accuracy == 1.0
    assert given.mean_kl == pytest.approx(0.0, abs=1e-6)


def test_other_heads_are_judged_by_their_relative_error():
    """Maps: outputs of 0 where the original varies with variance 1 about 0 have error 1, equal outputs 0."""
    same = network("a = Constant<value_ints = [1]>()  y = Unsqueeze(x, a)", out="float[N,1,2] y")
    zero = network(
        "a = Constant<value_ints = [1]>()  o = Constant<value_float = 0.0>()  z = Mul(x, o)  y = Unsqueeze(z, a)",
        out="float[N,1,2] y",
    )
    data = samples([[1, -1], [-1, 1]], [0, 1])

    assert evaluate(same, data, reference=same).relative_mse == 0.0
    assert evaluate(zero, data, reference=same).relative_mse == pytest.approx(1.0)
    assert evaluate(same, data).relative_mse is None


@pytest.mark.parametrize("batch", ["1", "3", "N"])
def test_networks_with_a_fixed_batch_see_every_sample_once(batch):
    """Seven samples through a batch of 1, 3 or any size give seven answers; the last batch is filled up and cut."""
    graph = network("y = Add(x, x)", batch=batch, out=f"float[{batch},2] y")
    rows = np.random.default_rng(0).normal(size=(7, 2))

    given = answer(graph, samples(rows)).log_probabilities

    np.testing.assert_allclose(given[:, 0] - given[:, 1], 2 * (rows[:, 0] - rows[:, 1]), rtol=1e-5)


def test_networks_with_a_hidden_batch_see_every_sample_once():
    """A network that calls its batch free and reshapes to one sample all the same runs sample by sample."""
    graph = network(
        """one = Constant<value_ints = [1, 2]>()  none = Constant<value_float = 0.0>()  sum = ReduceSum<keepdims = 0>(x)
        nothing = Mul(sum, none)  zero = Cast<to = 7>(nothing)  shape = Add(one, zero)
        z = Reshape(x, shape)  y = Add(z, z)"""
    )
    rows = np.random.default_rng(0).normal(size=(5, 2))

    assert answer(graph, samples(rows)).log_probabilities.shape == (5, 2)


def test_progress_ends_at_one():
    """Progress rises and ends at 1."""
    seen = []

    evaluate(DOUBLED, samples(np.zeros((300, 2))), progress=seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_answers_of_the_original_can_be_kept():
    """Kept answers judge as the original itself does."""
    data = samples([[0, 1], [3, 1]], [1, 1])

    kept = answer(DOUBLED, data)

    assert evaluate(NEGATED, data, reference=kept) == evaluate(NEGATED, data, reference=DOUBLED)
    assert judge(kept, data).accuracy == 0.5


def test_answers_that_are_not_finite_are_refused():
    """A network that answers NaN is not given an accuracy."""
    graph = network("z = Sub(x, x)  y = Div(z, z)")

    with pytest.raises(InvalidGraph, match="NaN or infinity"):
        evaluate(graph, samples([[0, 1]], [1]))


def test_evaluations_state_what_applies():
    """As JSON an evaluation has the figures that apply and no others."""
    data = samples([[0, 1], [3, 1]], [1, 1])

    assert evaluate(DOUBLED, data).to_json() == {
        "num_samples": 2,
        "accuracy": 0.5,
        "accuracy_interval": list(wilson(1, 2)),
    }


def test_only_classifiers_have_answers():
    """A network with a map for output is refused where answers are asked for."""
    graph = network("a = Constant<value_ints = [1]>()  y = Unsqueeze(x, a)", out="float[N,1,2] y")

    with pytest.raises(InvalidGraph, match="no classifier"):
        answer(graph, samples([[0, 1]]))


def test_samples_that_do_not_fit_are_refused():
    """What ONNX Runtime refuses comes back with the shapes that were given."""
    with pytest.raises(InvalidGraph, match=r"'x': \[1, 5\]"):
        evaluate(DOUBLED, samples([[0, 1, 2, 3, 4]], [1]))


def test_nothing_cannot_be_judged():
    """Without held-out samples there is no evaluation."""
    with pytest.raises(InvalidDataset, match="no held-out samples"):
        evaluate(DOUBLED, samples(np.zeros((0, 2))))


@pytest.mark.data
def test_resnet20_reaches_its_published_accuracy(data_dir, tmp_path):
    """ResNet-20 scores 91.5 % on the 1,000 lossless CIFAR-10 test images (the data folder's README)."""
    arrays = np.load(data_dir / "cifar10_lossless_5000.npz")
    file = tmp_path / "cifar.npz"
    x = arrays["test_x"]
    np.savez(file, x=x[:20], y=arrays["test_y"][:20], x_val=x, y_val=arrays["test_y"])
    graph = load(data_dir / "models" / "resnet20_cifar10_legacy_bn.onnx")
    given = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    data = open_dataset(file, input_specs(graph), preprocessing=given, seed=0)

    assert evaluate(graph, data.validation).accuracy == 0.915


@pytest.mark.data
def test_foreign_networks_reach_their_published_accuracy(data_dir, tmp_path):
    """CNTK's MNIST network, fixed to batch 1, scores 98.91 % on 10,000 images of raw pixels (README).

    WinML's CIFAR-10 network scores 65.5 % on the 1,000 lossless images, (x / 255 - 0.5) / 0.5.
    """
    mnist = np.load(data_dir / "mnist_70000.npz")
    cifar = np.load(data_dir / "cifar10_lossless_5000.npz")
    cases = (
        ("mnist_cntk", mnist["test_x"], mnist["test_y"], {"scale": 1}, 0.9891),
        ("winml_cifar10", cifar["test_x"], cifar["test_y"], {"mean": [0.5], "std": [0.5]}, 0.655),
    )
    for name, x, y, given, expected in cases:
        file = tmp_path / f"{name}.npz"
        np.savez(file, x=x[:20], y=y[:20], x_val=x, y_val=y)
        graph = load(data_dir / "zoo" / f"{name}.onnx")
        data = open_dataset(file, input_specs(graph), preprocessing=given, seed=0)

        assert evaluate(graph, data.validation).accuracy == pytest.approx(expected, abs=1e-9), name
