"""RNN, LSTM and GRU against ONNX Runtime: directions, states, lengths, activations, clip, peepholes, gradients."""

import numpy as np
import pytest
import torch

from tests.workers.pruning.graph.single import network, run_reference
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
PLAIN = {"LSTM": {}, "GRU": {"linear_before_reset": 1}, "RNN": {}}
DIRECTIONS = ["forward", "reverse", "bidirectional"]


def _arrays(op_type, directions, *, bias=True, states=True, lengths=False, peepholes=False):
    random = np.random.default_rng(0)
    gates = GATES[op_type]

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    arrays = [draw(5, 2, 3), draw(directions, gates * 4, 3), draw(directions, gates * 4, 4)]
    arrays += [draw(directions, 2 * gates * 4) if bias else None, np.asarray([3, 5], np.int32) if lengths else None]
    arrays += [draw(directions, 2, 4) if states else None for _ in range(STATES[op_type])]
    return [*arrays, draw(directions, 12)] if peepholes else arrays


def _built(op_type, arrays, attributes):
    held = [1, 2, *([3] if arrays[3] is not None else []), *([7] if len(arrays) > 7 else [])]
    data = network(
        op_type, arrays, {"hidden_size": 4, **attributes}, constants=held, opset=14, num_outputs=STATES[op_type] + 1
    )
    return data, {f"in{i}": array for i, array in enumerate(arrays) if array is not None and i not in held}


def _require_agreement(op_type, arrays, attributes):
    data, feed = _built(op_type, arrays, attributes)
    module = GraphModule(load(data)).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in feed.values()))

    for expected, actual in zip(run_reference(data, feed), found, strict=True):
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("given", [True, False])
def test_a_recurrent_layer_gives_what_onnx_runtime_gives(op_type, direction, given):
    """With and without bias and initial states; all outputs."""
    arrays = _arrays(op_type, 2 if direction == "bidirectional" else 1, bias=given, states=given)
    _require_agreement(op_type, arrays, {"direction": direction, **PLAIN[op_type]})


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_sequences_of_several_lengths_end_where_they_end(op_type, direction):
    """Outputs behind the end are zero, and the last state is that of the last step."""
    arrays = _arrays(op_type, 2 if direction == "bidirectional" else 1, lengths=True)
    _require_agreement(op_type, arrays, {"direction": direction})


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"clip": 0.4}),
        ("GRU", {"activations": ["Softsign", "Relu"]}),
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Softplus"]}),
        ("RNN", {"clip": 0.4}),
        ("RNN", {"activations": ["Relu"]}),
    ],
)
def test_settings_that_torch_has_no_kernel_for_are_computed_too(op_type, attributes):
    """The other order of reset, clipping, coupled gates and other activations, a step at a time."""
    _require_agreement(op_type, _arrays(op_type, 1), attributes)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gates_may_look_at_the_memory(direction):
    """Peepholes of an LSTM."""
    arrays = _arrays("LSTM", 2 if direction == "bidirectional" else 1, peepholes=True)
    _require_agreement("LSTM", arrays, {"direction": direction})


@pytest.mark.parametrize("op_type", GATES)
def test_the_gradient_is_that_of_the_values(op_type):
    """Against finite differences in double precision, through the step-by-step form: inputs and all weights."""
    arrays = _arrays(op_type, 2, peepholes=op_type == "LSTM")
    data, feed = _built(op_type, arrays, {"direction": "bidirectional", "clip": 50.0})
    module = GraphModule(load(data)).double().eval()
    module._input_types = (None,) * len(feed)  # graphs of float32 are fed as such
    inputs = [torch.from_numpy(array).double().requires_grad_() for array in feed.values()]

    assert torch.autograd.gradcheck(lambda *given: module(*given)[0], inputs, fast_mode=True)
    weights = [parameter.requires_grad_() for parameter in (*module.parameters(), *module.buffers())]
    module(*inputs)[0].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


@pytest.mark.parametrize("op_type", GATES)
def test_both_forms_have_the_same_gradient(op_type):
    """A clip that nothing reaches changes the form and not the derivative."""
    gradients = []
    for attributes in ({}, {"clip": 1e6}):
        data, feed = _built(op_type, _arrays(op_type, 1), {**PLAIN[op_type], **attributes})
        given = [torch.from_numpy(array).requires_grad_() for array in feed.values()]
        GraphModule(load(data)).eval()(*given)[0].square().sum().backward()
        gradients.append(given[0].grad)

    torch.testing.assert_close(gradients[1], gradients[0])
