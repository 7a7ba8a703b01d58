"""What the engine's analysis leaves is what the web process predicts with: both sides of one JSON."""

import pytest

from app.domain.plan import costs, read_cost_model
from app.domain.target import Metric
from tests.networks import graph
from workers.analysis import analyse


@pytest.mark.parametrize("name", ["chain_bn", "residual", "concat", "depthwise"])
def test_the_uncut_network_costs_what_the_analysis_counted(name) -> None:
    """The cost model at full widths, read by the web process, gives the figures that the analysis states."""
    analysis = analyse(graph(name))
    model = read_cost_model(analysis["cost_model"])
    found = costs(model, model.widths)

    assert (analysis["macs"], analysis["flops"], analysis["params"]) == (
        found[Metric.MACS],
        found[Metric.FLOPS],
        found[Metric.PARAMS],
    )
