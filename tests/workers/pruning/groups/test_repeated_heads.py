"""Heads of keys and values that serve several heads of queries, however exporters repeat them; units by hand."""

import pytest

from tests.networks import graph
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.graph.cost import count
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Grouping

# Queries have several heads of 4 positions, keys and values `kept` of them; both are repeated by what is put in.
_TEXT = """
repeated (float[N,T,6] x) => (float[N,T,3] y)
<float[6,{wide}] q_w, float[6,{narrow}] k_w, float[6,{narrow}] v_w, float[{wide},3] out_w, int64[4] many = {{0,0,-1,4}},
 int64[4] few = {{0,0,{kept},4}}, int64[3] whole = {{0,0,{wide}}}, int64[1] axis = {{2}},
 int64[5] expand = {{1,1,{times},1,1}},
 int64[{heads}] picked = {{{indices}}}, int64[4] tile = {{1,{times},1,1}}, int64[1] minus = {{-1}},
 int64[1] zero = {{0}},
 int64[1] one = {{1}}, int64[1] three = {{3}}, int64[1] five = {{5}}, int64[1] kept = {{{kept}}},
 int64[1] times = {{{times}}},
 int64[4] joined = {{0,{heads},-1,4}}>
{{
  [q] q0 = MatMul (x, q_w)
  [k] k0 = MatMul (x, k_w)
  [v] v0 = MatMul (x, v_w)
  q1 = Reshape (q0, many)
  k1 = Reshape (k0, few)
  v1 = Reshape (v0, few)
  q = Transpose <perm = [0,2,1,3]> (q1)
  k = Transpose <perm = [0,2,1,3]> (k1)
  v = Transpose <perm = [0,2,1,3]> (v1)
  {repeat_k}
  {repeat_v}
  kt = Transpose <perm = [0,1,3,2]> (kr)
  [scores] s0 = MatMul (q, kt)
  s = Softmax <axis = -1> (s0)
  [mix] m0 = MatMul (s, vr)
  m1 = Transpose <perm = [0,2,1,3]> (m0)
  m = Reshape (m1, whole)
  [out] y = MatMul (m, out_w)
}}
"""
# Each with heads next to their copies (a, a, b, b) but for tile and concat, which give (a, b, a, b).
_FORMS = {
    "expand": "{0}2 = Unsqueeze ({0}, axis) {0}3 = Expand ({0}2, expand) {0}r = Reshape ({0}3, joined)",
    "shape_chain": "{0}2 = Unsqueeze ({0}, axis) {0}4 = Shape ({0}) {0}5 = Slice ({0}4, zero, one) "
    "{0}6 = Slice ({0}4, axis, three) {0}7 = Slice ({0}4, three, five) "
    "{0}8 = Concat <axis = 0> ({0}5, kept, times, {0}6, {0}7) "
    "{0}3 = Expand ({0}2, {0}8) {0}9 = Shape ({0}3) {0}10 = Slice ({0}9, zero, one) {0}11 = Slice ({0}9, three, five) "
    "{0}12 = Concat <axis = 0> ({0}10, minus, {0}11) {0}r = Reshape ({0}3, {0}12)",
    "gather": "{0}r = Gather <axis = 1> ({0}, picked)",
    "tile": "{0}r = Tile ({0}, tile)",
    "concat": "{0}r = Concat <axis = 1> ({copies})",
    "stack": "{stacked} {0}3 = Concat <axis = 2> ({stack}) {0}r = Reshape ({0}3, joined)",
}


def _text(form: str, *, heads: int, kept: int) -> str:
    times = heads // kept
    repeats = {f"repeat_{name}": _repeated(form, name, times) for name in ("k", "v")}
    indices = ",".join(str(head // times) for head in range(heads))
    numbers = {"wide": 4 * heads, "narrow": 4 * kept, "heads": heads, "kept": kept, "times": times}
    return _TEXT.format(**numbers, indices=indices, **repeats)


def _repeated(form: str, name: str, times: int) -> str:
    stack = [f"{name}s{index}" for index in range(times)]
    stacked = " ".join(f"{each} = Unsqueeze ({name}, axis)" for each in stack)
    return _FORMS[form].format(name, copies=", ".join([name] * times), stack=", ".join(stack), stacked=stacked)


def _units(grouping: Grouping, weight: str, *, whole: bool) -> list[int] | None:
    """Units along the axis of a projection that attention works on: inside of heads, or whole heads."""
    return next(
        (
            entry.units.tolist()
            for entry in grouping.initializer_axes
            if entry.initializer == weight and bool((entry.units >= grouping.first_crossing).any()) is whole
        ),
        None,
    )


@pytest.mark.parametrize("form", _FORMS)
def test_a_head_of_keys_goes_with_the_heads_of_queries_that_it_serves(form: str) -> None:
    """Four heads of queries, two of keys and values: four positions of each kind, two whole heads."""
    grouping = find(graph(_text(form, heads=4, kept=2)))
    # Heads 0 and 1 of the queries read head 0 of the keys; where copies follow each other, heads 0 and 2 do.
    served = [8, 9, 8, 9] if form in {"tile", "concat"} else [8, 8, 9, 9]

    assert [(4, False), (4, False), (2, True)] == [(group.width, group.whole_heads) for group in grouping.groups]
    assert [0, 1, 2, 3] * 4 == _units(grouping, "q_w", whole=False)
    assert [0, 1, 2, 3] * 2 == _units(grouping, "k_w", whole=False)
    assert [4, 5, 6, 7] * 2 == _units(grouping, "v_w", whole=False)
    assert [head for head in served for _ in range(4)] == _units(grouping, "q_w", whole=True)
    assert [8] * 4 + [9] * 4 == _units(grouping, "k_w", whole=True) == _units(grouping, "v_w", whole=True)


@pytest.mark.parametrize("form", _FORMS)
def test_heads_of_queries_go_one_by_one_where_all_read_the_same_keys(form: str) -> None:
    """Three heads of queries, one of keys and values, which stays and loses positions only."""
    grouping = find(graph(_text(form, heads=3, kept=1)))

    assert [(4, False), (4, False), (3, True)] == [(group.width, group.whole_heads) for group in grouping.groups]
    assert [0, 1, 2, 3] * 3 == _units(grouping, "q_w", whole=False)
    assert [0, 1, 2, 3] == _units(grouping, "k_w", whole=False)
    assert [8] * 4 + [9] * 4 + [10] * 4 == _units(grouping, "q_w", whole=True) == _units(grouping, "out_w", whole=True)
    assert _units(grouping, "k_w", whole=True) is None is _units(grouping, "v_w", whole=True)


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("form", _FORMS)
def test_repeated_heads_and_their_positions_are_cut_at_once(form: str, kept: int) -> None:
    """The cut equals the masked network and costs what was predicted, down to a single head."""
    network = graph(_text(form, heads=4, kept=kept))
    grouping = find(network)
    model = cost_model(network, grouping)
    for seed in range(4):
        keep = random_keep(grouping, seed)
        smaller = cut(network, grouping, keep)
        predicted, counted = cost(model, widths(grouping, keep)), count(smaller)

        assert 1e-4 >= check(mask(network, grouping, keep), smaller, seed=seed)
        assert (predicted.macs, predicted.params) == (counted.macs, counted.params)
        assert predicted.peak_activation_bytes == counted.peak_activation_bytes
