"""Small graphs, one or a few for every operator and form that networks of the last eight years contain.

Each has a layer `front` that makes `FRONT` channels, what is looked at behind it, and a layer that reads the result.
`units` says how many of the channels of `front` may go one by one: all of them where the operator is followed channel
by channel, fewer where it ties some, none where it computes something over all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

FRONT = 12
SIDE = 8
Body = Callable[["Sketch"], tuple[ir.Value, int]]


@dataclass
class Sketch:
    """A graph under construction; `rank` counts the axes of what `front` makes, 2 for a matrix of features."""

    opset: int = 17
    dtype: ir.DataType = ir.DataType.FLOAT
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    nodes: list[ir.Node] = field(default_factory=list)
    weights: list[ir.Value] = field(default_factory=list)
    feeds: list[ir.Value] = field(default_factory=list)

    def feed(self, *shape: int | str) -> ir.Value:
        """An input of the graph."""
        value = ir.Value(name=f"x{len(self.feeds)}", shape=ir.Shape(shape), type=ir.TensorType(self.dtype))
        self.feeds.append(value)
        return value

    def held(self, array: object) -> ir.Value:
        """An initializer."""
        tensor = ir.tensor(np.asarray(array))
        name = f"w{len(self.weights)}"
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=kind, const_value=tensor)
        self.weights.append(value)
        return value

    def drawn(self, *shape: int, positive: bool = False) -> ir.Value:
        """Gaussian weights scaled by the fan-in; positive ones around one."""
        array = self.random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
        array = 0.5 + np.abs(array) if positive else array
        return self.held(array.astype(self.dtype.numpy()))

    def ints(self, *entries: int) -> ir.Value:
        """A list of lengths or positions."""
        return self.held(np.asarray(entries, np.int64))

    def scalar(self, number: float) -> ir.Value:
        """One number of the graph's type."""
        return self.held(np.asarray(number, self.dtype.numpy()))

    def node(self, op_type: str, *inputs: ir.Value | None, name: str = "", num_outputs: int = 1, **attributes: object):
        """Append a node; gives its first output."""
        label = name or f"{op_type.lower()}{len(self.nodes)}"
        node = ir.node(op_type, inputs, attributes, num_outputs=num_outputs, name=label)
        for index, output in enumerate(node.outputs):
            output.name = f"v{len(self.nodes)}_{index}"
        self.nodes.append(node)
        return node.outputs[0]

    def outputs(self) -> Sequence[ir.Value]:
        """All outputs of the latest node."""
        return self.nodes[-1].outputs

    def image(self, axes: int = 2, channels: int = FRONT) -> ir.Value:
        """What `front` makes of an image of 3 channels: (N, channels, 8, ...)."""
        source = self.feed("N", 3, *[SIDE] * axes)
        kernel = self.drawn(channels, 3, *[3] * axes)
        return self.node("Conv", source, kernel, self.drawn(channels), name="front", pads=[1] * 2 * axes)

    def other(self, axes: int = 2, channels: int = FRONT) -> ir.Value:
        """The same by a second layer from the same image."""
        kernel = self.drawn(channels, 3, *[3] * axes)
        return self.node("Conv", self.feeds[0], kernel, self.drawn(channels), pads=[1] * 2 * axes)

    def features(self) -> ir.Value:
        """What `front` makes of a vector of 5 numbers: (N, 12)."""
        return self.node("Gemm", self.feed("N", 5), self.drawn(5, FRONT), self.drawn(FRONT), name="front")

    def words(self, length: int = 6) -> ir.Value:
        """What `front` makes of a sequence of vectors: (N, length, 12)."""
        return self.node("MatMul", self.feed("N", length, 5), self.drawn(5, FRONT), name="front")

    def graph(self, value: ir.Value, channels: int, axis: int) -> ir.Model:
        """The whole graph: `value` is read along `axis` by a last layer."""
        closed = self._closed(value, channels, axis)
        closed.type = ir.TensorType(self.dtype)
        closed.shape = ir.Shape([None] * (axis + 2 if axis > 0 else abs(axis)))
        versions = {"": self.opset}
        graph = ir.Graph(
            self.feeds, [closed], nodes=self.nodes, initializers=self.weights, opset_imports=versions, name="sketch"
        )
        return ir.Model(graph, ir_version=8 if self.opset < 21 else 10)

    def _closed(self, value: ir.Value, channels: int, axis: int) -> ir.Value:
        if axis < 0:
            return self.node("MatMul", value, self.drawn(channels, 4), name="back")
        kernel = self.drawn(4, channels, *[1] * axis)
        return self.node("Conv", value, kernel, name="back")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of an operator: how to build it, in which opsets it is run, and what may go."""

    body: Body
    axes: int = 2  # spatial axes of what comes out; where channels are last, the number of axes with a minus
    units: int = FRONT
    named: str | None = None  # operator that the analysis names as a reason
    opsets: tuple[int, ...] = (17,)
    dtype: ir.DataType = ir.DataType.FLOAT

    def graph(self, opset: int) -> ir.Model:
        """The graph in one opset."""
        sketch = Sketch(opset=opset, dtype=self.dtype)
        value, channels = self.body(sketch)
        return sketch.graph(value, channels, self.axes)


def one(op_type: str, **attributes: object) -> Body:
    """An operator of one input that leaves channels as they are."""
    return lambda g: (g.node(op_type, g.image(), **attributes), FRONT)


HALF = ir.DataType.FLOAT16
