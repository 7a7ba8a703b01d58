"""torch beside ONNX Runtime: equal for what we write, refused for what differs."""

import numpy as np
import pytest

from tests import networks
from tests.workers.pruning.journals import Watch, run_of
from workers.pruning.errors import ParityFailed
from workers.pruning.export.parity import compare, parity
from workers.pruning.export.write import write
from workers.pruning.graph.load import load
from workers.pruning.graph.weights import replace_weights, weights


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_written_networks_equal_their_graphs(name):
    """On seeded inputs, at batch 1 and 3, optimised or not, the difference is rounding."""
    graph = networks.graph(name)

    assert parity(write(graph, graph, {}), graph, networks.inputs(graph), run_of()) < 1e-4


def test_a_changed_weight_is_found():
    """A file with other weights than the graph is refused, with the difference, the output and the batch."""
    graph = networks.graph("chain")
    other = replace_weights(graph, {"fc_b": weights(graph)["fc_b"] + 0.1})

    with pytest.raises(ParityFailed, match=r"output 'y', batch 1; found a difference of 1.00e-01 .* for float32"):
        parity(write(other, graph, {}), graph, networks.inputs(graph), run_of())


def test_networks_with_a_fixed_batch_run_at_it():
    """A network that takes batches of 2 only is compared at 2, from one sample if there is no more."""
    graph = load(networks.onnx_bytes(networks.CHAIN.replace("float[N,", "float[2,")))

    assert parity(write(graph, graph, {}), graph, [networks.inputs(graph)[0][:1]], run_of()) < 1e-4


def test_networks_with_a_hidden_batch_run_at_one():
    """A network that calls its batch free and reshapes to one sample all the same is compared at 1."""
    text = """g (float[N,6] x) => (float[N,6] y) {
      one = Constant <value_ints = [1, 6]> ()
      none = Constant <value_float = 0.0> ()
      sum = ReduceSum <keepdims = 0> (x)
      nothing = Mul (sum, none)
      zero = Cast <to = 7> (nothing)
      shape = Add (one, zero)
      y = Reshape (x, shape)
    }"""
    graph = networks.graph(text)

    assert parity(write(graph, graph, {}), graph, networks.inputs(graph), run_of()) == 0.0


def test_progress_is_told():
    """Each batch is reported."""
    watch = Watch()
    graph = networks.graph("chain")

    parity(write(graph, graph, {}), graph, networks.inputs(graph), run_of(report=watch))

    assert [fraction for _, fraction, _, _ in watch.heard] == [0.15, 0.3]


def pair(unoptimised, optimised):
    return (np.array([unoptimised, 1.0], np.float32), np.array([optimised, 1.0], np.float32))


def test_the_tolerance_widens_with_the_runtimes_own_spread():
    """Ten times what separates ONNX Runtime's own two results is allowed, up to 1e-3; without spread, 1e-4."""
    wanted = np.array([0.5, 1.0], np.float32)

    assert compare(pair(0.5003, 0.50035), wanted, "here") == pytest.approx(3.5e-4, rel=1e-3)
    with pytest.raises(ParityFailed, match="allowed 1e-04"):
        compare(pair(0.5003, 0.5003), wanted, "here")
    with pytest.raises(ParityFailed, match="allowed 1e-03"):
        compare(pair(0.51, 0.50), wanted, "here")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_no_parity(value):
    """NaN equals nothing, not even NaN."""
    with pytest.raises(ParityFailed, match="inf"):
        compare(pair(value, value), np.array([value, 1.0], np.float32), "here")


def test_almost_zero_outputs_may_differ_by_an_approximation():
    """Where values reach only 1e-8, ONNX Runtime's approximate sigmoid may answer 0."""
    assert compare((np.zeros(2, np.float32),) * 2, np.full(2, 1e-8, np.float32), "here") == pytest.approx(1e-8)


def test_other_shapes_are_refused():
    """An output of another shape is named."""
    with pytest.raises(ParityFailed, match=r"different shapes; at here.*found \[2\]; allowed \[3\]"):
        compare(pair(0, 0), np.zeros(3, np.float32), "here")


def test_integers_must_be_equal_but_for_a_few():
    """Of 200 integers one may differ, five may not."""
    wanted = np.zeros(200, np.int64)
    one, five = wanted.copy(), wanted.copy()
    one[0], five[:5] = 1, 1

    assert compare((one, one), wanted, "here") == 0.0
    with pytest.raises(ParityFailed, match=r"97\.5% of values equal"):
        compare((five, wanted), wanted, "here")
