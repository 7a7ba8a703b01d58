"""LSTM and GRU against ONNX Runtime: directions, missing bias and states, every output."""

import numpy as np
import pytest
import torch

from tests.workers.pruning.graph.single import network, run_reference
from workers.pruning.errors import UnsupportedOperator
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load

GATES = {"LSTM": 4, "GRU": 3}


def _arrays(op_type: str, directions: int, *, bias: bool, states: bool) -> list[np.ndarray | None]:
    random = np.random.default_rng(0)
    gates = GATES[op_type]

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    arrays: list[np.ndarray | None] = [draw(5, 2, 3), draw(directions, gates * 4, 3), draw(directions, gates * 4, 4)]
    arrays += [draw(directions, 2 * gates * 4) if bias else None, None]
    if states:
        arrays += [draw(directions, 2, 4) for _ in range(2 if op_type == "LSTM" else 1)]
    return arrays


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", [True, False])
def test_a_recurrent_layer_gives_what_onnx_runtime_gives(op_type: str, direction: str, given: bool) -> None:
    """With and without bias and initial states; all outputs."""
    arrays = _arrays(op_type, 2 if direction == "bidirectional" else 1, bias=given, states=given)
    attributes = {"hidden_size": 4, "direction": direction}
    attributes |= {"linear_before_reset": 1} if op_type == "GRU" else {}
    held = [1, 2, *([3] if given else [])]
    data = network(op_type, arrays, attributes, constants=held, opset=14, num_outputs=3 if op_type == "LSTM" else 2)
    feed = {f"in{i}": array for i, array in enumerate(arrays) if array is not None and i not in held}
    module = GraphModule(load(data)).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in feed.values()))

    for expected, actual in zip(run_reference(data, feed), found, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_other_order_of_reset_is_refused() -> None:
    """A GRU that resets before its linear layer is not what torch computes."""
    arrays = _arrays("GRU", 1, bias=True, states=False)
    data = network("GRU", arrays, {"hidden_size": 4}, constants=[1, 2, 3], opset=14, num_outputs=2)
    with pytest.raises(UnsupportedOperator, match="linear_before_reset=0"):
        GraphModule(load(data))
