"""What weights from farther away cost, learned from graphs with ever more of them."""

from dataclasses import dataclass
from itertools import pairwise
from math import log, prod

import onnx
import pytest
from onnx import numpy_helper

from tests.workers.pruning.latency.laws import LawDevice
from tests.workers.pruning.latency.network import WIDE, parts_of
from tests.workers.pruning.latency.test_model import whole
from workers.pruning.latency import memory
from workers.pruning.latency.memory import Memory
from workers.pruning.latency.model import LatencyModel
from workers.pruning.latency.rows import Row
from workers.pruning.latency.table import Table

MB = 1e6


@dataclass
class CachedDevice(LawDevice):
    """A device whose cache holds so many bytes of weights; graphs with more bring all of theirs from behind it."""

    cache: float = 3 * MB
    far_ns: float = 0.05  # for each byte

    def law(self, content):
        """Milliseconds of all nodes, and of bringing their weights."""
        graph = onnx.load_from_string(content).graph
        held = {one.name: one for one in graph.initializer}
        shapes = [one.dims for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
        made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
        shapes += [numpy_helper.to_array(held[node.input[0]]) for node in made]
        num_bytes = 4.0 * sum(prod(int(length) for length in shape) for shape in shapes if len(shape) > 1)
        return super().law(content) + 1e-6 * self.far_ns * num_bytes * (num_bytes > self.cache)


def table_of(*per_copy_ms):
    """A table in which the probes took so long, copy by copy; calling costs nothing."""

    class Silent:
        def known(self):
            return {}

    rows = [memory.probe(1 << number) for number in range(len(per_copy_ms))]
    return Table(Silent(), known={row.key: row.copies * ms for row, ms in zip(rows, per_copy_ms, strict=True)})


def test_probes_reach_as_far_as_the_weights_of_the_network():
    """0.59 MB and its doubles, up to the first that is as large as the network; none for one that is smaller."""
    assert [] == list(memory.probes(0.5 * MB))
    assert [1, 2, 4, 8] == [row.copies for row in memory.probes(3 * MB)]
    assert [memory.num_weight_bytes(row) for row in memory.probes(1 * MB)] == [589824, 2 * 589824]


def test_probes_are_told_from_layers():
    """They take no part in what is said of layers."""
    assert all(memory.is_probe(Row.parse(row.key)) for row in memory.probes(100 * MB))
    assert not memory.is_probe(Row.parse("Conv float32 1x128x2x2;w128x128x3x3->1x128x2x2 *4"))


def test_weights_beyond_a_cache_cost_more_each():
    """By hand: 0.02 ms for 0.59 MB up to 2.4 MB, 0.05 ms from 4.7 MB on."""
    found = memory.learned(table_of(0.02, 0.02, 0.02, 0.05, 0.05))

    assert found.per_byte_ms(1000) == 0.0
    assert found.per_byte_ms(2.3 * MB) == 0.0
    assert found.per_byte_ms(4.8 * MB) == pytest.approx(0.03 / 589824)
    assert found.per_byte_ms(1e12) == pytest.approx(0.03 / 589824)


def test_what_falls_is_noise():
    """Weights do not come faster for being more: the mean of what falls is taken."""
    found = memory.learned(table_of(0.03, 0.01, 0.02, 0.06, 0.04))

    assert [0.0, 0.0, 0.0, 0.03, 0.03] == pytest.approx([589824 * ms for _, ms in found.points])
    assert all(low <= high for (low, _), (high, _) in pairwise(found.points))


def test_without_probes_nothing_is_far():
    """A network that fits into any cache is not asked about."""
    assert Memory() == memory.learned(table_of(0.02))
    assert Memory().per_byte_ms(1e9) == 0.0
    assert Memory(points=((log(10.0), 0.0),)).per_byte_ms(0.0) == 0.0


def test_weights_are_near_again_in_a_network_that_was_cut():
    """Of 7 MB all come from behind a cache of 3 MB, of 1.8 MB none: both are predicted by the same few rows."""
    graph, grouping, costs, found = parts_of(WIDE.replace("64", "256").replace("48", "384"))
    device = CachedDevice(element_ns=0.0)
    latency = LatencyModel(found, costs.widths, device)
    latency.learn()

    for share in (1.0, 0.5):
        kept = [int(share * width) for width in costs.widths]
        (measured,) = device.time([whole(graph, grouping, kept)]).values()
        assert latency.predict(kept) == pytest.approx(measured.p50_ms, rel=0.03)
    layers = latency.timed_layers(latency.predict(costs.widths))
    assert sum(layer.ms(costs.widths) for layer in layers) == pytest.approx(latency.predict(costs.widths), rel=1e-6)
