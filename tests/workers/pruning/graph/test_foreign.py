"""Nodes that torch has no function for: what ONNX Runtime gives for them, alone, beside the whole network."""

import numpy as np
import onnx
import pytest
import torch

from tests.workers.pruning.graph.single import run_reference
from workers.pruning.errors import UnsupportedOperator
from workers.pruning.graph.execute import GraphModule, foreign_nodes
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import clone

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
IF = """net (float[N,3] x, bool c) => (float[N,3] y) <float[3] k = {1, 2, 3}> {
  a = Sigmoid (x)
  b = Neg (x)
  h = If (c) <then_branch = t () => (float[M,3] p) { q = Mul (a, k) p = Add (q, b) },
              else_branch = e () => (float[M,3] r) { r = Identity (b) }>
  y = Tanh (h) }"""
LOOP = """net (float[N,3] x) => (float[N,3] y, float[5,N,3] each)
    <int64 n = {5}, bool go = {1}, float[3] k = {0.5, 1, 2}> {
  a = Tanh (x)
  h, each = Loop (n, go, x) <body = b (int64 i, bool on, float[M,3] s) => (bool more, float[M,3] t, float[M,3] u) {
      more = Identity (on)  w = Mul (a, k)  t = Add (s, w)  u = Neg (t) }>
  y = Relu (h) }"""
SCAN = """net (float[4,3] x) => (float[4,3] y, float[3] last) <float[3] zero = {0, 0, 0}> {
  a = Exp (x)
  last, y = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] t, float[3] u) {
      t = Add (s, e)  u = Identity (t) }> (zero, a) }"""
NESTED = """net (float[N,3] x, bool c) => (float[N,3] y) {
  a = Sigmoid (x)
  y = If (c) <then_branch = t () => (float[M,3] p) {
        p = If (c) <then_branch = tt () => (float[M,3] q) { q = Add (a, x) },
                    else_branch = te () => (float[M,3] r) { r = Neg (x) }> },
      else_branch = e () => (float[M,3] z) { z = Identity (x) }> }"""
SEQUENCE = """net (float[6,3] x, int64 at) => (float[2,3] y) <int64 each = {2}> {
  parts = SplitToSequence <axis = 0> (x, each)
  more = SequenceInsert (parts, x)
  one = SequenceAt (more, at)
  y = Relu (one) }"""
TEXT = """net (float[2,2] x) => (float[2,2] y) <string[2] words = {"a,b", "c,d"}> {
  parts, counts = StringSplit <delimiter = ","> (words)
  lengths = Cast <to = 1> (counts)
  y = Add (x, lengths) }"""
PAIR = "net (float[N,3] x) => (int64[2,k] y) { y = NonZero (x) }"


def _loaded(text, opset=17):
    proto = onnx.parser.parse_model(HEADER.replace("17", str(opset)) + text)
    return load(proto.SerializeToString())


def _run(graph, feeds):
    module = GraphModule(graph).eval()
    return [output.detach().numpy() for output in module(*(torch.from_numpy(array) for array in feeds.values()))]


X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "feeds"),
    [
        (IF, {"x": X, "c": np.asarray(True)}),
        (IF, {"x": X, "c": np.asarray(False)}),
        (LOOP, {"x": X}),
        (SCAN, {"x": X}),
        (NESTED, {"x": X, "c": np.asarray(True)}),
        (SEQUENCE, {"x": np.concatenate([X, X[:2]]), "at": np.asarray(1)}),
        (PAIR, {"x": X}),
    ],
)
def test_a_node_alone_gives_what_it_gives_in_the_network(text, feeds):
    """Control flow with values from around it, sequences between nodes, outputs whose shape the data decide."""
    graph = _loaded(text)
    expected = run_reference(to_bytes(graph), feeds)

    for wanted, found in zip(expected, _run(graph, feeds), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)
    for wanted, found in zip(expected, _run(clone(graph), feeds), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def test_text_travels_between_such_nodes():
    """Torch has no strings; what is computed from them goes on in torch."""
    feeds = {"x": X[:2, :2]}
    graph = _loaded(TEXT, opset=20)

    np.testing.assert_array_equal(_run(graph, feeds)[0], feeds["x"] + 2)


def test_no_gradient_passes_and_those_around_it_are_kept():
    """x reaches y through the loop and beside it: the gradient is that of the way beside."""
    graph = _loaded(LOOP.replace("y = Relu (h)", "y = Add (h, x)"))
    x = torch.from_numpy(X).requires_grad_()
    y, each = GraphModule(graph)(x)
    y.sum().backward()

    assert not each.requires_grad
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_half_precision_is_rounded_for_the_node_and_goes_on_in_float32():
    """A determinant of float16 numbers."""
    text = "net (float16[1,1,2,2] x) => (float16[1,1] y) { y = Det (x) }"
    graph = _loaded(text)
    x = X[:2, :2].astype(np.float16).reshape(1, 1, 2, 2)
    (wanted,) = run_reference(to_bytes(graph), {"x": x})
    (found,) = GraphModule(graph)(torch.from_numpy(x))

    assert found.dtype is torch.float32
    np.testing.assert_allclose(found.numpy(), wanted.astype(np.float32), rtol=1e-3)


def test_a_draw_without_a_seed_gets_one():
    """Two modules of one graph draw the same numbers, so that a job can be repeated."""
    graph = _loaded("net (float[N,3] x) => (float[N,3] y) { r = RandomNormalLike (x) y = Add (x, r) }")
    first, second = (_run(graph, {"x": X})[0] for _ in range(2))

    np.testing.assert_array_equal(first, second)
    assert np.abs(first - X).max() > 0


def test_what_neither_can_run_is_refused_by_name():
    """The message carries the node, the operator and what ONNX Runtime says."""
    graph = _loaded("net (uint8[n] x) => (uint8[h,w,3] y) { [here] y = ImageDecoder (x) }", opset=20)
    with pytest.raises(UnsupportedOperator, match=r"neither torch nor ONNX Runtime.*node 'here'; found ImageDecoder"):
        GraphModule(graph)


def test_only_what_torch_lacks_is_foreign():
    """An operator that is known, with a setting that is not, counts as well."""
    assert foreign_nodes(_loaded(PAIR)) == {"NonZero_y"}
    assert foreign_nodes(_loaded("net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")) == set()
