"""Class folders against the order of the network's outputs."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.workers.pruning.training.uploads import IMAGE_INPUT, archive, npz, picture
from workers.pruning.graph.head import Head
from workers.pruning.graph.load import input_specs, load, output_specs
from workers.pruning.training.classes import match_classes, other_order
from workers.pruning.training.data import open_dataset, require_match
from workers.pruning.training.evaluate import evaluate


def brightness(dark_first):
    """A network with two outputs: how dark and how bright an image is, in one order or the other."""
    order = "dark, bright" if dark_first else "bright, dark"
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["": 13]> g (float[N,3,8,8] input) => (float[N,2] y) {{
        mean = ReduceMean<axes = [1, 2, 3], keepdims = 1>(input)
        half = Constant<value_float = 0.5>()
        bright = Sub(mean, half)
        dark = Neg(bright)
        both = Concat<axis = 1>({order})
        y = Flatten(both)
        }}"""
    )


def members():
    """Ten images of the day and ten of the night."""
    day = {f"day/{n}.png": picture((250 - n,) * 3) for n in range(10)}
    return day | {f"night/{n}.png": picture((n,) * 3) for n in range(10)}


def test_folders_are_numbered_as_the_network_answers(tmp_path):
    """Where the outputs are night, day, the folders day and night get labels 1 and 0, and the note says so."""
    graph = brightness(dark_first=True)
    data = open_dataset(archive(tmp_path, members()), IMAGE_INPUT, seed=0)

    matched = match_classes(data, graph)

    assert matched.classes == ("night", "day")
    assert evaluate(graph, data.validation).accuracy == 0.0
    assert evaluate(graph, matched.validation).accuracy == 1.0
    assert matched.notes[-1] == (
        "Class folders are numbered as the network answers, not sorted: night, day; "
        "so it has 100.0% of 18 training samples right instead of 0.0%."
    )


def test_folders_in_the_networks_order_stay(tmp_path):
    """Where sorted order is the network's, nothing changes."""
    data = open_dataset(archive(tmp_path, members()), IMAGE_INPUT, seed=0)

    assert match_classes(data, brightness(dark_first=False)) is data


def test_numbers_are_the_users_word(tmp_path):
    """Labels uploaded as numbers stay; that they look turned is noted."""
    x = np.repeat(np.array([0, 255], np.uint8), 10)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    data = open_dataset(npz(tmp_path, x=x, y=np.repeat([1, 0], 10)), IMAGE_INPUT, seed=0)

    matched = match_classes(data, brightness(dark_first=True))

    np.testing.assert_array_equal(matched.train.labels, data.train.labels)
    assert "another order than the network's outputs: with [1, 0], 100.0% of 18" in matched.notes[-1]


@pytest.mark.parametrize(
    ("labels", "chosen", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], [1, 0]),
        ([0, 0, 1, 1], [0, 0, 1, 1], None),  # as it is
        ([0, 0, 1, 1], [1, 1, 1, 1], None),  # one answer for both: no order
        ([0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 1, 1], None),  # class 1 has its answer, so has class 0: the same one
        ([0, 0], [1, 1], None),  # class 1 was not asked
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [1, 1, 0, 2, 2, 1, 0, 0, 2], [1, 2, 0]),
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 2, 2, 2, 1, 1, 1], [0, 2, 1]),
    ],
)
def test_only_a_clear_other_order_counts(labels, chosen, expected):
    """Every class needs an answer of its own, given at least half of the time, and twice the accuracy."""
    found = other_order(np.array(labels), np.array(chosen), max(labels) + 1 if max(labels) else 2)

    assert (None if found is None else found.tolist()) == expected


@pytest.mark.data
def test_the_crack_network_scores_as_its_authors_say(data_dir):
    """Sorted folders are crack, non_crack; the network answers non_crack, crack: 95.5 % of val/ and test/ (README:
    97 and 94 % of 100 each), against 4.5 % in sorted order."""
    graph = load(data_dir / "models" / "crackcnn_brickwork_legacy_bn.onnx")
    data = open_dataset(data_dir / "crack_brickwork_700.zip", input_specs(graph), seed=0)
    require_match(data, output_specs(graph), Head.LOGITS)

    matched = match_classes(data, graph)

    assert matched.classes == ("non_crack", "crack")
    assert evaluate(graph, matched.validation).accuracy == 0.955
