"""The invariant itself: it finds what is wrong, and says where."""

import numpy as np
import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.errors import InvalidGraph, SurgeryCheckFailed
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask


def test_a_network_equals_itself() -> None:
    """No difference at all."""
    assert 0.0 == check(graph("chain"), graph("chain"), seed=0)


def test_a_wrong_weight_is_found() -> None:
    """One number that is off by one shows in the message with output, actual and allowed difference."""
    network = graph("chain")
    grouping = find(network)
    keep = random_keep(grouping, 0)
    smaller = cut(network, grouping, keep)
    wrong = weights(smaller)["fc_b"].copy()
    wrong[0] += 1
    with pytest.raises(SurgeryCheckFailed, match=r"output 'y'.*relative difference.*allowed 1e-04"):
        check(mask(network, grouping, keep), replace_weights(smaller, {"fc_b": wrong}), seed=0)


def test_another_shape_is_found() -> None:
    """An output that lost a channel is no equal."""
    network = graph("chain")
    wrong = replace_weights(network, {"fc_w": weights(network)["fc_w"][:3], "fc_b": weights(network)["fc_b"][:3]})
    wrong.graph.outputs[0].shape = None
    with pytest.raises(SurgeryCheckFailed, match="another shape"):
        check(network, wrong, seed=0)


def test_a_cut_that_does_not_run_is_found() -> None:
    """A weight that does not fit its neighbour is reported as a failed surgery, not as a bad upload."""
    network = graph("chain")
    wrong = replace_weights(network, {"conv2_w": weights(network)["conv2_w"][:, :5]})
    with pytest.raises(SurgeryCheckFailed, match="does not run"):
        check(network, wrong, seed=0)


def test_a_network_that_never_ran_is_the_uploads_fault() -> None:
    """When the masked network does not run either, the file is refused."""
    network = graph("chain")
    wrong = replace_weights(network, {"conv2_w": weights(network)["conv2_w"][:, :5]})
    with pytest.raises(InvalidGraph):
        check(wrong, wrong, seed=0)


def test_not_a_number_is_a_difference() -> None:
    """NaN is equal to nothing, so it fails."""
    network = graph("chain")
    wrong = replace_weights(network, {"fc_b": np.full(4, np.nan)})
    with pytest.raises(SurgeryCheckFailed):
        check(network, wrong, seed=0)
