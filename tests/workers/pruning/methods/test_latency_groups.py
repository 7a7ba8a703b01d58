"""What each group takes on a device, worked out by hand on two layers."""

from tests.networks import CHAIN, onnx_bytes
from workers.pruning.graph.load import load
from workers.pruning.groups.find import find
from workers.pruning.methods.latency_groups import by_group
from workers.pruning.types import TimedLayer

LAYERS = (
    TimedLayer(node="first", groups=(0,), ms=lambda kept: 3.0 * kept[0]),
    TimedLayer(node="second", groups=(0, 1), ms=lambda kept: 2.0 * kept[0] + kept[1]),
    TimedLayer(node="", groups=(), ms=lambda _: 100.0),
)


def test_a_group_takes_what_its_layers_take() -> None:
    """By hand, of 8 and 12 units: the layer between both counts for both, the call for nobody."""
    grouping = find(load(onnx_bytes(CHAIN)))
    found = by_group(grouping, (1, 6), (2, 4), original=LAYERS, pruned=LAYERS)
    figures = [[one[key] for key in ("original_ms", "kept_ms", "saved_by_step_ms")] for one in found]

    assert figures == [[24 + 28, 3 + 8, 2 * 5], [28, 8, 4]]
    assert [(one["layers"], one["width"], one["kept"], one["step"]) for one in found] == [
        (["conv1"], 8, 1, 2),
        (["conv2"], 12, 6, 4),
    ]


def test_a_group_that_no_layer_runs_through_is_left_out() -> None:
    """Nothing was predicted of it, so nothing is said."""
    grouping = find(load(onnx_bytes(CHAIN)))

    assert by_group(grouping, (1, 1), (1, 1), original=(), pruned=()) == []
