"""The cost of a cut, predicted without cutting."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import NETWORKS, graph
from tests.torch_networks import exported
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pruning.allocation.budget import cost
from workers.pruning.graph.cost import count
from workers.pruning.graph.load import load
from workers.pruning.graph.shapes import nominal_shapes
from workers.pruning.groups.cost_model import cost_model, from_json, to_json
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.types import CostModel, Keep, Length, Term

TORCH = ["vgg16", "mobilenetv2", "densenet", "unet", "resnet_padded", "squeeze_excite", "shufflenet"]


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_predicted_cost_is_counted_cost(name: str, seed: int) -> None:
    """MACs, parameters and peak are exactly those of the cut graph; the file is never larger than predicted."""
    network = graph(name)
    grouping = find(network)
    keep = random_keep(grouping, seed)
    predicted = cost(cost_model(network, grouping), widths(grouping, keep))
    counted = count(cut(network, grouping, keep))

    assert (counted.macs, counted.params) == (predicted.macs, predicted.params)
    assert counted.peak_activation_bytes == predicted.peak_activation_bytes
    assert counted.size_bytes <= predicted.size_bytes


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", TORCH)
def test_predicted_cost_is_counted_cost_on_exports(name: str, folded: bool) -> None:
    """The same on networks of the usual kinds; their files are predicted to 1 %."""
    network = load(exported(name, "legacy", folded=folded))
    grouping = find(network)
    keep = random_keep(grouping, 0)
    predicted = cost(cost_model(network, grouping), widths(grouping, keep))
    counted = count(cut(network, grouping, keep))

    assert (counted.macs, counted.params) == (predicted.macs, predicted.params)
    assert counted.peak_activation_bytes == predicted.peak_activation_bytes
    assert counted.size_bytes <= predicted.size_bytes <= 1.01 * counted.size_bytes


@pytest.mark.parametrize("length", [1, 300])
def test_a_file_holds_the_lists_that_a_cut_writes_out(length: int) -> None:
    """A weight expanded to a computed shape, which two read, and a Split without sizes: no larger than predicted.

    The longer the names the larger the nodes that a cut adds, which repeat them.
    """
    long = "a" * length
    network = graph(
        f"""net (float[N,3,5] x) => (float[N,3,2] y)
        <float[5,6] w1, float[1,1,6] token, float[1,1,6] other, float[6,8] w2, float[4,2] w3>
        {{
          [first] h = MatMul (x, w1)
          [{long}_shape] {long}_lengths = Shape (h)
          [{long}_expand] {long}_tokens = Expand (token, {long}_lengths)
          [{long}_again] {long}_others = Expand (other, {long}_lengths)
          [add] added = Sum (h, {long}_tokens, {long}_others)
          [second] m = MatMul (added, w2)
          [{long}_split] left, right = Split <axis = -1> (m)
          [both] both = Mul (left, right)
          [third] y = MatMul (both, w3)
        }}"""
    )
    grouping = find(network)
    keep = Keep(mask=~np.isin(np.arange(grouping.num_units), [group.start for group in grouping.groups]))
    predicted = cost(cost_model(network, grouping), widths(grouping, keep))
    smaller = cut(network, grouping, keep)

    assert {"Where", "Expand", "Shape"} <= {node.op_type for node in smaller.graph}
    assert count(smaller).size_bytes <= predicted.size_bytes


@pytest.mark.parametrize("name", NETWORKS)
def test_full_widths_cost_what_the_original_costs(name: str) -> None:
    """Keeping everything predicts the figures of the file as it is."""
    network = graph(name)
    model = cost_model(network, find(network))
    full, predicted = count(network), cost(model, model.widths)

    assert (full.macs, full.params, full.peak_activation_bytes) == (
        predicted.macs,
        predicted.params,
        predicted.peak_activation_bytes,
    )


def test_terms_are_those_found_by_hand() -> None:
    """Chain: 64 x 27 a + 16 x 9 a b + 4 b, for 8 x 8 and 4 x 4 planes, 3 x 3 filters, 3 inputs and 4 outputs."""
    network = graph("chain")
    model = cost_model(network, find(network))
    a, b = Length(fixed=0, parts=((0, 1),)), Length(fixed=0, parts=((1, 1),))
    expected = {
        Term(coefficient=64.0 * 27, lengths=(a,)),
        Term(coefficient=16.0 * 9, lengths=(a, b)),
        Term(coefficient=4.0, lengths=(b,)),
    }

    assert (8, 12) == model.widths
    assert expected == set(model.macs)


def test_the_model_survives_json() -> None:
    """What a process without the engine reads is the same model."""
    network = graph("concat")
    grouping = find(network)
    model = cost_model(network, grouping)
    data = json.loads(json.dumps(to_json(model, grouping)))

    assert model == from_json(data)
    assert ["g0", "g1", "g2"] == data["group_ids"]
    assert [6, 5, 7] == data["widths"]


@pytest.mark.data
def test_an_open_image_size_counts_as_a_stated_one(data_dir: Path) -> None:
    """A detector for images of any size is counted at 224 x 224: its last map has as many pixels."""
    network = load(data_dir / "zoo" / "ppocrv3_det.onnx")
    grouping = find(network)
    model = cost_model(network, grouping)

    assert count(network).macs == cost(model, model.widths).macs
    assert (1, 1, 224, 224) == nominal_shapes(network)["sigmoid_0.tmp_0"]


def test_a_network_without_units_still_has_a_cost() -> None:
    """With everything frozen, all terms are constants."""
    network = graph("chain")
    model = cost_model(network, find(network, exclude=["*"]))

    assert () == model.widths
    assert isinstance(model, CostModel)
    assert count(network).macs == cost(model, ()).macs


def test_attention_as_one_operator_is_counted() -> None:
    """5 queries of 8 numbers against 5 keys, and the weights against 5 values: 2 x 5 x 5 x 8 MACs, which stay."""
    network = graph(
        """net (float[N,5,6] x) => (float[N,5,4] y) <float[6,8] q_w, float[6,8] k_w, float[6,8] v_w, float[8,4] o_w>
        {
          [q] q = MatMul (x, q_w)
          [k] k = MatMul (x, k_w)
          [v] v = MatMul (x, v_w)
          [a] a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
          [o] y = MatMul (a, o_w)
        }""",
        header='<ir_version: 10, opset_import: ["" : 23]>',
    )
    grouping = find(network)

    assert 0 == grouping.num_units
    assert 2 * 5 * 5 * 8 + 3 * 5 * 6 * 8 + 5 * 8 * 4 == cost(cost_model(network, grouping), ()).macs
    assert count(network).macs == cost(cost_model(network, grouping), ()).macs
