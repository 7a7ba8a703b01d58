"""Groups in words."""

import json

import pytest

from tests.networks import graph
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.explain import explain
from workers.pruning.groups.find import find


def test_a_group_is_explained() -> None:
    """Layers in the order of the network, the share that would go with them, and why they belong together."""
    network = graph("residual")
    grouping = find(network)
    found = explain(network, grouping, cost_model(network, grouping))

    assert json.loads(json.dumps(found)) == found
    assert ["g0", "g1", "g2"] == [entry["id"] for entry in found]
    assert [8, 6, 10] == [entry["channels"] for entry in found]
    assert ["stem", "stem_bn", "a1", "a2", "a2_bn", "b1", "b2", "fc"] == found[0]["layers"]
    assert (
        "3 layers (stem, a2, b2) write to the same 8 channels, read by a1, b1, fc; "
        "2 layers between them scale channels one by one." == found[0]["reason"]
    )
    assert "b1 makes these 10 channels, read by b2." == found[2]["reason"]


def test_shares_are_those_found_by_hand() -> None:
    """Chain: of 27,696 MACs 48 remain without the 8 channels, and 64 x 27 x 8 = 13,824 without the 12."""
    network = graph("chain")
    grouping = find(network)
    shares = [entry["share_of_macs"] for entry in explain(network, grouping, cost_model(network, grouping))]
    full = 64 * 27 * 8 + 16 * 9 * 8 * 12 + 4 * 12

    assert [pytest.approx((full - 48) / full), pytest.approx((full - 13824) / full)] == shares
