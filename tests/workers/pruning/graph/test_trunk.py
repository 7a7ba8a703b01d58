"""The part of a network that gradients pass, and its return into the whole."""

import numpy as np
import pytest

from tests.workers.pruning.graph.single import run_reference
from tests.workers.pruning.seeded import MIXED, seeded
from workers.pruning.graph.execute import foreign_nodes
from workers.pruning.graph.head import INNER, Head, added_outputs, carried_outputs, find, inner_outputs
from workers.pruning.graph.load import load
from workers.pruning.graph.observed import observed
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.trunk import cut_off, restored, trunk

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHTS = "float[4, 4] w1, float[4] b1, float[4, 4] w2, float[4] b2"
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def _graph(outputs, body, sizes=""):
    text = f"net (float[N, 4] x, {WEIGHTS}) => ({outputs}) {sizes} {{ a = Gemm (x, w1, b1)  h = Relu (a)\n {body} }}"
    return load(to_bytes(seeded(HEADER + text)))


def _split(graph):
    return trunk(graph, foreign_nodes(graph))


def _names(graph):
    return [value.name for value in graph.graph.outputs]


def test_a_network_that_gradients_pass_is_its_own_trunk():
    """Nothing is copied, and nothing is said."""
    graph = load(to_bytes(seeded(MIXED)))
    part = _split(graph)

    assert part.graph is graph
    assert (part.is_whole, part.stops, part.tail) == (True, (), ())


@pytest.mark.parametrize(
    ("outputs", "body", "expected"),
    [
        ("float[N, 4] y", "r = Floor (h)  y = Gemm (r, w2, b2)", ["y", "h"]),
        ("float[N, 4] y", "r = Floor (h)  s = Add (r, h)  y = Gemm (s, w2, b2)", ["y"]),
        ("float[N, 4] y, int64[N] z", "y = Gemm (h, w2, b2)  z = ArgMax <axis = 1, keepdims = 0> (y)", ["y", "z"]),
        ("int64[N] z", "y = Gemm (h, w2, b2)  z = ArgMax <axis = 1, keepdims = 0> (y)", ["z", "y"]),
        (
            "float[N, 4] y",
            "m = Greater (h, x)  f = Cast <to = 1> (m)  t = Mul (f, x)  y = Gemm (t, w2, b2)",
            ["y", "h"],
        ),
    ],
)
def test_what_a_stop_reads_is_an_output_where_no_gradient_comes_otherwise(outputs, body, expected):
    """A rounding, a rounding with a way beside it, indices beside scores, indices alone, a mask."""
    assert _names(_split(_graph(outputs, body)).graph) == expected


def test_what_the_data_size_is_the_tail():
    """Rows that are picked are no samples'; the rows that they are picked from are learned."""
    graph = _graph("float[k, 4] y", "z = NonZero (h)  i = Gather (z, first)  y = Gather (h, i)", "<int64 first = {0}>")
    part = _split(graph)

    assert (_names(part.graph), part.tail, part.stops[0]) == (["h"], ("z", "i", "y"), ("z", "NonZero"))
    assert find(part.graph) is Head.OTHER


def test_a_step_that_takes_the_batch_away_is_left_to_the_tail():
    """What enters the suppression of boxes is looked at where samples still have their own axis."""
    graph = _graph("int64[k, 1] y", "s = ReduceSum <keepdims = 0> (h)  u = Reshape (h, all)  y = NonZero (u)",
                   "<int64[1] all = {-1}>")  # fmt: skip

    assert _names(_split(graph).graph) == ["h"]


def test_the_trunk_put_back_is_the_network():
    """Same outputs in the same order, same values, nothing noted; also when both parts hold the same weights."""
    graph = _graph(
        "float[k, 4] y, float[N, 4] v",
        "v = Gemm (h, w2, b2)  z = NonZero (v)  i = Gather (z, first)  g = Gather (v, i)  y = Gemm (g, w2, b2)",
        "<int64 first = {0}>",
    )
    part = _split(graph)
    whole = restored(part.graph, part)

    assert _names(whole) == ["y", "v"]
    assert INNER not in whole.metadata_props
    for wanted, found in zip(
        run_reference(to_bytes(graph), {"x": X}), run_reference(to_bytes(whole), {"x": X}), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_the_trunk_of_a_file_is_that_of_its_network():
    """What was put back is found again under the same names."""
    graph = _graph("float[N, 4] y", "r = Floor (h)  y = Gemm (r, w2, b2)")
    part = _split(graph)
    again = cut_off(load(to_bytes(restored(part.graph, part))), part.graph)

    assert (_names(again), inner_outputs(again)) == (["y", "h"], {"h"})
    assert (added_outputs(again), carried_outputs(again)) == ({"h"}, set())
    assert find(again) is find(graph) is Head.LOGITS


def test_shapes_that_onnx_does_not_know_are_seen():
    """What a loop gives follows the batch, and so does what is computed from it."""
    body = """h2 = Loop (n, go, h) <body = b (int64 i, bool on, float[M, 4] s) => (bool more, float[M, 4] t) {
        more = Identity (on)  t = Tanh (s) }>
      j = Relu (h2)  y = Gemm (j, w2, b2)"""
    graph = _graph("float[N, 4] y", body, "<int64 n = {3}, bool go = {1}>")
    noted = observed(graph, foreign_nodes(graph))
    shapes = {value.name: value.shape for node in noted.graph for value in node.outputs}

    assert [str(length) for length in shapes["j"]] == ["N", "4"]
    assert observed(noted, foreign_nodes(noted)) is noted


def test_a_name_inside_of_a_body_may_be_that_of_a_later_value_outside():
    """The counter of the loop is called as the layer behind it; each keeps its own type."""
    body = """h2 = Loop (n, go, h) <body = b (int64 j, bool on, float[M, 4] s) => (bool more, float[M, 4] t) {
        more = Identity (on)  t = Tanh (s) }>
      j = Relu (h2)  y = Gemm (j, w2, b2)"""
    graph = _graph("float[N, 4] y", body, "<int64 n = {3}, bool go = {1}>")
    named = {value.name: str(value.dtype) for node in graph.graph for value in node.outputs}

    assert named["j"] == "FLOAT"


def test_rows_that_are_picked_from_one_image_are_no_samples():
    """What is computed from them is the tail, though their number is known; what they are picked from is learned."""
    text = f"""net (float[1, 4] x, {WEIGHTS}) => (float[1, 4] v, float[3, 4] y) <int64[3] rows = {{0, 0, 0}}> {{
      a = Gemm (x, w1, b1)  h = Relu (a)  v = Gemm (h, w2, b2)
      r = Floor (h)  i = Gather (r, rows)  y = Neg (i) }}"""
    graph = load(to_bytes(seeded(HEADER + text)))
    part = trunk(graph, foreign_nodes(graph), picked=True)

    assert (_names(part.graph), part.tail) == (["v", "h"], ("r", "i", "y"))
    assert _names(_split(graph).graph) == ["v", "y"]


def test_nodes_come_back_in_their_order():
    """A node of the tail that stood between those of the part stands there again."""
    graph = _graph(
        "float[k, 4] y, float[N, 4] v",
        "z = NonZero (h)  i = Gather (z, first)  y = Gather (h, i)  v = Gemm (h, w2, b2)",
        "<int64 first = {0}>",
    )
    part = _split(graph)

    assert part.tail == ("z", "i", "y")
    assert [node.name for node in restored(part.graph, part).graph] == [node.name for node in graph.graph]
