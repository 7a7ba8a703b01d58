"""Networks that compute in bfloat16 are read under any opset and judged through their float32 twin."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.workers.pruning.graph.narrowed import narrowed
from tests.workers.pruning.seeded import MIXED, answers, images, seeded
from tests.workers.pruning.surgery.keeps import random_keep
from workers.pruning.errors import InvalidGraph, SurgeryCheckFailed
from workers.pruning.graph import twin
from workers.pruning.graph.load import input_specs, load
from workers.pruning.graph.open_batch import fixed_batch, open_batch
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes, twin_bytes
from workers.pruning.graph.widen import widen
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask

# The places in which a file may say bfloat16: values, weights, Constant, Cast, ConstantOfShape, bodies of If.
EVERYWHERE = """
<ir_version: 8, opset_import: ["" : 17]>
everywhere (bfloat16[N, 4] x, bool c) => (float[N, 4] y)
<bfloat16[4] w = {1, 2, 3, 4}>
{
  a = Add (x, w)
  k = Constant <value = bfloat16[1] {5}> ()
  n = Constant <value = int64[1] {4}> ()
  z = ConstantOfShape <value = bfloat16[1] {6}> (n)
  d = If (c) <
    then_branch = yes () => (bfloat16[N, 4] t) { t = Mul (a, k) },
    else_branch = no () => (bfloat16[N, 4] e) { e = Add (a, z) }
  >
  f = Cast <to = 1> (d)
  g = Cast <to = 16> (f)
  y = Cast <to = 1> (g)
}
"""


def test_a_twin_says_bfloat16_nowhere() -> None:
    """The text of the twin has the same nodes and float32 in every place; ONNX Runtime runs it."""
    proto = onnx.parser.parse_model(EVERYWHERE)
    assert widen(proto)
    assert not widen(proto)

    content = proto.SerializeToString()
    assert "bfloat16" not in onnx.printer.to_text(proto)
    x = np.ones((1, 4), np.float32)
    # By hand: 1 + w, times 5 or plus 6; text gives the numbers of a bfloat16 tensor as patterns of 16 bits.
    added = 1 + (np.array([1, 2, 3, 4], np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(
        Session(content).run([x, np.array(False)])[0][0], added + np.array([6 << 16], np.uint32).view(np.float32)
    )


def test_weights_of_a_twin_are_the_same_numbers() -> None:
    """Kernels of more and of less than a kilobyte are, bit by bit, those of the bfloat16 network."""
    graph = load(to_bytes(narrowed(seeded(MIXED))))
    wide = load(twin_bytes(graph))

    assert {value.dtype for value in wide.graph.initializers.values()} == {ir.DataType.FLOAT}
    for name, value in graph.graph.initializers.items():
        expected = value.const_value.numpy().astype(np.float32)
        np.testing.assert_array_equal(wide.graph.initializers[name].const_value.numpy(), expected)


def test_a_twin_answers_almost_what_the_network_answered_before_it_was_narrowed() -> None:
    """Rounding the weights to 8 bits moves the answers by less than 2 % of the largest."""
    original = seeded(MIXED)
    graph = load(to_bytes(narrowed(original)))
    x = images(4)
    (wanted,) = answers(original, x)
    (found,) = twin.session(graph).run([x])

    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    assert [spec.dtype for spec in input_specs(graph)] == ["bfloat16"]
    assert [spec.dtype for spec in twin.fed_specs(graph)] == ["float32"]


def test_types_are_known_though_the_opset_does_not_allow_them() -> None:
    """A network of opset 17 that states no types between its ends has bfloat16 everywhere once it is read."""
    graph = load(to_bytes(narrowed(seeded(MIXED))))

    assert {value.dtype for node in graph.graph for value in node.outputs} == {ir.DataType.BFLOAT16}
    assert len(twin.notes(graph)) == 2
    assert "opset 17" in twin.notes(graph)[1]
    assert twin.notes(load(to_bytes(seeded(MIXED)))) == ()


def test_a_file_that_is_wrong_in_float32_too_is_refused() -> None:
    """bfloat16 is no excuse: a sum of shapes that do not fit is named."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (bfloat16[N, 4] x, bfloat16[N, 3] z) => (bfloat16[N, 4] y)'

    with pytest.raises(InvalidGraph, match="Incompatible dimensions"):
        load(ir.to_proto(ir.from_onnx_text(text + "{ y = Add (x, z) }")).SerializeToString())


def test_cut_and_masked_networks_are_compared_in_float32() -> None:
    """They differ by rounding of float32 at most; a cut of other channels is found."""
    graph = load(to_bytes(narrowed(seeded(MIXED))))
    grouping = find(graph)
    keep = random_keep(grouping, 0)
    other = random_keep(grouping, 1)

    assert check(mask(graph, grouping, keep), cut(graph, grouping, keep), seed=0) < 1e-5
    with pytest.raises(SurgeryCheckFailed):
        check(mask(graph, grouping, keep), cut(graph, grouping, other), seed=0)


def test_a_fixed_batch_opens() -> None:
    """A bfloat16 network of batch 1 answers samples together as it answers them apart."""
    text = MIXED.replace("float[N,", "float[1,")
    opened = open_batch(load(to_bytes(narrowed(seeded(text)))))

    assert fixed_batch(opened) is None
    assert opened.graph.inputs[0].dtype == ir.DataType.BFLOAT16
