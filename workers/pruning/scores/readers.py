"""Layers that read units, as matrices: which columns belong to a unit, what enters them, which rows they make.

Legend: B samples, g groups of a convolution, d columns (inputs) and m rows (outputs) of one group, K kernel positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.graph import design
from workers.pruning.scores.collect import Site, find_sites
from workers.pruning.types import Group, Grouping, IntArray

_DENSE: Final = frozenset({"Gemm", "MatMul", "ConvTranspose"})


class NotALayer(Exception):
    """A node that reads units cannot be taken as a matrix; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some positions of some samples: what enters them, which sample each is of, and the mean over all positions."""

    num_positions: int  # of a sample, in all
    values: torch.Tensor  # (g, n, d)
    sample: torch.Tensor  # (n,)
    means: torch.Tensor  # (g, B, d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A layer with stored weights that reads units along one axis of its input."""

    node: ir.Node
    lines: tuple[IntArray, ...]  # each (channels of the input,), unit or FROZEN; heads and positions in them cross
    weight: torch.Tensor
    matrix: torch.Tensor  # (g, m, d), float64; a transposed convolution makes an output of every channel and offset
    shifts: bool  # a bias or a BatchNormalization behind it can absorb a constant
    parts: int = 1  # kernel positions, where each is taken as a layer by itself

    def apart(self) -> "Reader":
        """The positions of the kernel as layers of their own, whose outputs add up; g is then groups times positions.

        Second moments of inputs at different positions of the kernel are left out: nothing stands in for a channel from
        another position. Their elimination costs a K-th of a K-th of the time.
        """
        num_positions = prod(self.weight.shape[2:]) if self.node.op_type == "Conv" else 1
        return replace(self, matrix=_apart(self.matrix, num_positions), parts=num_positions)

    def columns(self, group: Group) -> list[IntArray]:
        """For every group of the convolution, the columns of each unit: (units, columns per unit).

        Raises:
            NotALayer: the units do not lie alike in all of its groups.
        """
        num_groups = self.matrix.shape[0] // self.parts
        num_channels = len(self.lines[0]) // num_groups
        kernel = self.matrix.shape[2] // num_channels
        line = next(line for line in self.lines if ((line >= group.start) & (line < group.stop)).any())
        found = []
        for units in line.reshape(num_groups, num_channels):
            channels = np.flatnonzero((units >= group.start) & (units < group.stop))
            order = np.argsort(units[channels], kind="stable")
            counts = np.bincount(units[channels] - group.start, minlength=group.width)
            if counts.min() != counts.max() or counts.max() == 0:
                raise NotALayer("its units do not lie alike in all groups of the convolution")
            own = channels[order].reshape(group.width, -1)
            found += [(own[:, :, None] + num_channels * np.arange(kernel)).reshape(group.width, -1)] * self.parts
        return found

    def rows(self, source: torch.Tensor, made: Sequence[int], num_samples: int, each: int, seed: Sequence[int]) -> Rows:
        """Draw `each` positions of every sample (all where there are fewer). `made` is the shape of the output."""
        rng = np.random.default_rng(seed)
        if self.node.op_type in _DENSE:
            stacked = self._stacked(source, num_samples)
            drawn = design.sample(stacked.shape, 2, each * num_samples, rng).to(source.device)
            values = stacked.reshape(-1, stacked.shape[2]).index_select(0, drawn)[None]
            return Rows(
                num_positions=stacked.shape[1],
                values=values,
                sample=drawn // stacked.shape[1],
                means=stacked.mean(1)[None],
            )
        drawn = design.sample(made, 1, each * num_samples, rng).to(source.device)
        means = design.mean_inputs(self.node, source, self.weight, made)
        repeats = len(source) // num_samples
        num_positions = prod(made[2:]) * repeats
        return Rows(
            num_positions=num_positions,
            values=_apart(design.inputs_at(self.node, source, self.weight, made, drawn), self.parts),
            sample=drawn // num_positions,
            means=_apart(means.reshape(len(means), num_samples, repeats, -1).mean(2), self.parts),
        )

    def _stacked(self, value: torch.Tensor, num_samples: int) -> torch.Tensor:
        """A value as (B, positions, channels)."""
        last = value.movedim(1, -1) if self.node.op_type in {"Conv", "ConvTranspose"} else value
        return last.reshape(num_samples, -1, last.shape[-1])

    def felt(self, gradient: torch.Tensor, num_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a gradient at the output: sums over samples of its squares, and of the squares of its sums over positions.

        Shapes: both (g, m). The outputs that a transposed convolution adds up share the squares of their sum.
        """
        stacked = self._stacked(gradient, num_samples).float()
        both = torch.stack([stacked.square().sum((0, 1)), stacked.sum(1).square().sum(0)]).double()
        if self.node.op_type == "ConvTranspose":
            strides = self.node.attributes.get_ints("strides", [1])
            both = both.repeat_interleave(prod(self.weight.shape[2:]), 1) / prod(strides)
        squares, sums = both.reshape(2, len(self.matrix) // self.parts, -1).repeat_interleave(self.parts, 1)
        return squares, sums


def find_readers(graph: ir.Model, grouping: Grouping, device: str) -> tuple[dict[str, Reader], dict[str, str]]:
    """Give every layer that reads units as a matrix, and for each other node that reads some, why it is none."""
    readers: dict[str, Reader] = {}
    others: dict[str, str] = {}
    nodes = {node.name or "": node for node in graph.graph}
    sites: dict[str, list[Site]] = {}
    for site in find_sites(graph, grouping):
        sites.setdefault(site.node, []).append(site)
    for name, found in sites.items():
        try:
            readers[name] = _reader(nodes[name], found, device)
        except NotALayer as reason:
            others[name] = str(reason)
    return readers, others


def nodes_of_units(graph: ir.Model, grouping: Grouping) -> list[set[str]]:
    """For each group, the nodes where its units are read and end."""
    found: list[set[str]] = [set() for _ in grouping.groups]
    starts = np.array([group.start for group in grouping.groups])
    for site in find_sites(graph, grouping):
        for index in set(np.searchsorted(starts, site.units[site.units >= 0], side="right") - 1):
            found[index].add(site.node)
    return found


def _reader(node: ir.Node, sites: Sequence[Site], device: str) -> Reader:
    weight = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if node.op_type not in _DENSE | {"Conv"} or weight is None:
        raise NotALayer(f"{node.op_type} is no product with stored weights")
    rank = len(weight.shape)
    axis = 1 if node.op_type in {"Conv", "ConvTranspose"} else len(_shape(node.inputs[0])) - 1
    if any((site.index, site.axis, site.batch_axis) != (0, axis, 0) for site in sites):
        raise NotALayer("its units or samples lie along unusual axes")
    if node.op_type in {"Gemm", "MatMul"} and (rank != 2 or node.attributes.get_int("transA", 0) != 0):
        raise NotALayer("its weights are no plain matrix")
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
        raise NotALayer("it is a transposed convolution in groups")
    tensor = torch.from_numpy(np.asarray(weight.numpy(), np.float32)).to(device)
    matrix = _matrix(node, tensor.double())
    lines = tuple(site.units for site in sites)
    return Reader(node=node, lines=lines, weight=tensor, matrix=matrix, shifts=_shifts(node))


def _matrix(node: ir.Node, weight: torch.Tensor) -> torch.Tensor:
    if node.op_type == "ConvTranspose":
        return weight.reshape(len(weight), -1).T[None]
    return design.to_matrix(node, weight)


def _apart(rows: torch.Tensor, parts: int) -> torch.Tensor:
    """Shapes: (g, n, K C) to (g K, n, C)."""
    num_groups, num_rows = rows.shape[:2]
    return rows.reshape(num_groups, num_rows, parts, -1).transpose(1, 2).reshape(num_groups * parts, num_rows, -1)


def _shape(value: ir.Value | None) -> Sequence[object]:
    return list(value.shape) if value is not None and value.shape is not None else []


def _shifts(node: ir.Node) -> bool:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return True
    readers = [use.node for use in node.outputs[0].uses()]
    if len(readers) != 1:
        return False
    constants: Mapping[str, bool] = {"BatchNormalization": True, "Add": any(map(_stored, readers[0].inputs))}
    return constants.get(readers[0].op_type, False)


def _stored(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None
