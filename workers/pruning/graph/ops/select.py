"""Parts of tensors: take them, put them together, pad them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.arithmetic import slice_positions
from workers.pruning.graph.ops.site import Kernel, Operator, Site, together


def concat(site: Site) -> Kernel:
    """Tensors one after another along an axis."""
    axis = site.integer("axis", 1)

    def run(*tensors: Tensor) -> Tensor:
        return torch.cat(together(*tensors), axis)

    return run


def split(site: Site) -> Kernel:
    """Parts along an axis: given lengths, or as equal as can be."""
    axis, read_lengths, num_outputs = site.integer("axis", 0), site.list_reader(1, "split"), site.num_outputs

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        x, lengths = inputs[0], read_lengths(inputs)
        parts = torch.split(x, lengths or -(-x.shape[axis] // num_outputs), axis)
        return parts[0] if num_outputs == 1 else parts

    return run


def slices(site: Site) -> Kernel:
    """Every step-th entry from start to end along axes."""
    readers = [site.list_reader(index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)]

    def run(*inputs: Tensor) -> Tensor:
        x = inputs[0]
        starts, ends, axes, steps = (reader(inputs) for reader in readers)
        starts, ends = starts or [], ends or []
        axes = list(range(len(starts))) if axes is None else axes
        steps = steps or [1] * len(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            x = _slice_axis(x, start, end, axis % x.dim(), step)
        return x

    return run


def _slice_axis(x: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    positions = slice_positions(start, end, step, x.shape[axis])
    if step > 0:
        return x[(slice(None),) * axis + (slice(positions.start, positions.stop, step),)]
    return x.index_select(axis, torch.tensor(list(positions), dtype=torch.int64, device=x.device))


def gather(site: Site) -> Kernel:
    """Entries at positions along an axis."""
    axis = site.integer("axis", 0)

    def run(x: Tensor, positions: Tensor) -> Tensor:
        along = axis % x.dim()
        length = x.shape[along]
        if positions.dim() == 0 and positions.device.type == "cpu":
            return x.select(along, int(positions))
        index = positions.to(x.device, torch.int64).reshape(-1)
        index = torch.where(index < 0, index + length, index)
        return x.index_select(along, index).reshape(x.shape[:along] + positions.shape + x.shape[along + 1 :])

    return run


def gather_elements(site: Site) -> Kernel:
    """One entry per position along an axis."""
    axis = site.integer("axis", 0)

    def run(x: Tensor, positions: Tensor) -> Tensor:
        x, positions = together(x, positions.to(torch.int64))
        return x.gather(axis, torch.where(positions < 0, positions + x.shape[axis], positions))

    return run


def gather_nd(site: Site) -> Kernel:
    """Slices at tuples of positions."""
    if site.integer("batch_dims"):
        site.refuse("attribute", f"batch_dims={site.integer('batch_dims')}", "batch_dims=0")

    def run(x: Tensor, positions: Tensor) -> Tensor:
        x, positions = together(x, positions.to(torch.int64))
        return x[tuple(positions.unbind(-1))]

    return run


def scatter_nd(site: Site) -> Kernel:
    """A copy with slices at tuples of positions replaced."""
    if site.text("reduction", "none") != "none":
        site.refuse("attribute", f"reduction={site.text('reduction')}", "reduction=none")

    def run(x: Tensor, positions: Tensor, updates: Tensor) -> Tensor:
        x, positions, updates = together(x, positions.to(torch.int64), updates)
        return x.clone().index_put(tuple(positions.unbind(-1)), updates)

    return run


def scatter_elements(site: Site) -> Kernel:
    """A copy with one entry per position along an axis replaced."""
    axis = site.integer("axis", 0)
    if site.text("reduction", "none") != "none":
        site.refuse("attribute", f"reduction={site.text('reduction')}", "reduction=none")

    def run(x: Tensor, positions: Tensor, updates: Tensor) -> Tensor:
        x, positions, updates = together(x, positions.to(torch.int64), updates)
        return x.scatter(axis, torch.where(positions < 0, positions + x.shape[axis], positions), updates)

    return run


def triangle(site: Site) -> Kernel:
    """The upper or lower triangle of matrices, zero elsewhere."""
    upper, read_diagonal = bool(site.integer("upper", 1)), site.list_reader(1, "k")

    def run(*inputs: Tensor) -> Tensor:
        diagonal = (read_diagonal(inputs) or [0])[0]
        return inputs[0].triu(diagonal) if upper else inputs[0].tril(diagonal)

    return run


def one_hot(site: Site) -> Kernel:
    """Off everywhere, on at the given positions of a new axis."""
    axis, read_depth = site.integer("axis", -1), site.list_reader(1, "depth")

    def run(*inputs: Tensor) -> Tensor:
        depth = (read_depth(inputs) or [0])[0]
        positions, values = together(inputs[0].to(torch.int64), inputs[2])
        found = functional.one_hot(positions % depth, depth).movedim(-1, axis)
        return torch.where(found.to(torch.bool), values[1], values[0])

    return run


def pad(site: Site) -> Kernel:
    """Padding along any axis: constant, reflect, edge or wrap; negative pads crop."""
    mode = site.text("mode", "constant")
    if mode not in _MODES:
        site.refuse("mode", mode, sorted(_MODES))
    read_pads = site.list_reader(1, "pads")
    value, constant_value = site.number("value", 0.0), site.constant(2)
    if constant_value is not None and constant_value.size:
        value = float(constant_value.item())
    read_axes = site.list_reader(3, "axes")

    def run(*inputs: Tensor) -> Tensor:
        x = inputs[0]
        fill = inputs[2] if len(inputs) > 2 and constant_value is None else None
        pads = _pairs(x.dim(), read_pads(inputs) or [], read_axes(inputs))
        if mode == "constant":
            flat = [length for pair in reversed(pads) for length in pair]
            return functional.pad(x, flat, value=value if fill is None else float(fill))
        return _pad_by_index(x, pads, mode)

    return run


def _pairs(rank: int, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int]]:
    result = [(0, 0)] * rank
    half = len(pads) // 2
    for position, axis in enumerate(range(half) if axes is None else axes):
        result[axis] = (pads[position], pads[half + position])
    return result


def _pad_by_index(x: Tensor, pads: Sequence[tuple[int, int]], mode: str) -> Tensor:
    for axis, (begin, end) in enumerate(pads):
        if begin == end == 0:
            continue
        positions = np.arange(x.shape[axis])
        positions = positions[max(-begin, 0) : len(positions) - max(-end, 0)]
        positions = np.pad(positions, (max(begin, 0), max(end, 0)), _MODES[mode])  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(positions).to(x.device))
    return x


_MODES: Final = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}
OPERATORS: Final = {
    "Concat": Operator(build=concat, summary="Tensors one after another along an axis."),
    "Split": Operator(build=split, summary="Parts along an axis."),
    "Slice": Operator(build=slices, summary="Every step-th entry from start to end along axes."),
    "Gather": Operator(build=gather, summary="Entries at positions along an axis."),
    "GatherElements": Operator(build=gather_elements, summary="One entry per position along an axis."),
    "GatherND": Operator(build=gather_nd, summary="Slices at tuples of positions; batch_dims=0."),
    "ScatterND": Operator(build=scatter_nd, summary="A copy with slices replaced; reduction=none."),
    "ScatterElements": Operator(build=scatter_elements, summary="A copy with entries replaced; reduction=none."),
    "Trilu": Operator(build=triangle, summary="The upper or lower triangle of matrices."),
    "OneHot": Operator(build=one_hot, summary="A new axis with one entry on and the others off."),
    "Pad": Operator(build=pad, summary="Padding along any axis: constant, reflect, edge or wrap; negative pads crop."),
}
