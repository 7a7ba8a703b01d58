"""Random graphs: what is cut equals what is masked, what is predicted is counted, and nothing crashes.

`ESPALIER_FUZZ_GRAPHS=2000` draws as many graphs instead of 100.
"""

import os

import onnx_ir as ir
from hypothesis import HealthCheck, given, settings

from tests.matrix.journey import analyse, require_equal
from tests.matrix.random_graphs import graphs
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.graph.cost import count
from workers.pruning.surgery.cut import cut

NUM_GRAPHS = int(os.environ.get("ESPALIER_FUZZ_GRAPHS", "100"))


@settings(
    max_examples=NUM_GRAPHS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=NUM_GRAPHS == 100
)
@given(graph=graphs())
def test_a_random_graph_is_cut_as_predicted(graph: ir.Model) -> None:
    """A random Keep with between one and all units of every group."""
    analysis = analyse(graph)
    keep = random_keep(analysis.grouping, len(graph.graph))
    smaller = cut(graph, analysis.grouping, keep)
    predicted, counted = cost(analysis.model, widths(analysis.grouping, keep)), count(smaller)

    assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
    assert predicted.peak_activation_bytes == counted.peak_activation_bytes
    assert predicted.size_bytes >= counted.size_bytes
    require_equal(analysis, keep, smaller)
