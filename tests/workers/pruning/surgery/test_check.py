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
from workers.pruning.types import Keep


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


_CENTRED = """
centred (float[N,3,4,4] x) => (float[N,2] y)
<float[3,3,1,1] a_w, float[3,1,3,3] b_w, float[2,3] fc_w, float[2] fc_b = {0, 0}>
{
  [a] a = Conv (x, a_w)
  [b] b = Conv <group = 3, pads = [1,1,1,1]> (a, b_w)
  [mean] m = ReduceMean <axes = [1]> (b)
  [sub] c = Sub (b, m)
  [pool] p = GlobalAveragePool (c)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""


def test_what_is_left_of_a_difference_that_is_zero_is_rounding() -> None:
    """One channel minus the mean of the channels that are left is 0 when cut, and a last bit when masked."""
    network = graph(_CENTRED)
    grouping = find(network)
    keep = Keep(mask=np.asarray([True, False, False]))
    masked, smaller = mask(network, grouping, keep), cut(network, grouping, keep)

    assert [3] == [group.width for group in grouping.groups]
    assert 1e-4 >= check(masked, smaller, seed=1)


def test_rounding_excuses_nothing_larger() -> None:
    """The same network with an output that is off by 1e-5 is found."""
    network = graph(_CENTRED)
    grouping = find(network)
    keep = Keep(mask=np.asarray([True, False, False]))
    smaller = cut(network, grouping, keep)
    with pytest.raises(SurgeryCheckFailed, match="output 'y'"):
        check(mask(network, grouping, keep), replace_weights(smaller, {"fc_b": np.full(2, 1e-5)}), seed=1)
