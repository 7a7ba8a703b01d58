"""GraphModule: what runs, what is trained, what hooks see, what is written back."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.networks import NETWORKS, graph, inputs
from tests.workers.pruning.graph.single import run_reference
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.ops import OPERATORS, supported_ops
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import weights

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def _load_text(text: str, *, header: str = HEADER):
    return load(onnx.parser.parse_model(header + text).SerializeToString())


def _feeds(name: str, batch: int):
    network = graph(name)
    return network, [torch.from_numpy(array) for array in inputs(network, batch=batch)]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_onnx_runtime_gives(name, batch):
    """Without graph optimisation, at two batch sizes."""
    network, tensors = _feeds(name, batch)
    (expected,) = run_reference(to_bytes(network), {network.graph.inputs[0].name: tensors[0].numpy()})

    (actual,) = GraphModule(network).eval()(*tensors)

    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    """In training mode, and none where the module is not to be trained."""
    network, tensors = _feeds(name, 4)
    module = GraphModule(network)
    module(*tensors)[0].square().sum().backward()

    assert list(module.parameters())
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not any(parameter.requires_grad for parameter in GraphModule(network, trainable=False).parameters())


def test_gradients_are_those_of_the_same_network_in_torch():
    """The chain with batch normalisation, written again as a torch module with the same weights."""
    network, (x,) = _feeds("chain_bn", 4)
    held = {name: torch.from_numpy(array.copy()) for name, array in weights(network).items()}
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
    twin = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4))
    names = ["conv1_w", "bn1_scale", "bn1_b", "conv2_w", "bn2_scale", "bn2_b", "fc_w", "fc_b"]
    for parameter, name in zip(twin.parameters(), names, strict=True):
        parameter.data = held[name].clone()
    for norm, name in ((twin[1], "bn1"), (twin[4], "bn2")):
        norm.running_mean, norm.running_var = held[f"{name}_mean"].clone(), held[f"{name}_var"].clone()
    module = GraphModule(network)
    for net in (twin, module):
        net.train()
        output = net(x)
        (output if isinstance(output, torch.Tensor) else output[0]).square().sum().backward()

    for parameter, name in zip(twin.parameters(), names, strict=True):
        torch.testing.assert_close(module.initializers[name].grad, parameter.grad)
    torch.testing.assert_close(module.initializers["bn1_mean"], twin[1].running_mean)
    torch.testing.assert_close(module.initializers["bn2_var"], twin[4].running_var)


def test_running_statistics_follow_onnx_momentum():
    """running = momentum * running + (1 - momentum) * batch: 0.9 * 1 + 0.1 * 3 by hand."""
    network = _load_text("""moving (float[N,1] x) => (float[N,1] y)
        <float[1] s = {1}, float[1] b = {0}, float[1] m = {1}, float[1] v = {1}> {
        y = BatchNormalization <momentum = 0.9> (x, s, b, m, v) }""")
    module = GraphModule(network)
    x = torch.tensor([[2.0], [4.0]])

    module.eval()(x)
    assert module.initializers["m"].item() == 1.0
    module.train()(x)
    assert module.initializers["m"].item() == pytest.approx(1.2)
    # The unbiased variance of 2 and 4 is 2, as torch trains: 0.9 * 1 + 0.1 * 2.
    assert module.initializers["v"].item() == pytest.approx(1.1)


def test_dropout_works_in_training_only():
    """At inference the values pass."""
    network = _load_text(
        "drop (float[N,100] x) => (float[N,100] y) <float r = {0.5}> { y = Dropout (x, r) }",
    )
    module, x = GraphModule(network), torch.ones(4, 100)

    assert torch.equal(module.eval()(x)[0], x)
    assert 0 < int((module.train()(x)[0] == 0).sum()) < 400


def test_parameters_are_trained_numbers_and_constants_are_not():
    """Bias behind a MatMul is trained; pixel means, scale factors and masks are not; integers are neither."""
    network = _load_text("""kinds (float[N,2] x) => (float[N,2] y)
        <float[2] pixel = {1, 2}, float[2,2] w = {1, 2, 3, 4}, float[2] b = {5, 6}, float[1] k = {2},
         int64[2] s = {0, 2}> {
        n = Sub (x, pixel)
        m = MatMul (n, w)
        a = Add (m, b)
        c = Mul (a, k)
        y = Reshape (c, s) }""")
    module = GraphModule(network)
    trained = {name for name, tensor in module.initializers.items() if tensor.requires_grad}

    assert trained == {"w", "b"}
    assert set(module.initializers) == {"pixel", "w", "b", "k"}
    assert len(list(module.buffers())) == 2


def test_a_normalisation_that_is_spelled_out_has_trained_scale_and_bias():
    """As LayerNorm is exported before opset 17, and GroupNorm before 21; an added position is a constant."""
    network = _load_text("""spelled (float[N,4] x) => (float[N,4] y)
        <float[4] g = {1, 2, 3, 4}, float[4] b = {5, 6, 7, 8}, float[4] p = {1, 1, 2, 2}, float e = {0.1}> {
        h = Add (x, p)
        m = ReduceMean <axes = [-1]> (h)
        d = Sub (h, m)
        q = Mul (d, d)
        v = ReduceMean <axes = [-1]> (q)
        w = Add (v, e)
        r = Sqrt (w)
        n = Div (d, r)
        s = Mul (n, g)
        y = Add (s, b) }""")
    held = GraphModule(network).initializers

    assert {name for name, tensor in held.items() if tensor.requires_grad} == {"g", "b"}


def test_edits_change_inputs_and_watchers_see_them():
    """An edit applies to one input of one node; a watcher gets inputs after edits and outputs."""
    network, (x,) = _feeds("residual", 2)
    module = GraphModule(network).eval()
    seen = {}

    def watcher(name):
        return lambda arguments, outputs: seen.update({name: (arguments[0], outputs[0])})

    (plain,) = module.run([x], watch={"a_add": watcher("a_add")})
    (edited,) = module.run(
        [x],
        edits={("a_add", 0): torch.zeros_like, ("fc", 2): lambda bias: bias + 1},
        watch={"a_add": watcher("edited"), "a_relu": watcher("behind")},
    )

    assert not torch.equal(plain, edited)
    assert torch.count_nonzero(seen["edited"][0]) == 0
    assert torch.equal(seen["edited"][1], seen["behind"][0])
    assert torch.count_nonzero(seen["a_add"][0]) > 0


def test_gradients_flow_through_edits():
    """Gates, one per sample and channel, get gradients: that is how channels are scored."""
    network, (x,) = _feeds("chain", 3)
    module = GraphModule(network, trainable=False).eval()
    gate = torch.ones(3, 8, 1, 1, requires_grad=True)
    module.run([x], edits={("conv2", 0): lambda value: value * gate})[0].sum().backward()

    assert gate.grad is not None
    assert torch.count_nonzero(gate.grad) > 0


def test_hooks_on_what_is_not_there_are_refused():
    """A mistyped name would otherwise be silent."""
    network, tensors = _feeds("chain", 1)
    module = GraphModule(network)

    for hooks in (
        {"edits": {("conv9", 0): torch.relu}},
        {"edits": {("conv1", 3): torch.relu}},
        {"watch": {"c": print}},
    ):
        with pytest.raises(ValueError, match="there is no"):
            module.run(tensors, **hooks)
    with pytest.raises(ValueError, match="1 inputs, 2 were given"):
        module(tensors[0], tensors[0])


def test_trained_weights_are_written_into_a_new_graph():
    """Names and types stay; the graph that the module was built from does not change."""
    network, tensors = _feeds("chain_bn", 4)
    before = to_bytes(network)
    module = GraphModule(network)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()(*tensors)[0].square().sum().backward()
    optimizer.step()
    written = module.write_back(network)
    (expected,) = module.eval()(*tensors)

    assert to_bytes(network) == before
    assert list(weights(written)) == list(weights(network))
    (actual,) = run_reference(to_bytes(written), {"x": tensors[0].numpy()})
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_module_can_be_copied_moved_and_laid_out_anew():
    """deepcopy is independent; channels_last changes the layout and nothing else."""
    network, (x,) = _feeds("residual", 2)
    module = GraphModule(network).eval()
    (expected,) = module(x)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.initializers["stem_w"].zero_()
    twin.train()
    (laid_out,) = module.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))

    assert not module.training
    assert not torch.equal(twin(x)[0], expected)
    torch.testing.assert_close(laid_out, expected)


def test_half_precision_is_computed_in_single_and_written_back_in_half():
    """Types of the file stay; inputs in half precision are taken."""
    text = "half (float16[N,2] x) => (float16[N,2] y) <float16[2,2] w = {0, 0, 0, 0}> { y = MatMul (x, w) }"
    model = onnx.parser.parse_model(HEADER + text)
    held = np.asarray([[1, 2], [3, 4]], np.float16)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(held, "w"))
    network = load(model.SerializeToString())
    module = GraphModule(network).eval()
    (output,) = module(torch.ones(1, 2, dtype=torch.float16))

    assert output.dtype == torch.float32
    assert output.tolist() == [[4.0, 6.0]]
    assert weights(module.write_back(network))["w"].dtype == np.float16


def test_shape_arithmetic_at_run_time_runs_on_the_cpu():
    """A class token that is expanded to the batch: Shape, Slice, Concat, Expand."""
    network = _load_text("""token (float[N,4,2] x) => (float[N,5,2] y)
        <float[1,1,2] cls = {1, 2}, int64[1] s = {0}, int64[1] e = {1}, int64[2] rest = {1, 2}> {
        shape = Shape (x)
        n = Slice (shape, s, e)
        target = Concat <axis = 0> (n, rest)
        t = Expand (cls, target)
        y = Concat <axis = 1> (t, x) }""")

    (output,) = GraphModule(network)(torch.zeros(3, 4, 2))

    assert output.shape == (3, 5, 2)
    assert output[:, 0].tolist() == [[1.0, 2.0]] * 3


def test_the_list_of_operators_states_ranges_and_one_line_each():
    """The documentation is generated from it."""
    listed = supported_ops()

    assert list(listed) == sorted(OPERATORS)
    assert (listed["Conv"].first_opset, listed["Conv"].last_opset) == (7, None)
    assert (listed["Upsample"].first_opset, listed["Upsample"].last_opset) == (7, 9)
    assert listed["GroupNormalization"].first_opset == 21
    assert all(entry.summary.endswith(".") and "\n" not in entry.summary for entry in listed.values())
