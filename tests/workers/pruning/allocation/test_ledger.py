"""Running figures equal figures computed anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import graph
from workers.pruning.allocation.budget import cost, figure
from workers.pruning.allocation.ledger import Ledger
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.types import Budget, Metric


@given(
    st.sampled_from(["residual", "padded_shortcut", "concat", "unet"]),
    st.sampled_from(list(Metric)),
    st.integers(0, 99),
)
def test_a_walk_through_widths_keeps_the_books(name: str, metric: Metric, seed: int) -> None:
    """After any steps up and down the ledger agrees with the cost of the widths: fits, holds and savings."""
    network = graph(name)
    model = cost_model(network, find(network))
    random = np.random.default_rng(seed)
    limit = 0.6 * figure(cost(model, model.widths), metric)
    ledger = Ledger(model, [Budget(metric=metric, limit=limit)])
    for _ in range(30):
        group = int(random.integers(len(model.widths)))
        change = int(random.integers(1 - ledger.kept[group], model.widths[group] - ledger.kept[group] + 1))
        after = list(ledger.kept)
        after[group] += change
        before, now = (figure(cost(model, kept), metric) for kept in (ledger.kept, after))
        assert ledger.fits(group, change) == (now <= limit)
        if metric is not Metric.PEAK_ACTIVATION_BYTES and not ledger.holds():
            assert abs((before - now) / limit - ledger.saving(group, -change)) < 1e-9
        ledger.remove(group, -change)
        assert after == ledger.kept
        assert ledger.holds() == (now <= limit)
