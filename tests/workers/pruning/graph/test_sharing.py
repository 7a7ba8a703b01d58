"""Layers that are applied several times stay one; what an exporter stored once parts."""

import re

import numpy as np
import onnx
import torch

from tests.networks import graph, onnx_bytes
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.renormalise import to_insert
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask

# One tower on two images: convolutions with bias, a normalisation and a slope, all applied twice; then a distance.
TOWERS = """
towers (float[N,3,8,8] one, float[N,3,8,8] two) => (float[N,4] y)
<float[8,3,3,3] first_w, float[8] first_b, float[8] norm_scale, float[8] norm_b, float[8] norm_mean, float[8] norm_var,
 float[8,1,1] slope, float[6,8,3,3] second_w, float[6] second_b, float[4,6] fc_w, float[4] fc_b>
{
  [a1] a1 = Conv <pads = [1,1,1,1]> (one, first_w, first_b)
  [b1] b1 = Conv <pads = [1,1,1,1]> (two, first_w, first_b)
  [an] a2 = BatchNormalization (a1, norm_scale, norm_b, norm_mean, norm_var)
  [bn] b2 = BatchNormalization (b1, norm_scale, norm_b, norm_mean, norm_var)
  [ap] a3 = PRelu (a2, slope)
  [bp] b3 = PRelu (b2, slope)
  [a4] a4 = Conv (a3, second_w, second_b)
  [b4] b4 = Conv (b3, second_w, second_b)
  [difference] d0 = Sub (a4, b4)
  [pool] d1 = GlobalAveragePool (d0)
  [flat] d2 = Flatten (d1)
  [fc] y = Gemm <transB = 1> (d2, fc_w, fc_b)
}
"""


def test_a_layer_that_is_applied_twice_stays_one() -> None:
    """Eleven weights come in and eleven leave, the cut network's file included; 8 and 6 channels are pruned."""
    network = graph(TOWERS)
    grouping = find(network)
    keep = random_keep(grouping, 0)
    smaller = load(to_bytes(cut(network, grouping, keep)))

    assert 11 == len(weights(network)) == len(weights(smaller))
    assert [(8, {"a1", "b1"}, {"a4", "b4"}), (6, {"a4", "b4"}, {"fc"})] == [
        (group.width, set(group.producers), set(group.consumers)) for group in grouping.groups
    ]
    assert 3 * 8 * 9 + 8 + 5 * 8 + 6 * 8 * 9 + 6 + 4 * 6 + 4 == count(network).params
    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=0)


def test_a_shared_layer_is_trained_as_one() -> None:
    """Its gradient is the sum of the gradients of independent copies."""
    network = graph(TOWERS)
    inputs = [
        torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 3, 8, 8), np.float32)) for seed in (0, 1)
    ]
    apart = graph(_apart(TOWERS))
    held = weights(network)
    apart = replace_weights(apart, {name: held[re.sub("_(copy|2)$", "", name)] for name in weights(apart)})
    found = []
    for each in (network, apart):
        module = GraphModule(each).eval()
        module(*inputs)[0].square().sum().backward()
        found.append({name: tensor.grad for name, tensor in module.initializers.items() if tensor.requires_grad})
    together, copies = found

    assert "first_w_copy" in copies
    torch.testing.assert_close(together["first_w"], copies["first_w"] + copies["first_w_copy"])


def _apart(text: str) -> str:
    """The same network with weights of its own in the second tower's first layer."""
    named = text.replace("float[8] first_b,", "float[8] first_b, float[8,3,3,3] first_w_copy,")
    return named.replace("(two, first_w,", "(two, first_w_copy,")


def test_equal_numbers_that_were_stored_once_part() -> None:
    """Two biases of different layers, and two kernels of zeros, are no shared layer."""
    text = """
    stored_once (float[N,3,4,4] x) => (float[N,8,4,4] y)
    <float[8,3,1,1] a_w, float[8] both_b, float[8,8,1,1] b_w, float[8,8,1,1] zero>
    {
      a = Conv (x, a_w, both_b)
      b = Conv (a, b_w, both_b)
      c = Conv (b, zero)
      d = Conv (c, zero)
      y = Add (b, d)
    }
    """
    file = onnx.load_from_string(onnx_bytes(text))
    zero = next(each for each in file.graph.initializer if each.name == "zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.zeros((8, 8, 1, 1), np.float32), "zero"))
    loaded = load(file.SerializeToString())

    assert all(len(value.uses()) == 1 for value in loaded.graph.initializers.values())


def test_shared_kernels_keep_their_bias() -> None:
    """A folded normalisation is not put back where one kernel would have to take up two."""
    folded = TOWERS.replace("a3 = PRelu (a2", "a3 = PRelu (a1").replace("b3 = PRelu (b2", "b3 = PRelu (b1")
    lines = [line for line in folded.splitlines() if "BatchNormalization" not in line]
    network = graph("\n".join(lines))

    assert () == to_insert(network)
