"""Inputs where there is no data: seeded noise, as strong as the network's statistics say. Results are unverified.

Inputs of integers are drawn from the rows of the table that they pick from; masks let everything through.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidDataset, UnknownShape
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.shapes import nominal_shapes
from workers.pruning.training.preprocessing import network_layout
from workers.pruning.types import AnyArray, FloatArray, IntArray, TensorSpec

SYNTHETIC_STREAM: Final = 2
_COMPARISONS: Final = frozenset(
    {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Where"}
)
_MOVEMENT: Final = frozenset({
    "Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
NUM_PROBES: Final = 16  # samples that tell how the first layer scales noise


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRows:
    """Samples computed when they are asked for: sample i depends on the seed and i alone, and takes no memory.

    Float inputs with image axes are noise whose amplitude falls as 1/f, as it does in photographs; others are white.
    Where `choices` is given, samples are integers from 0 below it, each as likely; 0 of them means ones throughout.
    """

    spec: TensorSpec
    num_samples: int
    seed: tuple[int, ...]
    std: float
    choices: int | None = None

    def __len__(self) -> int:
        return self.num_samples

    def take(self, indices: IntArray) -> AnyArray:
        """Return the samples asked for."""
        return np.stack([self._sample(int(index)) for index in indices])

    def _sample(self, index: int) -> AnyArray:
        rng = np.random.default_rng([*self.seed, index])
        shape = sample_shape(self.spec)
        if self.choices is not None:
            drawn = rng.integers(0, self.choices, shape) if self.choices else np.ones(shape, np.int64)
            return drawn.astype(self.spec.dtype)
        if self.spec.dtype == "uint8":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        noise = rng.standard_normal(shape)
        layout = network_layout(self.spec.shape)
        if layout is not None:
            noise = natural(noise, (1, 2) if layout == "NCHW" else (0, 1))
        return (noise * self.std).astype(self.spec.dtype)


def natural(noise: FloatArray, axes: tuple[int, int]) -> FloatArray:
    """Weigh the spatial frequencies of white noise by 1/f, then restore mean 0 and variance 1.

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    JOSA A 4 (1987): amplitude spectra of natural images fall as about 1/f. The variance is restored in expectation,
    not sample by sample, so that channels keep their differences.
    """
    lengths = [noise.shape[axis] for axis in axes]
    rows, columns = np.meshgrid(*(np.fft.fftfreq(length) for length in lengths), indexing="ij")
    weight = 1 / np.maximum(np.hypot(rows, columns), 1 / max(lengths))
    weight /= math.sqrt(float(np.mean(weight**2)))
    shape = [1] * noise.ndim
    shape[axes[0]], shape[axes[1]] = lengths
    spectrum = np.fft.fft2(noise, axes=axes) * weight.reshape(shape)
    return np.asarray(np.fft.ifft2(spectrum, axes=axes).real, dtype=np.float64)


def noise_rows(graph: ir.Model, inputs: Sequence[TensorSpec], *, num_samples: int, seed: int) -> tuple[NoiseRows, ...]:
    """Give rows of noise for every input of a network; axes that it leaves open get their nominal lengths.

    Raises:
        UnknownShape: an axis other than the first has no fixed length, and the nominal one does not suit the network.
        InvalidDataset: an input takes integers that are no pixels, for which noise would mean nothing.
    """
    rows = []
    possible = {spec.name: num_choices(graph, spec.name) for spec in inputs}
    reads_words = any(possible.values())
    for number, spec in enumerate(with_nominal_lengths(graph, inputs)):
        sample_shape(spec)
        plain = NoiseRows(spec=spec, num_samples=num_samples, seed=(seed, SYNTHETIC_STREAM, number), std=1.0)
        choices = possible[spec.name]
        if choices or (choices == 0 and (reads_words or spec.dtype == "bool")):
            rows.append(replace(plain, choices=choices))
        elif np.dtype(spec.dtype).kind == "f" or spec.dtype == "uint8":
            rows.append(replace(plain, std=stored_deviation(graph, plain)))
        else:
            raise InvalidDataset(
                "This network cannot be pruned without data: an input takes integers that pick from no table",
                where=f"input {spec.name!r}",
                actual=spec.dtype,
                advice="Upload samples.",
            )
    return tuple(rows)


def num_choices(graph: ir.Model, name: str) -> int | None:
    """Count the integers that an input may hold: rows of the smallest table that it picks from, such as an embedding.

    0 for a mask: an input that only becomes a condition or a number, and picks nothing. None where that is not known,
    and for numbers that are no integers.
    """
    tables, masks, others = 0, 0, 0
    smallest = 2**62
    waiting = [value for value in graph.graph.inputs if value.name == name and _is_discrete(value)]
    while waiting:
        value = waiting.pop()
        for use in value.uses():
            table = use.node.inputs[0]
            if use.node.op_type == "Gather" and use.idx == 1 and table is not None and table.shape is not None:
                length = table.shape[use.node.attributes.get_int("axis", 0)]
                tables += isinstance(length, int)
                smallest = min(smallest, length) if isinstance(length, int) else smallest
            elif use.node.op_type in _COMPARISONS or not _is_discrete(use.node.outputs[0]):
                masks += 1
            elif use.node.op_type in _MOVEMENT and use.idx == 0:
                waiting.append(use.node.outputs[0])
            elif use.node.op_type != "Shape":
                others += 1
    if tables:
        return smallest
    return 0 if masks and not others else None


def _is_discrete(value: ir.Value) -> bool:
    return value.dtype is not None and (value.dtype.is_integer() or value.dtype == ir.DataType.BOOL)


def with_nominal_lengths(graph: ir.Model, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Give the inputs with the lengths that costs are counted at in place of those that the network leaves open."""
    if all(isinstance(length, int) for spec in inputs for length in spec.shape[1:]):
        return tuple(inputs)
    shapes = nominal_shapes(graph)
    return tuple(
        replace(spec, shape=(*spec.shape[:1], *shapes.get(spec.name, spec.shape)[1:])) if spec.shape else spec
        for spec in inputs
    )


def stored_deviation(graph: ir.Model, unit: NoiseRows) -> float:
    """Return how strong noise must be for the first layer to see the variance that its BatchNormalization stored.

    Source: own. The output variance of a convolution is the square of its input's deviation times that for unit noise,
    so the deviation is the root of stored variance over variance for `unit`; the median over channels is taken. 1 where
    the input does not meet a convolution and a BatchNormalization first, as in networks that were folded.
    """
    for node in graph.graph:
        followers = [use.node for use in node.outputs[0].uses()] if node.outputs else []
        first = node.op_type == "Conv" and node.inputs[0] is not None and node.inputs[0].name == unit.spec.name
        if first and len(followers) == 1 and followers[0].op_type == "BatchNormalization":
            stored = _initial(followers[0].inputs[4])
            weight = _initial(node.inputs[1])
            if stored is not None and weight is not None:
                return _ratio(stored, _first_layer(node, weight, unit))
    return 1.0


def _initial(value: ir.Value | None) -> FloatArray | None:
    tensor = None if value is None else value.const_value
    return None if tensor is None else np.asarray(tensor.numpy(), dtype=np.float64)


def _first_layer(node: ir.Node, weight: FloatArray, unit: NoiseRows) -> AnyArray:
    """Run one convolution, without its bias, on a few samples of unit noise."""
    samples = unit.take(np.arange(min(NUM_PROBES, len(unit)), dtype=np.int64)).astype(np.float32)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(samples.shape))
    w = ir.Value(name="w", const_value=ir.tensor(weight.astype(np.float32), name="w"))
    attributes = [ir.Attr(attribute.name, attribute.type, attribute.value) for attribute in node.attributes.values()]
    convolution = ir.Node("", "Conv", [x, w], attributes, num_outputs=1)
    convolution.outputs[0].name = "y"
    convolution.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    layer = ir.Graph(
        [x], convolution.outputs, nodes=[convolution], initializers=[w], opset_imports={"": 13}, name="first_layer"
    )
    return Session(to_bytes(ir.Model(layer, ir_version=8))).run([samples])[0]


def _ratio(stored: FloatArray, output: AnyArray) -> float:
    """Return the median over channels of stored deviation over the deviation of (N, C, ...) outputs."""
    axes = (0, *range(2, output.ndim))
    found = output.astype(np.float64).var(axis=axes)
    alive = (found > 0) & (stored > 0)
    return float(np.median(np.sqrt(stored[alive] / found[alive]))) if alive.any() else 1.0


def sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of one sample.

    Raises:
        UnknownShape: an axis other than the first has no fixed length.
    """
    shape = tuple(length for length in spec.shape[1:] if isinstance(length, int))
    if len(shape) != len(spec.shape) - 1:
        raise UnknownShape(
            "An input has axes of unknown length, so no sample can be made up",
            where=f"input {spec.name!r}",
            actual=list(spec.shape),
            allowed="fixed lengths behind the first axis",
            advice="Upload samples, or export the network with a fixed input size.",
        )
    return shape
