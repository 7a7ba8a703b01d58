"""Damage over coupled layers: twins, dead units, coherence of errors, and groups that are no matrices."""

import numpy as np
import pytest

from tests.matrix.architectures import exported, feed
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL, images, loaded
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.load import load
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.scores.brain_surgeon import brain_surgeon
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.scores.output import Kind

POOLED = """
<ir_version: 8, opset_import: ["" : 17]>
pooled (float[N, 3, H, W] x, float[6, 3, 1, 1] w1, float[6] b1, float[5, 6, 1, 1] w2, float[5] b2)
    => (float[N, 5] y)
{
  c1 = Conv (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv (r1, w2, b2)
  pooled = GlobalAveragePool (c2)
  y = Flatten (pooled)
}
"""


def batches(count=64, seed=0):
    return [[part] for part in np.array_split(images(count, seed), 4)]


def damage_of(graph, samples=None, **options):
    """Scores and facts of a graph with its classes as the answer."""
    return brain_surgeon(graph, find(graph), samples or batches(), probes=6, run=run_of(), **options)


def with_rows(graph, changes):
    """The graph with rows of some initializers replaced: {(name, row): what to put there}."""
    arrays = {name: array.copy() for name, array in weights(graph).items()}
    for (name, row), value in changes.items():
        arrays[name][row] = value
    return replace_weights(graph, {name: arrays[name] for name, _ in changes})


def group_made_by(graph, node):
    return next(group for group in find(graph).groups if group.producers == (node,))


@pytest.mark.parametrize("most_inputs", [2304, 20])
def test_of_twins_one_goes_first_and_never_both(monkeypatch: pytest.MonkeyPatch, most_inputs: int) -> None:
    """Of two channels that always agree the least valued is one of them, and the other is not next.

    Also where the positions of the kernel are taken apart.
    """
    monkeypatch.setattr("workers.pruning.scores.brain_surgeon.MOST_INPUTS", most_inputs)
    graph = loaded(RESIDUAL)
    names = ("w2", "scale2", "shift2", "mean2", "var2")
    graph = with_rows(graph, {(name, 1): weights(graph)[name][0] for name in names})
    group = group_made_by(graph, "c2")
    order = np.argsort(damage_of(graph).scores.values[group.start : group.stop], kind="stable")

    assert order[0] in {0, 1}
    assert order[1] not in {0, 1}


def test_units_that_never_answer_cost_nothing() -> None:
    """A channel that is zero on all samples is free; one that is constant costs what padding makes of it at borders."""
    graph = with_rows(
        loaded(RESIDUAL), {("scale2", 3): 0.0, ("shift2", 3): -1.0, ("scale2", 7): 0.0, ("shift2", 7): 2.0}
    )
    group = group_made_by(graph, "c2")
    found = damage_of(graph)
    values = found.scores.values[group.start : group.stop]

    assert found.gain[group.start + 3] == 0
    assert values[3] == 0
    assert 0 < values[7] < 0.1 * found.gain[group.start + 7]  # the bias behind its reader absorbs the rest
    assert np.delete(values, 3).min() > 0
    assert np.isfinite(found.scores.values).all()


def test_a_group_without_any_gain_is_free() -> None:
    """Where all units of a group are dead, all cost nothing and kappa is one."""
    graph = loaded(RESIDUAL)
    graph = replace_weights(graph, {"scale2": np.zeros(12), "shift2": -np.ones(12)})
    group = group_made_by(graph, "c2")
    found = damage_of(graph)
    fact = next(fact for fact in found.groups if fact["group"] == group.id)

    assert not found.scores.values[group.start : group.stop].any()
    assert fact["kappa"] == 1
    assert np.isfinite(found.scores.values).all()


def test_errors_that_are_alike_everywhere_add_up_before_they_are_squared() -> None:
    """On constant images the damage does not depend on their size: rho grows as the squared gradients shrink."""
    graph = loaded(POOLED)
    colours = np.random.default_rng(0).normal(size=(64, 3, 1, 1)).astype(np.float32)
    small, large = (
        damage_of(graph, [[np.broadcast_to(colours, (64, 3, side, side)).copy()]]).scores.values for side in (2, 8)
    )

    np.testing.assert_allclose(large, small, rtol=1e-3)


def test_layerwise_error_and_gain_agree_on_the_scale() -> None:
    """With rho in the moments, what kappa has left to say is less than a factor of three."""
    found = damage_of(loaded(RESIDUAL), head=Kind.GAUSSIAN)

    assert all(1 / 3 < fact["kappa"] < 3 for fact in found.groups)


def test_within_a_group_damage_at_the_end_is_more_than_the_gain_of_one() -> None:
    """What the others could stand in for is cheap, and what is lost with the last unit was never counted alone."""
    graph = loaded(MIXED)
    found = damage_of(graph)
    for group in find(graph).groups:
        values = np.sort(found.scores.values[group.start : group.stop])
        assert values[0] < np.median(found.gain[group.start : group.stop])
        assert values[-1] > values[0]


def test_groups_that_do_not_fit_are_named_and_get_their_gain() -> None:
    """With room for nothing every group falls back, in the order of its information gain."""
    graph = loaded(RESIDUAL)
    found = damage_of(graph, most_bytes=0)
    gain = information_gain(graph, find(graph), batches(), probes=6, run=run_of())

    np.testing.assert_allclose(found.scores.values, gain.values, rtol=0.05)  # computed in bfloat16 where it is fast
    assert all("do not fit" in fact["reason"] for fact in found.groups)


def test_a_group_that_falls_back_is_on_the_scale_of_the_others() -> None:
    """With room for the small layers only, the others' gain is lowered as refitting lowers the damage of these."""
    graph = loaded(RESIDUAL)
    found = damage_of(graph, most_bytes=160_000)
    fallen = [group for group, fact in zip(find(graph).groups, found.groups, strict=True) if "reason" in fact]

    assert 0 < len(fallen) < len(found.groups)
    for group in fallen:
        units = slice(group.start, group.stop)
        ratios = found.scores.values[units] / found.gain[units]
        assert ratios.max() == pytest.approx(ratios.min())
        assert 0 < ratios.max() < 1


@pytest.mark.parametrize(
    ("name", "unread"),
    [("resnet20", 0), ("mobilenet_v2", 0), ("densenet", 0), ("unet", 0), ("vit", 2), ("lstm_tagger", 0)],
)
def test_every_kind_of_network_is_ranked(name: str, unread: int) -> None:
    """Padded shortcuts, depthwise, dense, transposed and recurrent layers, attention: all finite, fall-backs named."""
    graph = load(exported(name))
    samples = [[array.numpy() for array in feed(name, 8)]]
    found = brain_surgeon(graph, find(graph), samples, probes=1, run=run_of())

    assert np.isfinite(found.scores.values).all()
    assert (found.scores.values >= 0).all()
    assert sum("MatMul is no product" in str(fact.get("reason")) for fact in found.groups) == unread


def test_the_same_seed_gives_the_same_scores() -> None:
    """Nothing is drawn outside the seed."""
    graph = loaded(MIXED)

    np.testing.assert_array_equal(damage_of(graph).scores.values, damage_of(graph).scores.values)


def test_a_layer_whose_moments_overflow_is_left_to_the_gain() -> None:
    """Inputs whose squares exceed float32 make no matrix to invert; the group falls back and nothing is NaN."""
    graph = loaded(POOLED)
    graph = replace_weights(graph, {"w1": 1e20 * weights(graph)["w1"], "w2": 1e-20 * weights(graph)["w2"]})
    colours = [[np.random.default_rng(0).normal(size=(16, 3, 4, 4)).astype(np.float32)]]
    found = damage_of(graph, colours)

    assert "overflow" in found.groups[0]["reason"]
    assert np.isfinite(found.scores.values).all()


def test_no_data_is_refused() -> None:
    """Damage is measured on samples."""
    graph = loaded(RESIDUAL)
    with pytest.raises(InvalidDataset, match="calibration"):
        brain_surgeon(graph, find(graph), [], run=run_of())
