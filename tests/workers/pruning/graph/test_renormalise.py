"""What putting BatchNormalization back behind folded convolutions, and folding it again, must leave unchanged."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.workers.pruning.seeded import RESIDUAL, answers, loaded, seeded
from workers.pruning.errors import InvalidGraph, NonFiniteScore
from workers.pruning.graph.renormalise import HE_NORM, SUFFIX, filter_norms, fold, fold_all, insert, to_insert

FOLDED = """
<ir_version: 8, opset_import: ["" : 17]>
folded (float[N, 3, 8, 8] x, float[6, 3, 3, 3] w1, float[6] b1, float[6, 1, 3, 3] w2, float[6] b2,
        float[4, 6, 1, 1] w3, float[4, 3, 2, 2] w4, float[6] b4, float[5, 6, 1, 1] w5, float[5] b5)
    => (float[N, 5, 8, 8] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1], group = 6, strides = [2, 2]> (c, w2, b2)
  e = Add (d, d)
  f = Conv (e, w3)
  g = ConvTranspose <group = 2, strides = [2, 2]> (f, w4, b4)
  h = Relu (g)
  i = Conv (h, w5, b5)
  y = Sigmoid (i)
}
"""


def network() -> ir.Model:
    return seeded(FOLDED)


def statistics(graph: ir.Model, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = to_insert(graph)
    outputs = answers(graph, x, names)[1:]
    return {name: (out.mean((0, 2, 3)), out.var((0, 2, 3))) for name, out in zip(names, outputs, strict=True)}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(16, 3, 8, 8)).astype(np.float32)


def test_heads_and_convolutions_without_bias_stay_as_they_are() -> None:
    """Only convolutions with a bias and with layers after them get a BatchNormalization."""
    assert to_insert(network()) == ("a", "d", "g")


def test_a_convolution_with_batch_normalization_behind_it_is_left_alone(x: np.ndarray) -> None:
    """What has been inserted is not inserted again."""
    graph = network()

    assert to_insert(insert(graph, statistics(graph, x))) == ()


def test_inserting_keeps_the_function(x: np.ndarray) -> None:
    """The inserted BatchNormalization computes the identity."""
    graph = network()
    inserted = insert(graph, statistics(graph, x))

    assert sum(node.op_type == "BatchNormalization" for node in inserted.graph) == 3
    np.testing.assert_allclose(answers(inserted, x)[0], answers(graph, x)[0], atol=1e-5)


def test_inserted_normalisation_sees_and_gives_the_measured_statistics(x: np.ndarray) -> None:
    """Normalising with statistics of the batch gives the same as with the stored ones: training starts where it was."""
    graph = network()
    inserted = insert(graph, statistics(graph, x))
    stored = {v.name: v.const_value.numpy() for v in inserted.graph.initializers.values()}

    raw = answers(inserted, x, ("g",))[1]

    np.testing.assert_allclose(raw.mean((0, 2, 3)), stored[f"g{SUFFIX}/mean"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(raw.var((0, 2, 3)), stored[f"g{SUFFIX}/variance"], rtol=1e-3)


def test_insert_and_fold_give_the_first_graph_back(x: np.ndarray) -> None:
    """Folding removes every trace: same nodes, same weights by name, same function to 1e-5."""
    graph = network()
    folded = fold(insert(graph, statistics(graph, x)))

    assert [node.op_type for node in folded.graph] == [node.op_type for node in graph.graph]
    assert set(folded.graph.initializers) == set(graph.graph.initializers)
    for name, value in graph.graph.initializers.items():
        expected = value.const_value.numpy()
        np.testing.assert_allclose(folded.graph.initializers[name].const_value.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(answers(folded, x)[0], answers(graph, x)[0], atol=1e-5)


def test_folding_keeps_what_training_has_changed(x: np.ndarray) -> None:
    """Folding a BatchNormalization whose parameters have moved keeps the moved function, also after saving."""
    graph = network()
    trained = insert(graph, statistics(graph, x))
    rng = np.random.default_rng(2)
    for name, value in trained.graph.initializers.items():
        if SUFFIX in name or name.startswith("b"):
            array = value.const_value.numpy() * rng.uniform(0.5, 1.5, value.shape.numpy()).astype(np.float32)
            value.const_value = ir.tensor(array, name=name)
    reloaded = ir.from_proto(ir.to_proto(trained))

    np.testing.assert_allclose(answers(fold(reloaded), x)[0], answers(trained, x)[0], atol=1e-5)


def test_filters_get_the_norm_of_he_initialisation(x: np.ndarray) -> None:
    """Without reference norms every filter starts training with norm sqrt(2)."""
    graph = network()

    norms = filter_norms(insert(graph, statistics(graph, x)))

    for name in to_insert(graph):
        np.testing.assert_allclose(norms[name], HE_NORM, rtol=1e-5)
    np.testing.assert_allclose(norms["f"], filter_norms(graph)["f"], rtol=1e-6)


def test_filters_get_the_reference_norms_that_are_given(x: np.ndarray) -> None:
    """A caller that knows the norms from before folding gets them back, and the function stays."""
    graph = network()
    reference = {name: np.linspace(0.5, 2.0, 6) for name in to_insert(graph)}
    inserted = insert(graph, statistics(graph, x), reference_norms=reference)

    for name, norm in reference.items():
        np.testing.assert_allclose(filter_norms(inserted)[name], norm, rtol=1e-5)
    np.testing.assert_allclose(answers(inserted, x)[0], answers(graph, x)[0], atol=1e-5)


def test_a_dead_filter_keeps_the_function_finite(x: np.ndarray) -> None:
    """A filter of zeros stays zero and its constant bias goes through the BatchNormalization."""
    graph = network()
    value = graph.graph.initializers["w1"]
    weight = value.const_value.numpy().copy()
    weight[2] = 0
    value.const_value = ir.tensor(weight, name="w1")
    inserted = insert(graph, statistics(graph, x))

    np.testing.assert_allclose(answers(inserted, x)[0], answers(graph, x)[0], atol=1e-5)


def test_the_graph_that_was_given_stays_as_it_is(x: np.ndarray) -> None:
    """Insertion works on a copy."""
    graph = network()
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    insert(graph, statistics(graph, x))

    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_statistics_of_a_node_that_is_no_convolution_are_refused() -> None:
    """The message names the node."""
    with pytest.raises(InvalidGraph, match="can only follow a convolution; at c"):
        insert(network(), {"c": (np.zeros(6), np.ones(6))})


def test_statistics_of_the_wrong_length_are_refused() -> None:
    """The message names the node, what was given and what fits."""
    with pytest.raises(InvalidGraph, match=r"do not fit the convolution; at a; .*allowed \(6,\)"):
        insert(network(), {"a": (np.zeros(5), np.ones(5))})


@pytest.mark.parametrize("variance", [np.nan, -1.0])
def test_impossible_statistics_are_refused(variance: float) -> None:
    """A variance that is NaN or negative is named with its node."""
    with pytest.raises(NonFiniteScore, match="channel statistics are not finite; at a"):
        insert(network(), {"a": (np.zeros(6), np.full(6, variance))})


def test_all_normalisations_behind_convolutions_can_be_folded() -> None:
    """The network answers the same without them; of named ones only those go."""
    graph = loaded(RESIDUAL)
    normalisations = [node.name or "" for node in graph.graph if node.op_type == "BatchNormalization"]
    x = np.random.default_rng(1).normal(size=(4, *[d for d in graph.graph.inputs[0].shape or () if isinstance(d, int)]))
    x = x.astype(np.float32)

    def left(folded: ir.Model) -> list[str]:
        return [node.name or "" for node in folded.graph if node.op_type == "BatchNormalization"]

    assert left(fold_all(graph)) == []
    assert left(fold_all(graph, within=normalisations[:1])) == normalisations[1:]
    np.testing.assert_allclose(answers(fold_all(graph), x, ())[0], answers(graph, x, ())[0], rtol=1e-4, atol=1e-5)
