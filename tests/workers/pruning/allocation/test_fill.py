"""Giving single units back where large steps undershot: real networks land within a hundredth of their target."""

import numpy as np
import pytest

from tests.workers.pruning.allocation import hand
from workers.pruning.allocation.budget import cost
from workers.pruning.allocation.fill import TOLERANCE, fill
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.allocation.rank import allocate
from workers.pruning.graph.load import load
from workers.pruning.graph.open_batch import open_batch
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.types import Budget, Metric, Scores


@pytest.mark.data
@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resnet20_lands_within_a_hundredth(data_dir, share, seed):
    """In whatever order its channels go; at half its MACs, 46 % were possible with steps alone."""
    graph = open_batch(load(data_dir / "models" / "resnet20_cifar10_dynamo_bn.onnx"))
    grouping = find(graph)
    model = cost_model(graph, grouping)
    limit = share * cost(model, model.widths).macs
    scores = Scores(values=np.random.default_rng(seed).random(grouping.num_units), source="chance")
    keep = allocate(scores, grouping, model, [Budget(metric=Metric.MACS, limit=limit)], alpha=float(seed % 2))
    kept = [int(keep.mask[group.start : group.stop].sum()) for group in grouping.groups]

    assert (1 - TOLERANCE) * limit <= cost(model, kept).macs <= limit


def test_channels_that_are_worth_most_come_back():
    """Of two groups that fit, the one whose scores are higher; without scores, the one that comes closest."""
    model = hand.chain(8, 8)  # 3 a + a b + 2 b MACs: 104 in all
    budget = Budget(metric=Metric.MACS, limit=45.0)
    dear, cheap = np.full(8, 5.0), np.full(8, 0.1)

    def back(worth):
        ledger = Ledger(model, [budget])
        for group in (0, 1):
            ledger.remove(group, 4)  # 36 MACs are left: 7 a unit of the first, 6 one of the second
        return fill(ledger, [4, 4], worth)

    assert back([dear, cheap]) == [1, 0]
    assert back([cheap, dear]) == [0, 1]
    assert back(None) == [1, 0]
