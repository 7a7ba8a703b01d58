"""Simulated devices: stopwatches whose time is a known law of what the graphs that they are given compute."""

from collections import Counter
from dataclasses import dataclass, field
from math import ceil, prod

import onnx

from workers.pruning.types import Measurement


@dataclass
class LawDevice:
    """A device that computes convolutions in blocks of channels, at a rate of its own for each kind of operator.

    It knows nothing of rows or keys: it reads the shapes of the ONNX file, as a runtime does.
    """

    block: int = 8
    dense_ns: float = 0.02  # per multiply-add in whole blocks
    grouped_ns: float = 0.3
    element_ns: float = 0.5  # per element that is written
    call_ms: float = 0.01
    network_factor: float = 1.0  # on networks as a whole: what the sum of layers does not tell
    device: str = "dev_law"
    batch: int = 1
    rows: dict[str, float] = field(default_factory=dict)
    asked: Counter = field(default_factory=Counter)

    def known(self):
        """Rows of the table."""
        return dict(self.rows)

    def time(self, networks):
        """Time by the law."""
        found = {}
        for network in networks:
            self.asked[network.kind] += 1
            ms = self.call_ms + self.law(network.content)
            if network.kind == "layer":
                self.rows[network.key] = ms
            else:
                ms *= self.network_factor
            found[network.name] = measurement(ms)
        return found

    def law(self, content):
        """Milliseconds of all nodes."""
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), data_prop=True).graph
        shapes = {
            value.name: lengths(value.type, self.batch) for value in (*graph.input, *graph.value_info, *graph.output)
        }
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        return 1e-6 * sum(self.nanoseconds(node, shapes) for node in graph.node)

    def nanoseconds(self, node, shapes):
        """One node; only what a kernel computes takes time."""
        output = shapes[node.output[0]]
        if node.op_type == "Conv":
            data, weight = shapes[node.input[0]], shapes[node.input[1]]
            outputs = output[0] * self.blocked(output[1])
            if weight[1] == 1 and data[1] > 1:
                return self.grouped_ns * outputs * prod(output[2:]) * prod(weight[2:])
            inputs = data[1] if data[1] < self.block else self.blocked(data[1])
            return self.dense_ns * inputs * outputs * prod(output[2:]) * prod(weight[2:])
        if node.op_type == "Gemm":
            return self.dense_ns * prod(output) * shapes[node.input[0]][1]
        if node.op_type in {"Relu", "Add", "GlobalAveragePool", "Concat"}:
            return self.element_ns * prod(output)
        return 0.0

    def blocked(self, channels):
        """Channels that are computed."""
        return ceil(channels / self.block) * self.block


def lengths(type_, batch):
    """A shape; what is free is the batch."""
    return tuple(axis.dim_value or batch for axis in type_.tensor_type.shape.dim)


def measurement(ms):
    """The same time every run."""
    return Measurement(
        samples_ms=(ms,) * 8,
        p50_ms=ms,
        p90_ms=ms,
        p99_ms=ms,
        mean_ms=ms,
        load_ms=1.0,
        warmup=0,
        batch=1,
        threads=1,
        runtime="law",
        runtime_version="1",
        provider="law",
        host={},
    )
