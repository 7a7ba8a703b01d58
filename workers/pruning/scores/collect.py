"""Gates on the units where they are read, and what the output feels of each gate, sample by sample.

A gate is a factor of 1 on a unit at the input of every layer that reads it. Zeroing it is exactly removal, also where a
normalisation or a sigmoid would leave a constant behind the layer that produces the unit. Every sample has its own row
of gates, so one backward pass through a sum over samples gives the gradients of every sample by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import NonFiniteScore, UnsupportedOperator
from workers.pruning.graph.execute import GraphModule, Watch
from workers.pruning.graph.feed import frozen_module, has_fixed_batch, tensors
from workers.pruning.graph.precision import FLOAT32, arithmetic
from workers.pruning.graph.summation import SUMS, contracted_axis, summed_axes
from workers.pruning.scores.output import Reading
from workers.pruning.types import AnyArray, FloatArray, Grouping, IntArray, Phase, Role, Run

Edit = Callable[[torch.Tensor], torch.Tensor]
_ACTIVATION_BYTES: Final = 512 * 2**20  # kept for backward at a time; larger batches are run in parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One reading of units: an input of a node, and the unit at each position along one of its axes."""

    node: str
    index: int
    axis: int
    batch_axis: int
    units: IntArray
    crossing: tuple[IntArray, ...] = ()  # units of the other kind on the same axis: whole heads, positions inside them


def find_sites(graph: ir.Model, grouping: Grouping) -> tuple[Site, ...]:
    """List every place where units are read and end: inputs of layers with weights, contractions and sums.

    A normalisation is none: it goes on with fewer channels, and its figures over the others change little with one.
    In a product of two activations the gate sits on the first operand only: it stands for the product of a unit with
    itself in the other operand, which is gone when either is.
    """
    consumed = _consumed(graph, grouping)
    sites: list[Site] = []
    for node in graph.graph:
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is not None:
                continue
            if (name := node.name or "") in consumed:
                read = consumed[name]
                sites += [
                    site for site in _sites_of(node, index, value, grouping) if read.intersection(site.units.tolist())
                ]
            elif index == 0 and (contracted := contracted_axis(node)) is not None:
                sites += [site for site in _sites_of(node, index, value, grouping) if site.axis == contracted]
            elif node.op_type in SUMS and index == 0 and value.shape is not None:
                axes = summed_axes(node, len(value.shape))
                sites += [site for site in _sites_of(node, index, value, grouping) if site.axis in axes]
    return tuple(sites)


def _consumed(graph: ir.Model, grouping: Grouping) -> dict[str, set[int]]:
    """Units that the weights of each node read; what passes through a layer over positions is none of them."""
    found: dict[str, set[int]] = {}
    for axis in grouping.initializer_axes:
        weight = graph.graph.initializers.get(axis.initializer) if axis.role is Role.CONSUME else None
        for use in weight.uses() if weight is not None else ():
            found.setdefault(use.node.name or "", set()).update(axis.units[axis.units >= 0].tolist())
    return found


def gate_edits(sites: Sequence[Site], gates: torch.Tensor) -> dict[tuple[str, int], Edit]:
    """Return edits for `GraphModule.run` that multiply `gates` into every site.

    Shapes: gates (batch, num_units); a site whose batch axis holds several rows of each sample repeats its gates.
    """
    padded = torch.cat([gates, torch.ones_like(gates[:, :1])], dim=1)  # the last column serves frozen positions
    return _at_sites(sites, lambda site: _edit(site, padded))


def gradient_edits(sites: Sequence[Site], gradients: torch.Tensor) -> dict[tuple[str, int], Edit]:
    """Return edits for `GraphModule.run` that add each sample's gradients in gates of 1 to `gradients`.

    Nothing is multiplied in: a layer reads a view of its input, and a hook on the view turns the gradient that arrives
    there into that of the gate, the sum over positions of value times gradient. Every backward pass adds up.

    Shapes: gradients (batch, num_units); a site whose batch axis holds several rows of each sample adds them.
    """
    return _at_sites(sites, lambda site: _felt(site, gradients))


def _at_sites(sites: Sequence[Site], edit_of: Callable[[Site], Edit]) -> dict[tuple[str, int], Edit]:
    """One edit for each input of a node; several sites on one input follow each other."""
    edits: dict[tuple[str, int], Edit] = {}
    for site in sites:
        edit, before = edit_of(site), edits.get((site.node, site.index))
        edits[site.node, site.index] = edit if before is None else _both(before, edit)
    return edits


def accumulate(  # noqa: PLR0913  # one pass, everything that is taken from it
    graph: ir.Model,
    grouping: Grouping,
    batches: Sequence[Sequence[AnyArray]],
    objectives: Callable[[int, slice, Sequence[torch.Tensor]], Iterator[torch.Tensor]],
    reduction: Callable[[torch.Tensor], torch.Tensor],
    *,
    readings: Sequence[Reading],
    run: Run,
    message: str,
    look: Callable[[int, slice], Watch] | None = None,
    precision: str = FLOAT32,
) -> FloatArray:
    """Sum `reduction` of the gates' per-sample gradients over samples and objectives.

    `objectives(batch number, samples of it, parameters of the outputs)` yields scalars that are sums over the samples,
    one backward pass each; the parameters are in the order of `readings`. BatchNormalization uses its stored
    statistics: with those of the batch, samples would not be independent. `look(batch number, samples of it)` gives
    observers of the same forward pass. Layers are computed in `precision`, their gradients too.

    Shapes: `reduction` maps gradients (batch, num_units) to the same shape; returns (num_units,).

    Raises:
        NonFiniteScore: the output or a score is NaN or infinite; the message names which.
    """
    module = frozen_module(graph, run.device)
    sites = find_sites(graph, grouping)
    total = torch.zeros(grouping.num_units, dtype=torch.float64, device=run.device)
    for number, batch in enumerate(batches):
        run.report(Phase.SCORE, number / len(batches), message)
        for part in parts(graph, batch):
            inputs = tensors([array[part] for array in batch], run.device)
            gradients = torch.zeros(len(inputs[0]), grouping.num_units, device=run.device)
            watch = look(number, part) if look is not None else {}
            with arithmetic(precision, run.device):
                outputs = run_to_parameters(module, inputs, readings, gradient_edits(sites, gradients), watch)
            zs = [z.float() if z.dtype is torch.bfloat16 else z for z in outputs]
            _require_finite(graph, readings, zs)
            for objective in objectives(number, part, zs):
                gradients.zero_()
                if objective.requires_grad:
                    objective.backward(retain_graph=True)  # type: ignore[no-untyped-call]  # no annotation in torch
                total += reduction(gradients).double().sum(0)
    run.report(Phase.SCORE, 1.0, message)
    values = total.cpu().numpy()
    _require_finite_scores(values, grouping)
    return values


def run_to_parameters(
    module: GraphModule,
    inputs: Sequence[torch.Tensor],
    readings: Sequence[Reading],
    edits: Mapping[tuple[str, int], Edit] | None = None,
    watch: Watch | None = None,
) -> list[torch.Tensor]:
    """Run the network and return the parameter z of each output: the output, or what its softmax or sigmoid reads.

    Taken in front of that node because behind it the gradient of a certain answer is zero in float32.
    """
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Callable[[Sequence[torch.Tensor | None], Sequence[torch.Tensor]], None]:
        def look(read: Sequence[torch.Tensor | None], _outputs: Sequence[torch.Tensor]) -> None:
            if read[0] is not None:
                seen[name] = read[0]

        return look

    links = {reading.link: remember(reading.link) for reading in readings if reading.link}
    outputs = module.run(inputs, edits=edits, watch={**(watch or {}), **links})
    return [seen[reading.link] if reading.link else outputs[reading.index] for reading in readings]


def parts(graph: ir.Model, batch: Sequence[AnyArray]) -> list[slice]:
    """Cut a batch into runs of samples whose activations fit; a network with a fixed batch gets it whole."""
    num_samples = len(batch[0])
    if has_fixed_batch(graph):
        return [slice(0, num_samples)]
    step = max(1, _ACTIVATION_BYTES // max(1, _activation_bytes(graph)))
    return [slice(start, min(start + step, num_samples)) for start in range(0, num_samples, step)]


def _activation_bytes(graph: ir.Model) -> int:
    """Bytes of all values of one sample; a dimension that is not known counts as one."""
    shapes = [value.shape for node in graph.graph for value in node.outputs if value.shape is not None]
    return 4 * sum(prod(dim for dim in shape if isinstance(dim, int)) for shape in shapes)


def _sites_of(node: ir.Node, index: int, value: ir.Value, grouping: Grouping) -> list[Site]:
    axes = grouping.units_of(value.name or "")
    return [
        Site(
            node=node.name or "",
            index=index,
            axis=axis,
            batch_axis=_batch_axis(value),
            units=units,
            crossing=tuple(other for where, other in axes if where == axis and other is not units),
        )
        for axis, units in axes
        if (units >= 0).any()
    ]


def _batch_axis(value: ir.Value) -> int:
    """The first axis whose length is a symbol; networks with a fixed batch have it first."""
    dims = list(value.shape) if value.shape is not None else []
    return next((axis for axis, dim in enumerate(dims) if not isinstance(dim, int)), 0)


def _edit(site: Site, padded: torch.Tensor) -> Edit:
    frozen = padded.shape[1] - 1
    index = torch.from_numpy(np.where(site.units < 0, frozen, site.units)).to(padded.device)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        num_rows, num_samples = x.shape[site.batch_axis], padded.shape[0]
        _require_rows(site, num_rows, num_samples)
        gates = padded.index_select(1, index).repeat_interleave(num_rows // num_samples, dim=0)
        if site.axis < site.batch_axis:
            gates = gates.T
        shape = [1] * x.dim()
        shape[site.batch_axis], shape[site.axis] = num_rows, len(index)
        return x * gates.reshape(shape)

    return multiply


def _felt(site: Site, gradients: torch.Tensor) -> Edit:
    member = np.flatnonzero(site.units >= 0)
    positions = torch.from_numpy(member).to(gradients.device)
    units = torch.from_numpy(site.units[member]).to(gradients.device)

    def watch(x: torch.Tensor) -> torch.Tensor:
        _require_rows(site, x.shape[site.batch_axis], len(gradients))
        view = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        values = x.detach()

        def add(gradient: torch.Tensor) -> None:
            felt = (values * gradient).movedim((site.batch_axis, site.axis), (0, 1))
            felt = felt.reshape(*felt.shape[:2], -1).sum(2, dtype=gradients.dtype)
            felt = felt.reshape(len(gradients), -1, felt.shape[1]).sum(1)
            gradients.index_add_(1, units, felt.index_select(1, positions).to(gradients))

        view.register_hook(add)  # type: ignore[no-untyped-call]  # torch has no annotation here
        return view

    return watch


def _require_rows(site: Site, num_rows: int, num_samples: int) -> None:
    if num_rows % num_samples:
        raise UnsupportedOperator(
            "samples cannot be told apart at the input of a layer, so its units cannot be scored",
            where=site.node,
            actual=f"{num_rows} rows for {num_samples} samples",
            advice="Score by magnitude instead.",
        )


def _both(first: Edit, second: Edit) -> Edit:
    return lambda x: second(first(x))


def _require_finite(graph: ir.Model, readings: Sequence[Reading], zs: Sequence[torch.Tensor]) -> None:
    for reading, z in zip(readings, zs, strict=True):
        if not torch.isfinite(z).all():
            raise NonFiniteScore(
                "the network answers NaN or infinity on the calibration data",
                where=graph.graph.outputs[reading.index].name or "",
                advice="Check the weights and the scaling of the inputs.",
            )


def _require_finite_scores(values: FloatArray, grouping: Grouping) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        unit = int(bad[0])
        group = next(group for group in grouping.groups if group.start <= unit < group.stop)
        raise NonFiniteScore(
            f"the score of channel {unit - group.start} is NaN or infinite",
            where=group.id,
            actual=f"{len(bad)} such scores",
            advice="Check the scaling of the inputs; very large activations overflow when squared.",
        )
