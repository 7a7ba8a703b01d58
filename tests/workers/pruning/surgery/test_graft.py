"""What was trained while cut goes back where it came from; units of a cut network are those that stayed."""

import numpy as np
import pytest

from tests.networks import NETWORKS, graph
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import MIXED, images, loaded
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.scores.information_gain import information_gain
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.graft import graft, narrowed
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep


def some(grouping, seed=0):
    """About two thirds of the units of every group, the first always."""
    chosen = np.random.default_rng(seed).random(grouping.num_units) < 0.66
    chosen[[group.start for group in grouping.groups]] = True
    return Keep(mask=chosen)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_cutting_again_gives_what_was_trained(name):
    """Weights changed on the cut network come back from the whole one, bit for bit; what was cut is untouched."""
    whole = graph(name)
    grouping = find(whole)
    keep = some(grouping)
    smaller = cut(whole, grouping, keep)
    trained = replace_weights(smaller, {name: array + np.float32(0.5) for name, array in weights(smaller).items()})
    grafted = graft(whole, trained, grouping, keep)
    again = weights(cut(grafted, grouping, keep))

    for weight, array in weights(trained).items():
        np.testing.assert_array_equal(again[weight], array)
    everything = Keep(mask=np.ones(grouping.num_units, np.bool_))
    restored = weights(cut(grafted, grouping, everything))
    assert {key: a.shape for key, a in restored.items()} == {key: a.shape for key, a in weights(whole).items()}


def test_units_of_the_cut_network_are_those_that_stayed():
    """Scores on the cut network with narrowed units are those of the masked network at the units that stay."""
    whole, x = loaded(MIXED), images(8)
    grouping = find(whole)
    keep = some(grouping, seed=3)
    masked = information_gain(mask(whole, grouping, keep), grouping, [[x]], probes=2, run=run_of()).values
    found = information_gain(cut(whole, grouping, keep), narrowed(grouping, keep), [[x]], probes=2, run=run_of()).values

    assert len(found) == keep.mask.sum()
    np.testing.assert_allclose(found, masked[keep.mask], rtol=1e-3, atol=1e-7)


def test_groups_keep_their_names_and_shrink():
    """Every group has its id, and as many units as stayed."""
    whole = graph("residual")
    grouping = find(whole)
    keep = some(grouping)
    left = narrowed(grouping, keep)

    assert [group.id for group in left.groups] == [group.id for group in grouping.groups]
    assert [group.width for group in left.groups] == [
        keep.mask[group.start : group.stop].sum() for group in grouping.groups
    ]
    assert left.groups[-1].stop == left.num_units
