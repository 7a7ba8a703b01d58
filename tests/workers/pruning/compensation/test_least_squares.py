"""What closed-form repair gives back, and what it must leave alone."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.workers.pruning.journals import Watch, run_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL, answers, images, loaded
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.errors import InvalidDataset, NonFiniteScore
from workers.pruning.graph.renormalise import filter_norms
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Grouping, Keep, Phase

FOLDED = """
<ir_version: 8, opset_import: ["" : 17]>
folded (float[N, 3, 8, 8] x, float[8, 3, 3, 3] w1, float[8] b1, float[8, 1, 3, 3] w2, float[8] b2,
        float[10, 8, 1, 1] w3, float[10] b3, float[8, 5, 3, 3] w4, float[8] b4, float[6, 8, 2, 2] w5,
        float[6, 4] w6, float[4] b6)
    => (float[N, 4] y)
{
  c1 = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1, 1, 1, 1], group = 8> (r1, w2, b2)
  r2 = Relu (c2)
  c3 = Conv (r2, w3, b3)
  r3 = Relu (c3)
  c4 = Conv <pads = [2, 2, 2, 2], dilations = [2, 2], group = 2> (r3, w4, b4)
  r4 = Relu (c4)
  c5 = Conv <auto_pad = "VALID"> (r4, w5)
  r5 = Relu (c5)
  pooled = GlobalAveragePool (r5)
  flat = Flatten (pooled)
  m6 = MatMul (flat, w6)
  y = Add (m6, b6)
}
"""
TEXTS = {"mixed": MIXED, "residual": RESIDUAL, "folded": FOLDED}


def batches(seed: int = 0, count: int = 256) -> list[list[np.ndarray]]:
    return [[part] for part in np.array_split(images(count, seed), 4)]


def keep_most(grouping: Grouping, share: float, seed: int = 0) -> Keep:
    """Each unit stays with this probability, the first of each group always."""
    mask = np.random.default_rng(seed).random(grouping.num_units) < share
    for group in grouping.groups:
        mask[group.start] = True
    return Keep(mask=mask)


def weights(graph: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}


def error(graph: ir.Model, original: ir.Model, x: np.ndarray) -> float:
    return float(np.square(answers(graph, x)[0] - answers(original, x)[0]).mean())


def store(graph: ir.Model, name: str, array: np.ndarray) -> None:
    graph.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)


def with_twins(text: str) -> ir.Model:
    """The residual network with channels 0 and 1 of its first inner layer made equal."""
    graph = loaded(text)
    for name in ("w2", "scale2", "shift2", "mean2", "var2"):
        array = weights(graph)[name].copy()
        array[1] = array[0]
        store(graph, name, array)
    return graph


@pytest.mark.parametrize("name", TEXTS)
def test_with_nothing_removed_nothing_changes(name: str) -> None:
    """A network that kept all its units keeps all its numbers."""
    graph = loaded(TEXTS[name])
    grouping = find(graph)
    keep = Keep(mask=np.ones(grouping.num_units, np.bool_))
    repaired = compensate(graph, cut(graph, grouping, keep), grouping, keep, batches(), run=run_of())

    for key, array in weights(graph).items():
        np.testing.assert_array_equal(weights(repaired)[key], array)


@pytest.mark.parametrize("name", TEXTS)
def test_repair_brings_the_answers_closer(name: str) -> None:
    """On inputs that were not used for the fit the error falls by more than half."""
    graph = loaded(TEXTS[name])
    grouping = find(graph)
    keep = keep_most(grouping, 0.7)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), run=run_of())
    x = images(200, seed=5)

    assert error(repaired, graph, x) < 0.5 * error(smaller, graph, x)


def test_a_removed_twin_is_replaced_by_the_one_that_stays() -> None:
    """Of two equal channels one can go: the other takes over its weights, and the answers are those of before."""
    graph = with_twins(RESIDUAL)
    grouping = find(graph)
    group = next(group for group in grouping.groups if group.producers == ("c2",))
    mask = np.ones(grouping.num_units, np.bool_)
    mask[group.start + 1] = False
    keep = Keep(mask=mask)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), ridge=1e-9, precision="float32", run=run_of())
    x = images(50, seed=5)

    assert np.abs(answers(smaller, x)[0] - answers(graph, x)[0]).max() > 1e-2
    np.testing.assert_allclose(answers(repaired, x)[0], answers(graph, x)[0], atol=1e-4)


def test_the_error_of_every_sum_falls() -> None:
    """Behind each residual block the repaired stream is closer to the original's than the cut one."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), run=run_of())
    x = images(200, seed=5)
    sums = ("sum3", "sum5")
    for index, name in enumerate(sums, start=1):
        kept = keep.mask[grouping.value_axes[name][1]]
        truth = answers(graph, x, sums)[index][:, kept]
        before = np.square(answers(smaller, x, sums)[index] - truth).mean()
        after = np.square(answers(repaired, x, sums)[index] - truth).mean()

        assert after < 0.7 * before


def test_filters_keep_the_norms_that_they_had() -> None:
    """Training starts from filters of their old size: BatchNormalization takes up what the fit changed."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), run=run_of())

    before, after = filter_norms(smaller), filter_norms(repaired)
    for name, norms in before.items():
        np.testing.assert_allclose(after[name], norms, rtol=1e-4)
    assert not np.allclose(weights(repaired)["w3"], weights(smaller)["w3"])


def test_normalisation_holds_the_statistics_of_what_it_reads() -> None:
    """The stored mean and variance of a repaired layer are those of the calibration data, as training would see."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    repaired = compensate(
        graph, cut(graph, grouping, keep), grouping, keep, batches(), precision="float32", run=run_of()
    )
    raw = answers(repaired, np.concatenate([batch[0] for batch in batches()]), ("c3",))[1]

    np.testing.assert_allclose(weights(repaired)["mean3"], raw.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(weights(repaired)["var3"], raw.var((0, 2, 3)), rtol=1e-3)


def test_layers_before_the_first_cut_stay() -> None:
    """What did not lose an input is not touched."""
    graph = loaded(FOLDED)
    grouping = find(graph)
    group = next(group for group in grouping.groups if "c4" in group.producers)
    mask = np.ones(grouping.num_units, np.bool_)
    mask[group.start + 1 : group.stop] = np.arange(group.width - 1) % 2 == 0
    keep = Keep(mask=mask)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), run=run_of())
    changed = {name for name, array in weights(smaller).items() if not np.array_equal(array, weights(repaired)[name])}

    assert changed == {"w5", "w6", "b6"}


def test_sizes_and_names_stay() -> None:
    """Repair changes numbers only: no parameter comes or goes."""
    graph = loaded(MIXED)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, batches(), run=run_of())

    assert {name: array.shape for name, array in weights(repaired).items()} == {
        name: array.shape for name, array in weights(smaller).items()
    }


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Repair is a function of networks, data and seed."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    first, again = (
        ir.to_proto(compensate(graph, smaller, grouping, keep, batches(), run=run_of())).SerializeToString(
            deterministic=True
        )
        for _ in range(2)
    )

    assert first == again


def test_samples_that_overflow_leave_the_cut_weights() -> None:
    """A layer whose fit is not finite keeps its sliced weights; the network stays usable."""
    graph = loaded(FOLDED)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    poisoned = batches()
    poisoned[0][0][0] = 1e30
    repaired = compensate(graph, smaller, grouping, keep, poisoned, run=run_of())

    assert all(np.isfinite(array).all() for array in weights(repaired).values())


def test_samples_that_overflow_in_front_of_a_normalisation_are_refused() -> None:
    """There are no statistics to store; the message names the node."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    poisoned = batches()
    poisoned[0][0][0] = 1e30
    with pytest.raises(NonFiniteScore, match="activations overflow on the calibration data; at n"):
        compensate(graph, cut(graph, grouping, keep), grouping, keep, poisoned, run=run_of())


def test_few_samples_do_no_harm() -> None:
    """With four samples the fit stays near the cut weights: the error does not grow by more than a tenth."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    smaller = cut(graph, grouping, keep)
    repaired = compensate(graph, smaller, grouping, keep, [[images(4)]], run=run_of())
    x = images(200, seed=5)

    assert error(repaired, graph, x) < 1.1 * error(smaller, graph, x)


def test_progress_counts_layers() -> None:
    """Fractions rise from 0 to 1, one report per layer, each naming the layer."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    watch = Watch()
    compensate(graph, cut(graph, grouping, keep), grouping, keep, batches(), run=run_of(report=watch))
    heard = [(fraction, message) for phase, fraction, message, _ in watch.heard if phase is Phase.COMPENSATE]

    assert [message for _, message in heard] == ["c2", "c3", "c4", "c5", "y", "layers refitted"]
    assert [fraction for fraction, _ in heard] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_no_data_is_refused() -> None:
    """Without a sample there is nothing to fit to."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)
    keep = keep_most(grouping, 0.6)
    with pytest.raises(InvalidDataset, match="compensation needs calibration inputs"):
        compensate(graph, cut(graph, grouping, keep), grouping, keep, [], run=run_of())
