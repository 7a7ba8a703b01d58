"""Masks: what reads a unit reads zero, and nothing else changes."""

import numpy as np

from tests.networks import graph, inputs
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep


def test_only_what_reads_a_unit_is_zeroed() -> None:
    """Unit 1 of the first layer: column 1 of the second layer is zero, every other number stays."""
    network = graph("chain")
    grouping = find(network)
    kept = np.ones(grouping.num_units, np.bool_)
    kept[1] = False
    before, after = weights(network), weights(mask(network, grouping, Keep(mask=kept)))

    assert (after["conv2_w"][:, 1] == 0).all()
    assert (np.delete(before["conv2_w"], 1, 1) == np.delete(after["conv2_w"], 1, 1)).all()
    assert all((before[name] == after[name]).all() for name in before if name != "conv2_w")


def test_a_product_of_activations_is_gated() -> None:
    """Fused queries, keys and values: a position of the head is silent in the scores too, where no weight reads it."""
    text = """
    net (float[N,5,6] x) => (float[N,5,6] y)
    <float[6,24] in_w, float[8,6] out_w, int64[5] parts = {0, 5, 3, 2, 4}, int64[3] whole = {0, 5, 8},
     int64 q = {0}, int64 k = {1}, int64 v = {2}>
    {
      [in] a = MatMul (x, in_w)
      [open] b = Reshape (a, parts)
      [turn] c = Transpose <perm = [2,0,3,1,4]> (b)
      [gq] q0 = Gather <axis = 0> (c, q)
      [gk] k0 = Gather <axis = 0> (c, k)
      [gv] v0 = Gather <axis = 0> (c, v)
      [kt] k1 = Transpose <perm = [0,1,3,2]> (k0)
      [scores] s0 = MatMul (q0, k1)
      [soft] s = Softmax <axis = -1> (s0)
      [mix] m0 = MatMul (s, v0)
      [mt] m1 = Transpose <perm = [0,2,1,3]> (m0)
      [close] m = Reshape (m1, whole)
      [out] y = MatMul (m, out_w)
    }
    """
    network = graph(text)
    grouping = find(network)
    kept = np.asarray([True, False, True, True, True, True])
    masked = mask(network, grouping, Keep(mask=kept))
    by_hand = weights(network)["in_w"].copy().reshape(6, 3, 2, 4)
    by_hand[..., 1] = 0  # without biases, zero rows of q, k and v silence the position

    expected = Session(to_bytes(replace_weights(network, {"in_w": by_hand.reshape(6, 24)}))).run(inputs(network))

    assert [4, 2] == [group.width for group in grouping.groups]
    np.testing.assert_allclose(Session(to_bytes(masked)).run(inputs(network))[0], expected[0], rtol=1e-5, atol=1e-6)
