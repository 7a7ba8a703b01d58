"""Shapes: read them, change them, make tensors of them."""

from math import prod
from typing import Final

import numpy as np
import torch
from torch import Tensor

from workers.pruning.graph.ops.site import Kernel, Operator, Site, integer_list, to_tensor


def shape(site: Site) -> Kernel:
    """The shape of the input as integers on the CPU."""
    start, end = site.integer("start", 0), site.attributes.get("end")

    def run(x: Tensor) -> Tensor:
        return torch.tensor(list(x.shape)[start : end if isinstance(end, int) else None], dtype=torch.int64)

    return run


def size(_: Site) -> Kernel:
    """The number of entries."""
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


def reshape(site: Site) -> Kernel:
    """The same entries in another shape; 0 copies an axis and -1 computes it."""
    read_shape, literal_zero = site.list_reader(1, "shape"), bool(site.integer("allowzero"))

    def run(*inputs: Tensor) -> Tensor:
        x, target = inputs[0], read_shape(inputs) or []
        if not literal_zero and 0 in target:
            target = [x.shape[axis] if length == 0 else length for axis, length in enumerate(target)]
        return x.reshape(target)

    return run


def transpose(site: Site) -> Kernel:
    """Axes in another order, reversed by default."""
    order = site.integers("perm")

    def run(x: Tensor) -> Tensor:
        return x.permute(order if order is not None else list(reversed(range(x.dim()))))

    return run


def flatten(site: Site) -> Kernel:
    """Two axes: all before `axis`, and the rest."""
    axis = site.integer("axis", 1)

    def run(x: Tensor) -> Tensor:
        first = axis + x.dim() if axis < 0 else axis
        return (
            x.reshape(prod(x.shape[:first]), -1)
            if x.numel()
            else x.reshape(prod(x.shape[:first]), prod(x.shape[first:]))
        )

    return run


def squeeze(site: Site) -> Kernel:
    """Axes of length one removed."""
    read_axes = site.list_reader(1, "axes")

    def run(*inputs: Tensor) -> Tensor:
        axes = read_axes(inputs)
        return inputs[0].squeeze() if axes is None else inputs[0].squeeze(tuple(axes))

    return run


def unsqueeze(site: Site) -> Kernel:
    """Axes of length one inserted."""
    read_axes = site.list_reader(1, "axes")

    def run(*inputs: Tensor) -> Tensor:
        x, axes = inputs[0], read_axes(inputs) or []
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


def expand(site: Site) -> Kernel:
    """Broadcast to a shape."""
    read_shape = site.list_reader(1, "shape")

    def run(*inputs: Tensor) -> Tensor:
        x = inputs[0]
        return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(read_shape(inputs) or ())))

    return run


def tile(site: Site) -> Kernel:
    """The input repeated along its axes."""
    read_repeats = site.list_reader(1, "repeats")

    def run(*inputs: Tensor) -> Tensor:
        return inputs[0].repeat(read_repeats(inputs) or [])

    return run


def constant(site: Site) -> Kernel:
    """A tensor that the node itself holds."""
    held = next((site.attributes[name] for name in ("value", *_PLAIN) if name in site.attributes), None)
    dtype = next((_PLAIN[name] for name in _PLAIN if name in site.attributes), None)
    if held is None:
        site.refuse("kind of value", sorted(site.attributes), ["value", *_PLAIN])
    array = np.asarray(held, dtype)
    return lambda: to_tensor(array)


def constant_of_shape(site: Site) -> Kernel:
    """A tensor filled with one number."""
    value = site.attributes.get("value")
    fill = to_tensor(np.zeros(1, np.float32) if value is None else np.asarray(value).reshape(-1)[:1])

    def run(lengths: Tensor) -> Tensor:
        return fill.to(lengths.device).expand(integer_list(lengths) or []).clone()

    return run


def arange(_: Site) -> Kernel:
    """start, start + delta, ... below limit."""

    def run(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)

    return run


def identity(_: Site) -> Kernel:
    """The input."""
    return lambda x: x


def depth_to_space(site: Site) -> Kernel:
    """Channels moved into blocks of positions."""
    block, columns_first = site.integer("blocksize", 1), site.text("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        depth = c // block**2
        if columns_first:
            parts = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, depth, h * block, w * block)

    return run


def space_to_depth(site: Site) -> Kernel:
    """Blocks of positions moved into channels."""
    block = site.integer("blocksize", 1)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * block**2, h // block, w // block)

    return run


_PLAIN: Final = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
OPERATORS: Final = {
    "Shape": Operator(build=shape, summary="The shape of the input, as integers on the CPU."),
    "Size": Operator(build=size, summary="The number of entries."),
    "Reshape": Operator(build=reshape, summary="The same entries in another shape."),
    "Transpose": Operator(build=transpose, summary="Axes in another order."),
    "Flatten": Operator(build=flatten, summary="Two axes: all before `axis`, and the rest."),
    "Squeeze": Operator(build=squeeze, summary="Axes of length one removed."),
    "Unsqueeze": Operator(build=unsqueeze, summary="Axes of length one inserted."),
    "Expand": Operator(build=expand, summary="Broadcast to a shape."),
    "Tile": Operator(build=tile, summary="The input repeated along its axes."),
    "Constant": Operator(build=constant, summary="A tensor that the node itself holds."),
    "ConstantOfShape": Operator(build=constant_of_shape, summary="A tensor filled with one number."),
    "Range": Operator(build=arange, summary="An arithmetic sequence."),
    "Identity": Operator(build=identity, summary="The input."),
    "DepthToSpace": Operator(build=depth_to_space, summary="Channels moved into blocks of positions, DCR and CRD."),
    "SpaceToDepth": Operator(build=space_to_depth, summary="Blocks of positions moved into channels."),
}
