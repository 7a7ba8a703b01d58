"""One table for the first layer and the last: it stays one, and its columns go with the stream; units by hand."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.networks import graph
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.compensation.least_squares import compensate
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import is_parameter, weights
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.scores.collect import find_sites
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.graft import graft
from workers.pruning.surgery.mask import mask
from workers.pruning.training.reset import reset

_LAYERS = """
  [up] b = MatMul (a, up_w)
  c = Relu (b)
  [down] d = MatMul (c, down_w)
  [add] e = Add (a, d)
  [norm] f = LayerNormalization (e, norm_scale, norm_b)
"""
_WEIGHTS = "float[13,8] table, float[8] norm_scale, float[8] norm_b, float[8,12] up_w, float[12,8] down_w"
_WORDS = "(int64[N,5] x) => (float[N,5,13] y)"


def _network(last: str, *, fed: str = _WORDS, stored: str = "") -> str:
    """Thirteen words in 8 channels, a hidden layer of 12, and a last layer that reads the table of words again."""
    return f"tied {fed} <{_WEIGHTS}{stored}> {{ [embed] a = Gather (table, x) {_LAYERS} {last} }}"


TURNED = _network("[turn] t = Transpose <perm = [1,0]> (table) [head] y = MatMul (f, t)")
FORMS = {
    "turned": TURNED,
    "gemm": _network("[head] y = Gemm <transB = 1> (f, table)", fed="(int64[N] x) => (float[N,13] y)"),
    "turned_gemm": _network(
        "[turn] t = Transpose (table) [head] y = Gemm (f, t, last_b)",
        fed="(int64[N] x) => (float[N,13] y)",
        stored=", float[13] last_b",
    ),
    "einsum": _network('[head] y = Einsum <equation = "bsd,vd->bsv"> (f, table)'),
}


def _fed(network: ir.Model, batch: int = 4) -> list[np.ndarray]:
    """Words for every input of a network."""
    random = np.random.default_rng(0)
    shapes = [value.shape for value in network.graph.inputs]
    return [random.integers(0, 13, [n if isinstance(n, int) else batch for n in shape or ()]) for shape in shapes]


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_a_tied_table_are_the_channels_of_the_stream(form: str) -> None:
    """Eight channels, made by the lookup and the hidden layer, read by the hidden layer and the head; one table."""
    network = graph(FORMS[form])
    grouping = find(network)
    lines = {
        (entry.initializer, entry.axis): entry.units.tolist()
        for entry in grouping.initializer_axes
        if entry.initializer == "table"
    }

    assert [(8, {"embed", "down"}, {"up", "head"}), (12, {"up"}, {"down"})] == [
        (group.width, set(group.producers), set(group.consumers)) for group in grouping.groups
    ]
    assert {("table", 1): [0, 1, 2, 3, 4, 5, 6, 7]} == lines
    assert {("head", 0)} == {(site.node, site.index) for site in find_sites(network, grouping)} - {
        ("up", 0),
        ("down", 0),
    }
    stored = 13 * 8 + 8 + 8 + 8 * 12 + 12 * 8 + (13 if form == "turned_gemm" else 0)
    assert stored == count(network).params


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tied_table_is_cut_once_for_both_uses(form: str, seed: int) -> None:
    """Cut equals masked, costs what was predicted, and its file holds one table with the columns that stay."""
    network = graph(FORMS[form])
    grouping = find(network)
    keep = random_keep(grouping, seed)
    smaller = cut(network, grouping, keep)
    predicted = cost(cost_model(network, grouping), widths(grouping, keep))
    again = load(to_bytes(smaller))

    assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
    assert predicted.macs == count(smaller).macs
    assert predicted.params == count(smaller).params
    assert predicted.peak_activation_bytes == count(smaller).peak_activation_bytes
    assert [(13, int(keep.mask[:8].sum()))] == [
        a.shape for n, a in weights(again).items() if 13 in a.shape and a.ndim > 1
    ]
    np.testing.assert_array_equal(weights(network)["table"][:, keep.mask[:8]], weights(again)["table"])
    np.testing.assert_array_equal(weights(graft(network, smaller, grouping, keep))["table"], weights(network)["table"])


def test_repair_leaves_a_tied_table_alone() -> None:
    """Refitted for the last layer it would be another table for the first; the hidden layer is refitted."""
    network = graph(TURNED)
    grouping = find(network)
    keep = random_keep(grouping, 1)
    smaller = cut(network, grouping, keep)
    repaired = weights(compensate(network, smaller, grouping, keep, [_fed(network, 64)], run=run_of()))

    np.testing.assert_array_equal(weights(smaller)["table"], repaired["table"])
    assert not np.array_equal(weights(smaller)["down_w"], repaired["down_w"])


def test_a_tied_table_is_trained_with_the_gradients_of_both_uses() -> None:
    """What it gets is the sum of what a table for the lookup and one for the head get."""
    apart = _network(
        "[turn] t = Transpose <perm = [1,0]> (second) [head] y = MatMul (f, t)", stored=", float[13,8] second"
    )
    numbers = torch.linspace(-1, 1, 104).reshape(13, 8)
    found = []
    for network in (graph(TURNED), graph(apart)):
        module = GraphModule(network).eval()
        held = {name: tensor.requires_grad_() for name, tensor in module.initializers.items()}
        with torch.no_grad():
            held["table"].copy_(numbers)
            held.get("t", torch.empty(8, 13)).copy_(numbers.T)
        module(torch.from_numpy(_fed(network)[0]))[0].square().sum().backward()
        found.append({name: tensor.grad for name, tensor in held.items()})
    together, copies = found

    torch.testing.assert_close(together["table"], copies["table"] + copies["t"].T, rtol=1e-4, atol=1e-4)


def test_a_tied_table_is_a_parameter() -> None:
    """The last layer trains it, so starting from scratch draws it anew: 104 numbers of variance 2 / 8."""
    network = graph(TURNED)
    fresh = weights(reset(network, 0))["table"]

    assert is_parameter(network.graph.initializers["table"])
    assert 0.25 == pytest.approx(fresh.var(), rel=0.5)
    assert (8,) == (magnitude(network, find(network)).values[:8].shape)


def test_two_texts_share_what_follows_their_lookup() -> None:
    """Two lookups in one table, one normalisation behind each: three parameters, cut once."""
    text = """
    texts (int64[N,5] one, int64[N,5] two) => (float[N,5,3] y)
    <float[13,8] table, float[8] norm_scale, float[8] norm_b, float[8,3] out_w>
    {
      [first] a = Gather (table, one)
      [second] b = Gather (table, two)
      [left] c = LayerNormalization (a, norm_scale, norm_b)
      [right] d = LayerNormalization (b, norm_scale, norm_b)
      [difference] e = Sub (c, d)
      [out] y = MatMul (e, out_w)
    }
    """
    network = graph(text)
    grouping = find(network)
    keep = random_keep(grouping, 0)

    assert {"table", "norm_scale", "norm_b", "out_w"} == set(weights(network))
    assert [(8, ("first", "second"), ("out",))] == [(g.width, g.producers, g.consumers) for g in grouping.groups]
    assert 1e-4 >= check(mask(network, grouping, keep), cut(network, grouping, keep), seed=0)


def test_a_table_that_is_turned_for_something_else_is_worked_out() -> None:
    """Without a lookup, or with a reader that is no product, the turned table is a constant as any other."""
    alone = graph(
        "a (float[N,8] x) => (float[N,13] y) <float[13,8] w> { t = Transpose <perm = [1,0]> (w) y = MatMul (x, t) }"
    )
    added = graph(
        _network(
            "t = Transpose <perm = [1,0]> (table) g = MatMul (f, t) "
            "h = Relu (t) i = Flatten (h) j = ReduceSum (i) y = Add (g, j)"
        )
    )

    assert all(node.op_type != "Transpose" for node in (*alone.graph, *added.graph))
