"""Which layers are repaired, and what they are held to."""

import numpy as np

from tests.workers.pruning.seeded import MIXED, RESIDUAL, loaded
from workers.pruning.compensation.layers import Layer, changed_values, find_layers
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Keep


def layers_without(text: str, producer: str) -> dict[str, Layer]:
    """Layers to repair when the second unit of what `producer` makes is removed."""
    graph = loaded(text)
    grouping = find(graph)
    group = next(group for group in grouping.groups if producer in group.producers)
    mask = np.ones(grouping.num_units, np.bool_)
    mask[group.start + 1] = False
    keep = Keep(mask=mask)
    return find_layers(graph, cut(graph, grouping, keep), grouping, keep, changed_values(graph, grouping, keep))


def test_layers_from_the_reader_on_are_repaired() -> None:
    """The layer that only lost an output is not among them."""
    assert list(layers_without(RESIDUAL, "c4")) == ["c5", "y"]


def test_the_last_layer_of_a_branch_is_held_to_the_sum() -> None:
    """Its target is the original's sum; the shortcut of the repaired network is taken off."""
    layer = layers_without(RESIDUAL, "c2")["c3"]

    assert (layer.wanted, layer.other) == ("sum3", "stream1")
    assert layer.normalisation is not None
    assert layer.normalisation.name == "n3"


def test_channels_that_are_left_are_named() -> None:
    """The second channel of the stream is gone wherever the stream is produced."""
    layers = layers_without(RESIDUAL, "c1")

    assert layers["c3"].kept.tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert layers["c2"].kept.tolist() == list(range(12))


def test_layers_of_every_kind_are_found() -> None:
    """Depthwise, grouped and fully connected layers read what the first convolution makes."""
    assert set(layers_without(MIXED, "c1")) == {"c2", "c3", "c4", "c5", "c6", "g7", "y"}
