"""What the web process predicts from an analysis is what the engine counts: otherwise it would refuse good targets."""

import json

import numpy as np
import pytest

from app.domain import plan
from app.domain.methods import ExportOptions
from app.domain.target import Metric
from tests import networks
from workers.pruning.allocation import budget
from workers.pruning.groups.cost_model import cost_model, to_json
from workers.pruning.groups.find import find
from workers.pruning.types import CostModel


@pytest.fixture(params=sorted(networks.NETWORKS))
def models(request: pytest.FixtureRequest) -> tuple[CostModel, plan.CostModel]:
    """The engine's cost model of a network, and what the web process makes of it after a way through JSON."""
    graph = networks.graph(request.param)
    grouping = find(graph)
    engine = cost_model(graph, grouping)
    return engine, plan.read_cost_model(json.loads(json.dumps(to_json(engine, grouping))))


def test_costs_agree_for_any_widths(models: tuple[CostModel, plan.CostModel]) -> None:
    """Whatever each group keeps, both sides count the same MACs, parameters, bytes and peak."""
    engine, web = models
    random = np.random.default_rng(0)
    for _ in range(10):
        kept = [int(random.integers(1, width + 1)) for width in engine.widths]
        counted, predicted = budget.cost(engine, kept), plan.costs(web, kept)

        assert int(predicted[Metric.MACS]) == counted.macs
        assert int(predicted[Metric.FLOPS]) == 2 * counted.macs
        assert int(predicted[Metric.PARAMS]) == counted.params
        assert int(predicted[Metric.SIZE_BYTES]) == counted.size_bytes
        assert int(predicted[Metric.PEAK_ACTIVATION_BYTES]) == counted.peak_activation_bytes


@pytest.mark.parametrize("round_to", [None, 1, 2, 8])
@pytest.mark.parametrize("min_keep", [0.0, 0.1, 0.5])
def test_floors_agree(models: tuple[CostModel, plan.CostModel], min_keep: float, round_to: int | None) -> None:
    """Neither side refuses what the other can reach."""
    engine, web = models

    assert plan.floor_widths(web, ExportOptions(min_keep=min_keep, round_to=round_to)) == budget.floor_widths(
        engine, min_keep, round_to
    )
