"""What a layer with weights computes, as rows times a matrix: which inputs enter one position of its output.

Legend: B batch, C channels, K positions of the kernel, g groups, n rows (sampled positions), d = C / g * K inputs of a
row, m outputs of a group.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from workers.pruning.types import IntArray


def num_inputs(node: ir.Node, weight: torch.Tensor) -> int:
    """Inputs of a row, d."""
    if node.op_type == "Conv":
        return prod(weight.shape[1:])
    return int(weight.shape[1] if _transposed(node) else weight.shape[0])


def to_matrix(node: ir.Node, weight: torch.Tensor) -> torch.Tensor:
    """The weights as (g, m, d), with Gemm's alpha in them."""
    if node.op_type == "Conv":
        num_groups = node.attributes.get_int("group", 1)
        grouped = weight.reshape(num_groups, len(weight) // num_groups, weight.shape[1], -1)
        return grouped.transpose(2, 3).reshape(num_groups, grouped.shape[1], -1)
    matrix = weight if _transposed(node) else weight.T
    return (matrix * node.attributes.get_float("alpha", 1.0))[None]


def from_matrix(node: ir.Node, matrix: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_matrix`, in the shape and type of `like`."""
    if node.op_type == "Conv":
        num_groups, num_outputs = matrix.shape[:2]
        kernel = matrix.reshape(num_groups, num_outputs, -1, like.shape[1]).transpose(2, 3)
        return kernel.reshape(like.shape).to(like)
    weight = matrix[0] / node.attributes.get_float("alpha", 1.0)
    return (weight if _transposed(node) else weight.T).contiguous().to(like)


def sample(shape: Sequence[int], axis: int, num_rows: int, rng: np.random.Generator) -> torch.Tensor:
    """Draw positions of an output without its channel axis, as indices into the flattened rest: (n,).

    Every sample of the batch gives the same number of positions, drawn without repetition.
    """
    num_samples = shape[0]
    num_positions = prod(shape) // (shape[axis] * num_samples)
    each = min(num_positions, max(1, num_rows // num_samples))
    if each == num_positions:
        return torch.arange(num_samples * num_positions)
    drawn = np.argpartition(rng.random((num_samples, num_positions)), each, axis=1)[:, :each]
    offset = np.arange(num_samples)[:, None] * num_positions
    return torch.from_numpy(np.sort(drawn, axis=1) + offset).reshape(-1)


def outputs_at(value: torch.Tensor, axis: int, rows: torch.Tensor) -> torch.Tensor:
    """A value at the drawn positions: (n, channels)."""
    return value.movedim(axis, -1).reshape(-1, value.shape[axis]).index_select(0, rows)


def inputs_at(
    node: ir.Node, source: torch.Tensor, weight: torch.Tensor, output_shape: Sequence[int], rows: torch.Tensor
) -> torch.Tensor:
    """What enters each drawn position: (g, n, d), in the order of `to_matrix`."""
    if node.op_type == "Gemm":
        matrix = source.T if node.attributes.get_int("transA", 0) else source
        return matrix.index_select(0, rows)[None]
    if node.op_type == "MatMul":
        return source.reshape(-1, source.shape[-1]).index_select(0, rows)[None]
    return _patches(node, source, weight, output_shape, rows)


def lines_at(
    node: ir.Node, source: torch.Tensor, weight: torch.Tensor, output_shape: Sequence[int], lines: torch.Tensor
) -> torch.Tensor:
    """What enters whole lines of a convolution's output, lines running along the last axis: (columns, n, d / K_last).

    One column for each position of the padded input: `strides` being 1 there, what enters position p of a line is
    columns p, p + dilation, ... side by side. Of several groups of channels there is none.
    """
    kernel, spatial = weight.shape[2:], source.shape[2:]
    rank = len(kernel)
    strides, dilations = (_ints(node, name, [1] * rank) for name in ("strides", "dilations"))
    padded = _padded(source, *_padding(node, kernel, spatial, strides, dilations)).movedim(1, -1)
    num_columns, num_channels = padded.shape[-2:]
    offsets = _offsets(kernel[:-1], dilations[:-1], padded.shape[1:-2])
    corners = _corners(output_shape[:-1], strides[:-1], padded.shape[1:-2])
    index = torch.from_numpy((corners[lines.cpu().numpy()][:, None] + offsets[None, :]).reshape(-1)).to(source.device)
    picked = padded.reshape(-1, num_columns * num_channels).index_select(0, index)
    picked = picked.reshape(len(lines), len(offsets), num_columns, num_channels)
    return picked.permute(2, 0, 1, 3).reshape(num_columns, len(lines), -1)


def columns(node: ir.Node, kernel: Sequence[int]) -> list[int]:
    """Where the positions of a kernel meet a line, from the first one on."""
    dilation = _ints(node, "dilations", [1] * len(kernel))[-1]
    return [position * dilation for position in range(kernel[-1])]


def has_lines(node: ir.Node, weight: torch.Tensor) -> bool:
    """Whether neighbours in a line of the output read the same inputs, so that `lines_at` saves work."""
    if node.op_type != "Conv" or weight.dim() < 4 or weight.shape[-1] < 2:
        return False
    return node.attributes.get_int("group", 1) == 1 and _ints(node, "strides", [1])[-1] == 1


def mean_inputs(node: ir.Node, source: torch.Tensor, weight: torch.Tensor, output_shape: Sequence[int]) -> torch.Tensor:
    """What enters all positions of a sample on average: (g, B, d), in the order of `to_matrix`.

    Exact, and without building the inputs of every position: of a convolution, each spatial axis is contracted with the
    number of times that a kernel position meets each input position.
    """
    if node.op_type == "Gemm":
        return (source.T if node.attributes.get_int("transA", 0) else source)[None]
    if node.op_type == "MatMul":
        return source.reshape(len(source), -1, source.shape[-1]).mean(1)[None]
    kernel, spatial = weight.shape[2:], source.shape[2:]
    strides, dilations = (_ints(node, name, [1] * len(kernel)) for name in ("strides", "dilations"))
    begin, _ = _padding(node, kernel, spatial, strides, dilations)
    total = source.movedim(1, -1).contiguous()
    num_samples, num_channels = len(source), source.shape[1]
    rows = num_samples
    for axis, length in enumerate(spatial):
        meets = _meetings(
            kernel[axis], length, output_shape[2 + axis], (strides[axis], dilations[axis], begin[axis])
        ).to(total)
        total = meets @ total.reshape(rows, length, -1)
        rows *= kernel[axis]
    num_groups = node.attributes.get_int("group", 1)
    total = total.reshape(num_samples, prod(kernel), num_groups, num_channels // num_groups)
    mean = total / prod(output_shape[2:])
    return mean.permute(2, 0, 1, 3).reshape(num_groups, num_samples, -1)


def _meetings(kernel: int, length: int, num_outputs: int, geometry: tuple[int, int, int]) -> torch.Tensor:
    """How often each kernel position (rows) meets each input position (columns) of one axis: (kernel, length)."""
    stride, dilation, begin = geometry
    met = np.arange(kernel)[:, None] * dilation + np.arange(num_outputs)[None, :] * stride - begin
    counts = np.zeros((kernel, length))
    inside = (met >= 0) & (met < length)
    np.add.at(counts, (np.nonzero(inside)[0], met[inside]), 1.0)
    return torch.from_numpy(counts)


def _patches(
    node: ir.Node, source: torch.Tensor, weight: torch.Tensor, output_shape: Sequence[int], rows: torch.Tensor
) -> torch.Tensor:
    kernel, spatial = weight.shape[2:], source.shape[2:]
    rank = len(kernel)
    strides = _ints(node, "strides", [1] * rank)
    dilations = _ints(node, "dilations", [1] * rank)
    last = _padded(source, *_padding(node, kernel, spatial, strides, dilations)).movedim(1, -1)
    offsets = _offsets(kernel, dilations, last.shape[1:-1])
    corners = _corners(output_shape, strides, last.shape[1:-1])
    index = (corners[rows.numpy()][:, None] + offsets[None, :]).reshape(-1)
    picked = last.reshape(-1, last.shape[-1]).index_select(0, torch.from_numpy(index).to(source.device))
    num_groups = node.attributes.get_int("group", 1)
    grouped = picked.reshape(len(rows), len(offsets), num_groups, -1)
    return grouped.permute(2, 0, 1, 3).reshape(num_groups, len(rows), -1)


def _padded(source: torch.Tensor, begin: Sequence[int], end: Sequence[int]) -> torch.Tensor:
    flat = [amount for low, high in zip(reversed(begin), reversed(end), strict=True) for amount in (low, high)]
    return functional.pad(source, flat) if any(flat) else source


def _offsets(kernel: Sequence[int], dilations: Sequence[int], padded: Sequence[int]) -> IntArray:
    """Distance of every kernel position from the first one, in flattened positions of the padded input: (K,)."""
    steps = [np.arange(length) * dilation for length, dilation in zip(kernel, dilations, strict=True)]
    return np.asarray(np.ravel_multi_index(np.meshgrid(*steps, indexing="ij"), tuple(padded)).reshape(-1), np.int64)


def _corners(output_shape: Sequence[int], strides: Sequence[int], padded: Sequence[int]) -> IntArray:
    """First input position of every output position, in flattened positions of the padded batch: (B * positions,)."""
    steps = [np.arange(length) * stride for length, stride in zip(output_shape[2:], strides, strict=True)]
    one = np.ravel_multi_index(np.meshgrid(*steps, indexing="ij"), tuple(padded)).reshape(-1)
    batch = np.arange(output_shape[0])[:, None] * prod(padded)
    return np.asarray((batch + one[None, :]).reshape(-1), np.int64)


def _padding(
    node: ir.Node, kernel: Sequence[int], spatial: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in {"NOTSET", ""}:
        pads = _ints(node, "pads", [0] * 2 * len(kernel))
        return pads[: len(kernel)], pads[len(kernel) :]
    if mode == "VALID":
        return [0] * len(kernel), [0] * len(kernel)
    begin, end = [], []
    for size, length, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begin.append(less if mode == "SAME_UPPER" else more)
        end.append(more if mode == "SAME_UPPER" else less)
    return begin, end


def _ints(node: ir.Node, name: str, default: Sequence[int]) -> list[int]:
    return list(node.attributes.get_ints(name, default))


def _transposed(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
