"""Which rows a network consists of, and that a cut is the same network at other widths."""

import numpy as np
import pytest

from tests.workers.pruning.latency.network import WIDE, parts_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.groups.lengths import Lengths
from workers.pruning.latency import layers
from workers.pruning.latency.rows import Row
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Keep


def test_what_the_runtime_fuses_is_one_row():
    """BatchNormalization, activation and residual sum belong to their convolution; reshapes are no rows."""
    _, _, model, found = parts_of()

    rows = {layer.node: layer.row(model.widths) for layer in found}

    assert ["c1", "c2", "c3", "c4", "c5", "c6", "g6", "y"] == list(rows)
    assert ("Add", "Relu") == rows["c3"].fused
    assert ("Relu",) == rows["c2"].fused
    assert () == rows["c6"].fused
    assert "Conv+Relu float32 1x96x16x16;w96x1x3x3->1x96x8x8 pads=1,1,1,1 strides=2,2 *4" == rows["c5"].key


@pytest.mark.parametrize("text", [WIDE, MIXED, RESIDUAL])
def test_rows_at_kept_widths_are_the_rows_of_the_cut_network(text):
    """Nothing needs to be cut to know which rows a cut network has."""
    graph, grouping, model, found = parts_of(text)
    rng = np.random.default_rng(0)
    kept = [int(rng.integers(1, width + 1)) for width in model.widths]
    mask = np.zeros(grouping.num_units, np.bool_)
    for group, width in zip(grouping.groups, kept, strict=True):
        mask[group.start + rng.permutation(group.width)[:width]] = True

    smaller = cut(graph, grouping, Keep(mask=mask))
    own = find(smaller)

    expected = layers.find(smaller, Lengths(smaller, own).of)
    widths = [group.width for group in own.groups]
    assert [layer.row(widths).key for layer in expected] == [layer.row(kept).key for layer in found]


@pytest.mark.parametrize("text", [WIDE, RESIDUAL])
def test_rows_count_the_multiply_adds_of_the_network(text):
    """What rows say they multiply is what the cost model counts."""
    graph, grouping, model, found = parts_of(text)
    full = sum(layer.row(model.widths).macs for layer in found)

    counted = sum(
        term.coefficient * np.prod([one.fixed + sum(n * model.widths[g] for g, n in one.parts) for one in term.lengths])
        for term in cost_model(graph, grouping).macs
    )

    assert full == counted


@pytest.mark.parametrize("text", [WIDE, MIXED, RESIDUAL])
def test_a_key_is_read_back_as_its_row(text):
    """A row that another job recorded is known from its key alone."""
    _, _, model, found = parts_of(text)

    for layer in found:
        row = layer.row(model.widths)
        assert row == Row.parse(row.key)
        assert row.kind == layer.kind


def test_a_layer_depends_on_the_groups_it_reads_and_writes():
    """The planner asks a layer again only when one of its widths changes."""
    _, _, model, found = parts_of()
    by_node = {layer.node: layer for layer in found}

    for node in ("c2", "c5"):
        layer = by_node[node]
        for group in range(len(model.widths)):
            fewer = [width - (index == group) for index, width in enumerate(model.widths)]
            assert (layer.row(fewer) != layer.row(model.widths)) == (group in layer.groups)


def test_rows_hold_as_many_samples_as_a_run():
    """A device that times batches is asked for rows of that batch; weights do not grow."""
    graph, grouping, model, found = parts_of()
    batched = layers.find(graph, Lengths(graph, grouping).of, batch=8)

    for one, many in zip(found, batched, strict=True):
        single, eight = one.row(model.widths), many.row(model.widths)
        assert 8 * single.output[0] == eight.output[0]
        assert 8 * single.macs == eight.macs
        assert single.num_weights == eight.num_weights
