"""Random small graphs out of the operators that the engine knows, as hypothesis draws them.

A graph is grown node by node from one image. What an operator may follow depends only on the shapes, so that every
drawn graph is valid ONNX; weights come from the drawn seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes

OPSET = 17
Draw = Callable[[st.SearchStrategy], object]


@dataclass
class Growth:
    """A graph under construction: values of shape (N, channels, side, side) that later nodes may read."""

    draw: Draw
    random: np.random.Generator
    nodes: list[ir.Node] = field(default_factory=list)
    weights: list[ir.Value] = field(default_factory=list)
    images: list[tuple[ir.Value, int, int]] = field(default_factory=list)  # value, channels, side

    def pick(self, matching: Callable[[int, int], bool] = lambda _channels, _side: True) -> tuple[ir.Value, int, int]:
        """One of the latest values that match, or the latest."""
        found = [entry for entry in self.images[-4:] if matching(entry[1], entry[2])] or self.images[-1:]
        return found[self.number(0, len(found) - 1)]

    def number(self, low: int, high: int) -> int:
        """A drawn integer."""
        return int(self.draw(st.integers(low, high)))  # type: ignore[call-overload]

    def weight(self, *shape: int, positive: bool = False) -> ir.Value:
        """Gaussian numbers scaled by the fan-in; positive ones around one."""
        array = self.random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        return self.constant((0.5 + np.abs(array) if positive else array).astype(np.float32))

    def constant(self, array: object) -> ir.Value:
        """An initializer."""
        tensor = ir.tensor(np.asarray(array))
        value = ir.Value(
            name=f"w{len(self.weights)}",
            shape=ir.Shape(tensor.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.weights.append(value)
        return value

    def node(self, op_type: str, *inputs: ir.Value | None, num_outputs: int = 1, **attributes: object) -> ir.Value:
        """Append a node; gives its first output."""
        node = ir.node(op_type, inputs, attributes, num_outputs=num_outputs, name=f"{op_type}_{len(self.nodes)}")
        for index, output in enumerate(node.outputs):
            output.name = f"v{len(self.nodes)}_{index}"
        self.nodes.append(node)
        return node.outputs[0]

    def add(self, value: ir.Value, channels: int, side: int) -> None:
        """Let later nodes read an image."""
        self.images.append((value, channels, side))


def conv(g: Growth) -> None:
    source, channels, side = g.pick()
    outputs, kernel = g.number(2, 8), 2 * g.number(0, 1) + 1
    bias = g.weight(outputs) if g.number(0, 1) else None
    inputs = [source, g.weight(outputs, channels, kernel, kernel), *([bias] if bias else [])]
    g.add(g.node("Conv", *inputs, pads=[kernel // 2] * 4), outputs, side)


def grouped(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, _: channels % 2 == 0)
    divisors = [count for count in (2, 3) if channels % count == 0] if g.number(0, 1) else []
    groups = divisors[g.number(0, len(divisors) - 1)] if divisors else channels
    outputs = groups * g.number(1, 4)
    kernel = g.weight(outputs, channels // groups, 3, 3)
    g.add(g.node("Conv", source, kernel, pads=[1] * 4, group=groups), outputs, side)


def transposed(g: Growth) -> None:
    source, channels, side = g.pick(lambda _, side: side <= 8)
    outputs = g.number(2, 6)
    g.add(g.node("ConvTranspose", source, g.weight(channels, outputs, 2, 2), strides=[2, 2]), outputs, 2 * side)


def normalised(g: Growth) -> None:
    source, channels, side = g.pick()
    scale, bias = g.weight(channels, positive=True), g.weight(channels)
    if g.number(0, 2):
        value = g.node("BatchNormalization", source, scale, bias, g.weight(channels), g.weight(channels, positive=True))
    else:
        value = g.node("InstanceNormalization", source, scale, bias)
    g.add(value, channels, side)


def activation(g: Growth) -> None:
    source, channels, side = g.pick()
    names = ("Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Elu", "Softplus", "Tanh", "Abs", "Identity")
    choice = g.number(0, len(names))
    value = g.node(names[choice], source) if choice < len(names) else g.node("PRelu", source, g.weight(channels, 1, 1))
    g.add(value, channels, side)


def scaled(g: Growth) -> None:
    source, channels, side = g.pick()
    shape = [(channels, 1, 1), (1,), (1, 1, side, side), (1, channels, side, 1)][g.number(0, 3)]
    g.add(g.node(("Mul", "Add", "Sub")[g.number(0, 2)], source, g.weight(*shape)), channels, side)


def summed(g: Growth) -> None:
    left, channels, side = g.pick()
    right, _, _ = g.pick(lambda c, s: (c, s) == (channels, side))
    matching = [entry for entry in g.images if entry[1:] == (channels, side)]
    right = matching[g.number(0, len(matching) - 1)][0]
    g.add(g.node(("Add", "Mul", "Max", "Sum")[g.number(0, 3)], left, right), channels, side)


def joined(g: Growth) -> None:
    left, channels, side = g.pick(lambda channels, _: channels <= 10)
    matching = [entry for entry in g.images if entry[2] == side]
    right, more, _ = matching[g.number(0, len(matching) - 1)]
    g.add(g.node("Concat", left, right, axis=1), channels + more, side)


def divided(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, _: channels >= 4)
    if channels < 4:
        return
    first = g.number(1, channels - 1)
    sizes = g.constant(np.asarray([first, channels - first], np.int64))
    g.node("Split", source, sizes, num_outputs=2, axis=1)
    one, two = g.nodes[-1].outputs
    g.add(one, first, side)
    g.add(two, channels - first, side)


def sliced(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, _: channels >= 3)
    start = g.number(0, channels - 1)
    stop = g.number(start + 1, channels)
    bounds = [g.constant(np.asarray([entry], np.int64)) for entry in (start, stop, 1)]
    g.add(g.node("Slice", source, *bounds), stop - start, side)


def picked(g: Growth) -> None:
    source, channels, side = g.pick()
    indices = g.random.integers(-channels, channels, g.number(1, 6))
    g.add(g.node("Gather", source, g.constant(indices), axis=1), len(indices), side)


def padded(g: Growth) -> None:
    source, channels, side = g.pick()
    before, after = g.number(0, 2), g.number(0, 2)
    pads = g.constant(np.asarray([0, before, 0, 0, 0, after, 0, 0], np.int64))
    g.add(g.node("Pad", source, pads), channels + before + after, side)


def shuffled(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, _: channels % 2 == 0)
    groups = next((count for count in (2, 3) if channels % count == 0), channels)
    one = g.constant(np.asarray([0, groups, channels // groups, side, side], np.int64))
    two = g.constant(np.asarray([0, channels, side, side], np.int64))
    value = g.node("Transpose", g.node("Reshape", source, one), perm=[0, 2, 1, 3, 4])
    g.add(g.node("Reshape", value, two), channels, side)


def dealt(g: Growth) -> None:
    """A shuffle between two convolutions of as many groups, which may or may not divide the channels of each."""
    source, channels, side = g.pick(lambda channels, _: channels % 6 == 0)
    groups, each = g.number(2, 4), g.number(2, 6)
    wide = g.node("Conv", source, g.weight(2 * groups, channels, 1, 1))
    hidden = g.node("Conv", wide, g.weight(groups * each, 2, 1, 1), group=groups)
    opened = g.node("Reshape", hidden, _ints(g, 0, groups, each, side, side))
    turned = g.node("Transpose", opened, perm=[0, 2, 1, 3, 4])
    closed = g.node("Relu", g.node("Reshape", turned, _ints(g, 0, groups * each, side, side)))
    made = g.number(2, 4)
    g.add(g.node("Conv", closed, g.weight(groups * made, each, 1, 1), group=groups), groups * made, side)


def pixels(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, side: channels % 4 == 0 and side <= 8)
    mode = ("DCR", "CRD")[g.number(0, 1)]
    if channels % 4 == 0 and side <= 8:
        g.add(g.node("DepthToSpace", source, blocksize=2, mode=mode), channels // 4, 2 * side)
    elif side % 2 == 0 and channels <= 4:
        g.add(g.node("SpaceToDepth", source, blocksize=2), 4 * channels, side // 2)


def pooled(g: Growth) -> None:
    source, channels, side = g.pick(lambda _, side: side % 2 == 0)
    if side % 2 == 0:
        op_type = ("MaxPool", "AveragePool")[g.number(0, 1)]
        g.add(g.node(op_type, source, kernel_shape=[2, 2], strides=[2, 2]), channels, side // 2)


def raised(g: Growth) -> None:
    source, channels, side = g.pick(lambda _, side: side <= 4)
    if side <= 8:
        scales = g.constant(np.asarray([1, 1, 2, 2], np.float32))
        g.add(g.node("Resize", source, None, scales, mode="nearest"), channels, 2 * side)


def excited(g: Growth) -> None:
    source, channels, side = g.pick()
    hidden = g.number(1, 4)
    small = g.node("Conv", g.node("GlobalAveragePool", source), g.weight(hidden, channels, 1, 1))
    gate = g.node("Sigmoid", g.node("Conv", g.node("Relu", small), g.weight(channels, hidden, 1, 1)))
    g.add(g.node("Mul", source, gate), channels, side)


def attended(g: Growth) -> None:
    source, channels, side = g.pick(lambda _, side: side <= 4)
    if side > 4:
        return
    heads, size = g.number(1, 2), g.number(2, 4)
    tokens = g.node("Transpose", g.node("Reshape", source, _ints(g, 0, channels, -1)), perm=[0, 2, 1])
    split = _ints(g, 0, 0, heads, size)
    parts = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        made = g.node("MatMul", tokens, g.weight(channels, heads * size))
        parts.append(g.node("Transpose", g.node("Reshape", made, split), perm=order))
    weights = g.node("Softmax", g.node("MatMul", parts[0], parts[1]), axis=-1)
    mixed = g.node("Transpose", g.node("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    mixed = g.node("MatMul", g.node("Reshape", mixed, _ints(g, 0, 0, heads * size)), g.weight(heads * size, channels))
    back = g.node("Transpose", g.node("Add", mixed, tokens), perm=[0, 2, 1])
    g.add(g.node("Reshape", back, _ints(g, 0, channels, side, side)), channels, side)


def repeated(g: Growth) -> None:
    source, channels, side = g.pick(lambda channels, _: channels <= 10)
    choice = g.number(0, 2)
    if choice == 0:
        g.add(g.node("Tile", source, _ints(g, 1, 2, 1, 1)), 2 * channels, side)
    elif choice == 1:
        pooled = g.node("ReduceMax", source, axes=[2, 3])
        g.add(g.node("Expand", pooled, _ints(g, 1, channels, side, side)), channels, side)
    else:
        zeros = g.node("ConstantOfShape", g.node("Shape", source))
        g.add(g.node("Concat", source, zeros, axis=1), 2 * channels, side)


def chosen(g: Growth) -> None:
    source, channels, side = g.pick()
    condition = g.node("Greater", source, g.constant(np.float32(0.1)))
    matching = [entry for entry in g.images if entry[1:] == (channels, side)]
    other = matching[g.number(0, len(matching) - 1)][0] if g.number(0, 1) else g.constant(np.float32(-0.5))
    g.add(g.node("Where", condition, source, other), channels, side)


def reduced(g: Growth) -> None:
    source, channels, side = g.pick()
    axis = g.number(1, 3)
    names = ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp")
    g.add(g.node("Mul", source, g.node(names[g.number(0, 3)], source, axes=[axis])), channels, side)


def bounded(g: Growth) -> None:
    source, channels, side = g.pick()
    low, high = (g.constant(np.float32(bound)) for bound in (-0.7, 0.9))
    if g.number(0, 1):
        value = g.node("Clip", source, low, high)
    else:
        scale, zero = g.constant(np.float32(0.05)), g.constant(np.int8(3))
        value = g.node("DequantizeLinear", g.node("QuantizeLinear", source, scale, zero), scale, zero)
    g.add(value, channels, side)


def multiplied(g: Growth) -> None:
    source, channels, side = g.pick()
    outputs = g.number(2, 8)
    if g.number(0, 1):
        value = g.node("Einsum", source, g.weight(outputs, channels), equation="nchw,oc->nohw")
    else:
        last = g.node("Transpose", source, perm=[0, 2, 3, 1])
        bias = g.node("Add", g.node("MatMul", last, g.weight(channels, outputs)), g.weight(outputs))
        value = g.node("Transpose", bias, perm=[0, 3, 1, 2])
    g.add(value, outputs, side)


def layered(g: Growth) -> None:
    source, channels, side = g.pick()
    last = g.node("Transpose", source, perm=[0, 2, 3, 1])
    made = g.node("LayerNormalization", last, g.weight(channels, positive=True), g.weight(channels), axis=-1)
    g.add(g.node("Transpose", made, perm=[0, 3, 1, 2]), channels, side)


def opaque(g: Growth) -> None:
    source, channels, side = g.pick()
    choice = g.number(0, 3)
    if choice == 0:
        value = g.node("Softmax", source, axis=1)
    elif choice == 1:
        value = g.node("LRN", source, size=3)
    elif choice == 2:
        value = g.node("Einsum", source, equation="nchw->nchw")
    else:
        value = g.node("Sub", source, g.node("ReduceMean", source, axes=[1]))
    g.add(value, channels, side)


def _ints(g: Growth, *entries: int) -> ir.Value:
    return g.constant(np.asarray(entries, np.int64))


STEPS: tuple[Callable[[Growth], None], ...] = (
    conv, conv, conv, grouped, transposed, normalised, normalised, activation, activation, scaled, summed, summed,
    joined, joined, divided, sliced, picked, padded, shuffled, pixels, pooled, raised, excited, attended, opaque,
    repeated, chosen, reduced, bounded, multiplied, layered, dealt,
)  # fmt: skip


@st.composite
def graphs(draw: Draw) -> ir.Model:
    """A loaded graph: a convolution, then 5 to 14 drawn steps, then a classifier; sometimes a second output."""
    g = Growth(draw=draw, random=np.random.default_rng(int(draw(st.integers(0, 2**31)))))  # type: ignore[call-overload]
    image = ir.Value(name="x", shape=ir.Shape(["N", 3, 8, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    g.add(image, 3, 8)
    conv(g)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=5, max_size=14)):  # type: ignore[attr-defined]
        step(g)
    last, channels, _ = g.images[-1]
    flat = g.node("Flatten", g.node("GlobalAveragePool", last))
    outputs = [g.node("Gemm", flat, g.weight(channels, 3))]
    if g.number(0, 3) == 0 and len(g.images) > 2:
        outputs.append(g.node("Relu", g.images[g.number(1, len(g.images) - 1)][0]))
    for output in outputs:
        output.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([image], outputs, nodes=g.nodes, initializers=g.weights, opset_imports={"": OPSET}, name="drawn")
    return load(to_bytes(ir.Model(graph, ir_version=8)))
