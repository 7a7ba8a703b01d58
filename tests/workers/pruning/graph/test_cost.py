"""Counts by hand on small networks, published ones on large."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from tests.networks import NETWORKS, graph, proto
from workers.pruning.errors import UnknownShape
from workers.pruning.graph.cost import count, live_values, node_macs, num_params, peak_activation_bytes
from workers.pruning.graph.load import load
from workers.pruning.graph.save import size_bytes, to_bytes


def test_macs_of_the_chain():
    """By hand: 8*8 positions * 8 filters * 27, then 4*4 * 12 * 72, then 4 * 12."""
    assert node_macs(graph("chain")) == {"conv1": 13824, "conv2": 13824, "fc": 48}


def test_macs_of_depthwise_grouped_and_transposed_convolutions():
    """By hand: a filter sees only the channels of its own group; a transposed one spreads each input."""
    assert node_macs(graph("depthwise"))["depth"] == 64 * 12 * 9
    assert node_macs(graph("grouped"))["group"] == 64 * 12 * 4 * 9
    assert node_macs(graph("unet"))["up"] == 4 * 4 * 8 * 5 * 4


def test_macs_of_attention():
    """By hand: six tokens of 16; products of activations count: 4 heads * 6 * 6 * 4."""
    macs = node_macs(graph("attention"))

    assert macs["q_mul"] == 6 * 16 * 16
    assert macs["scores"] == macs["mix"] == 4 * 6 * 6 * 4
    assert macs["up_mul"] == macs["down_mul"] == 6 * 16 * 32


def test_macs_of_an_einsum():
    """By hand: one product per combination of b, i, j and k."""
    network = graph(
        'net (float[N,3,4] a) => (float[N,3,5] y) <float[4,5] w> { [e] y = Einsum <equation = "bij,jk->bik"> (a, w) }'
    )

    assert node_macs(network) == {"e": 3 * 4 * 5}


def test_parameters_of_the_chain():
    """By hand: 8*27 + 8 + 12*72 + 12 + 4*12 + 4."""
    assert num_params(graph("chain")) == 216 + 8 + 864 + 12 + 48 + 4


def test_live_activations_of_the_chain():
    """By hand: at relu1 both of 8*8*8 floats are live; the input of 3*8*8 is not."""
    network = graph("chain")
    steps = [tuple(value.name for value in step) for step in live_values(network)]

    assert steps == [("x", "c1"), ("c1", "r1"), ("r1", "c2"), ("c2", "r2"), ("r2", "p"), ("p", "f"), ("f", "y")]
    assert peak_activation_bytes(network) == 4 * 2 * 8 * 8 * 8


def test_a_shortcut_stays_live():
    """By hand: while a2 runs, its input of 6, its output of 8 and the shortcut of 8 channels are live."""
    steps = [tuple(value.name for value in step) for step in live_values(graph("residual"))]

    assert steps[6] == ("s", "a1", "a20")
    assert peak_activation_bytes(graph("residual")) == 4 * (8 + 10 + 10) * 64


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_is_that_of_the_bytes(name):
    """Counted without writing them."""
    network = graph(name)

    assert size_bytes(network) == len(to_bytes(network)) == count(network).size_bytes


def test_a_dynamic_image_size_counts_as_a_stated_one():
    """A height left open counts as 224; the width keeps its 8: 28 times the convolutions of 8 x 8."""
    model = proto(NETWORKS["chain"])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    macs, small = node_macs(load(model.SerializeToString())), node_macs(graph("chain"))

    assert 28 * small["conv1"] == macs["conv1"]
    assert small["fc"] == macs["fc"]


def test_an_image_size_that_the_stated_one_contradicts_has_no_cost():
    """Behind a Flatten only one size fits; the message names a value and says what to do."""
    model = proto(NETWORKS["flatten"])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"

    with pytest.raises(UnknownShape, match=r"value '\w+'; found .*None.* Export with a fixed image size"):
        count(load(model.SerializeToString()))


def test_reshapes_that_fold_the_batch_count_at_batch_one():
    """An axis of batch times heads is two long at batch one, not one."""
    network = graph("""net (float[N,6,4] x) => (float[M,3,5] y) <float[4,5] w, int64[3] t = {-1, 3, 4}> {
        r = Reshape (x, t)
        [fc] y = MatMul (r, w) }""")

    assert node_macs(network) == {"fc": 2 * 3 * 4 * 5}


class _Builder:
    """Networks of papers, layer by layer, with empty weights."""

    def __init__(self, channels: int, length: int) -> None:
        self.count = itertools.count()
        self.nodes: list[ir.Node] = []
        self.held: list[ir.Value] = []
        self.x = ir.val("x", ir.DataType.FLOAT, ["N", channels, length, length])
        self.input = self.x

    def weight(self, *shape: int) -> ir.Value:
        name = f"w{next(self.count)}"
        value = ir.Value(name=name, const_value=ir.tensor(np.zeros(shape, np.float32), name=name))
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        self.held.append(value)
        return value

    def apply(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        node = ir.node(op_type, inputs, attributes, name=f"n{next(self.count)}")
        node.outputs[0].name = node.outputs[0].name or f"v{next(self.count)}"
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, x: ir.Value, inner: int, filters: int, size: int, *, stride: int = 1, groups: int = 1, bias=False):
        weights = [self.weight(filters, inner // groups, size, size), *([self.weight(filters)] if bias else [])]
        pad = size // 2
        y = self.apply("Conv", x, *weights, pads=[pad] * 4, strides=[stride] * 2, group=groups)
        return y if bias else self.apply("BatchNormalization", y, *(self.weight(filters) for _ in range(4)))

    def finish(self, y: ir.Value) -> ir.Model:
        y.shape, y.type = ir.Shape(["N", 1000]), ir.TensorType(ir.DataType.FLOAT)
        body = ir.Graph([self.input], [y], nodes=self.nodes, initializers=self.held, opset_imports={"": 17}, name="net")
        return ir.Model(body, ir_version=8)


def _vgg16() -> ir.Model:
    """Source: Simonyan and Zisserman, arXiv:1409.1556, table 1, column D."""
    build = _Builder(3, 224)
    y, inner = build.x, 3
    for filters, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            y = build.apply("Relu", build.conv(y, inner, filters, 3, bias=True))
            inner = filters
        y = build.apply("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y, inner = build.apply("Flatten", y), 512 * 7 * 7
    for width in (4096, 4096, 1000):
        y = build.apply("Gemm", y, build.weight(width, inner), build.weight(width), transB=1)
        inner = width
    return build.finish(y)


def _mobilenet_v2() -> ir.Model:
    """Source: Sandler et al., arXiv:1801.04381, table 2."""
    build = _Builder(3, 224)
    y, inner = build.conv(build.x, 3, 32, 3, stride=2), 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, filters, repeats, stride in plan:
        for number in range(repeats):
            wide = inner * expansion
            z = build.conv(y, inner, wide, 1) if expansion > 1 else y
            z = build.conv(z, wide, wide, 3, stride=stride if number == 0 else 1, groups=wide)
            z = build.conv(z, wide, filters, 1)
            y = build.apply("Add", y, z) if number else z
            inner = filters
    y = build.apply("Flatten", build.apply("GlobalAveragePool", build.conv(y, inner, 1280, 1)))
    return build.finish(build.apply("Gemm", y, build.weight(1000, 1280), build.weight(1000), transB=1))


def test_vgg16_has_its_published_cost():
    """138 M parameters (table 2 of the paper); 15.5 G multiply-adds, as everybody counts them: 15.47 exactly."""
    cost = count(_vgg16())

    assert cost.params == 138_357_544
    assert cost.macs == 15_470_264_320


def test_mobilenet_v2_has_its_published_cost():
    """300 M multiply-adds and 3.4 M parameters (table 4 of the paper, rounded); with running statistics 3.54 M here."""
    cost = count(_mobilenet_v2())

    assert cost.macs == 300_774_272
    assert cost.params == 3_504_872 + 2 * 17_056


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "macs"), [("resnet20_cifar10_legacy_bn", 40.55e6), ("resnet56_cifar10_dynamo_bn", 125.49e6)]
)
def test_residual_networks_have_their_published_cost(data_dir, name, macs):
    """He et al., arXiv:1512.03385: 0.27 M and 0.85 M parameters; 40.6 M and 125.5 M multiply-adds of their layers."""
    assert count(load(data_dir / "models" / f"{name}.onnx")).macs == pytest.approx(macs, rel=1e-3)
