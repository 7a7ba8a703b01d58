"""Statistics of channels, against numpy on what ONNX Runtime computes."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import RESIDUAL, answers, images, loaded
from workers.pruning.compensation.batch_statistics import channel_statistics, reestimate
from workers.pruning.errors import InvalidDataset, InvalidGraph
from workers.pruning.graph.renormalise import to_insert

NORMALISED = {"c1": "1", "c2": "2", "c3": "3", "c4": "4", "c5": "5"}


def weights(graph: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}


def test_every_normalisation_gets_what_it_reads() -> None:
    """After re-estimation each stores mean and variance of its input, as computed by the re-estimated network."""
    x = images(60)
    graph = reestimate(loaded(RESIDUAL), [[x[:40]], [x[40:]]], run_of())
    raw = answers(graph, x, tuple(NORMALISED))[1:]

    for value, number in zip(raw, NORMALISED.values(), strict=True):
        np.testing.assert_allclose(weights(graph)[f"mean{number}"], value.mean((0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(weights(graph)[f"var{number}"], value.var((0, 2, 3)), rtol=1e-3)


def test_only_statistics_change() -> None:
    """Weights, scales and shifts stay as they are."""
    before = weights(loaded(RESIDUAL))
    after = weights(reestimate(loaded(RESIDUAL), [[images(20)]], run_of()))

    assert set(after) == set(before)
    for name, array in before.items():
        if not name.startswith(("mean", "var")):
            np.testing.assert_array_equal(after[name], array)


def test_how_samples_are_batched_does_not_matter() -> None:
    """The statistics are those of all samples together."""
    x = images(30)
    whole = weights(reestimate(loaded(RESIDUAL), [[x]], run_of()))
    split = weights(reestimate(loaded(RESIDUAL), [[x[:7]], [x[7:]]], run_of()))

    for name, array in whole.items():
        np.testing.assert_allclose(split[name], array, rtol=1e-4, atol=1e-5)


def test_a_network_without_normalisation_stays() -> None:
    """There is nothing to re-estimate."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    plain (float[N, 4] x, float[3, 4] w) => (float[N, 3] y) { y = Gemm <transB = 1> (x, w) }
    """
    graph = loaded(text)

    np.testing.assert_array_equal(weights(reestimate(graph, [], run_of()))["w"], weights(graph)["w"])


def test_channel_statistics_are_those_of_the_output() -> None:
    """Mean and variance over samples and positions, whatever the batches; far from zero nothing cancels."""
    graph = loaded(RESIDUAL)
    bias = graph.graph.initializers["shift1"]
    bias.const_value = ir.tensor(np.full(8, 1000.0, np.float32), name="shift1")
    x = images(30)
    found = channel_statistics(graph, ["n1", "c2"], [[x[:11]], [x[11:]]], run_of())

    for (mean, variance), value in zip(found.values(), answers(graph, x, ("n1", "c2"))[1:], strict=True):
        np.testing.assert_allclose(mean, value.astype(np.float64).mean((0, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(variance, value.astype(np.float64).var((0, 2, 3)), rtol=1e-3)


def test_nothing_to_insert_needs_no_statistics() -> None:
    """A network with all its normalisation has none to insert."""
    assert to_insert(loaded(RESIDUAL)) == ()


def test_an_unknown_node_is_refused() -> None:
    """The message names it."""
    with pytest.raises(InvalidGraph, match="no such node; at nowhere"):
        channel_statistics(loaded(RESIDUAL), ["nowhere"], [[images(2)]], run_of())


@pytest.mark.parametrize("batches", [[], [[images(0)]]])
def test_no_data_is_refused(batches: list[list[np.ndarray]]) -> None:
    """Statistics of nothing do not exist."""
    with pytest.raises(InvalidDataset, match="calibration inputs"):
        channel_statistics(loaded(RESIDUAL), ["c1"], batches, run_of())
    with pytest.raises(InvalidDataset, match="calibration inputs"):
        reestimate(loaded(RESIDUAL), batches, run_of())
