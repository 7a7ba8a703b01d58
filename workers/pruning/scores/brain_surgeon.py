"""Optimal brain surgeon over coupled layers: what it costs to lose a unit when all that read it are refitted.

One pass over the calibration data collects, for every layer that reads units, the second moment of what enters it and
how much the output feels what leaves it, and for every unit its information gain. Everything after that is algebra.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.execute import Watch
from workers.pruning.graph.feed import frozen_module, has_fixed_batch, tensors
from workers.pruning.graph.head import Head
from workers.pruning.graph.precision import FLOAT32, arithmetic, fastest_borne
from workers.pruning.scores.collect import accumulate, parts
from workers.pruning.scores.elimination import Regression, eliminate, nondecreasing
from workers.pruning.scores.information_gain import fisher_objectives, output_deviations
from workers.pruning.scores.output import Kind, read_outputs
from workers.pruning.scores.readers import NotALayer, Reader, find_readers, nodes_of_units
from workers.pruning.types import AnyArray, BoolArray, FloatArray, Group, Grouping, IntArray, Json, Run, Scores

RIDGE: Final = 1e-2  # relative to the mean of the diagonal, as in the repair
MOST_BYTES: Final = 2**30  # of second moments at a time
MOST_INPUTS: Final = 2304  # of a layer: 256 channels of a 3 x 3 kernel; the time grows with the cube
_STREAM: Final = 105  # keeps these draws apart from others of the same seed
_ROWS_PER_INPUT: Final = 16
_FEWEST_ROWS: Final = 4096
_MOST_ROWS: Final = 16384
_CONSTANT: Final = 1e-10  # variance of a dead input, relative to the mean variance of the layer's inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What the units are worth, and how that was found for each group."""

    scores: Scores
    gain: FloatArray  # information gain of each unit alone
    groups: tuple[Mapping[str, Json], ...]  # facts, by group


def brain_surgeon(
    graph: ir.Model,
    grouping: Grouping,
    batches: Sequence[Sequence[AnyArray]],
    *,
    probes: int = 4,
    run: Run,
    head: Head | Kind | None = None,
    most_bytes: int = MOST_BYTES,
) -> Damage:
    """Score each unit by the damage that its removal adds at its turn, in nats, what reads it refitted.

    Source: derivation on Hassibi & Stork 1992 (see `elimination`). A layer that reads units has outputs y = W u. Its
    Fisher-weighted error 1/2 sum_o f_o E dy_o^2 is the divergence of the answers to second order if errors at different
    positions are independent: f_o is the expected square of the gradient of <z, v> at y_o, summed over positions, v the
    directions of the information gain. They are not independent: an error that is the same at all positions of an
    image adds up before it is squared. So the second moment is taken as
    H = Cov(u within images) + rho Cov(means of images), rho = E (sum of gradients)^2 / E sum of squared gradients.
    Groups are brought to the scale of the information gain by kappa, the ratio of their units' summed gain to their
    summed error without refitting; it is near 1 where rho has said everything.
    Each group is eliminated to the end on its own, so that one run serves every target; within a group increments never
    fall (`nondecreasing`). Units whose readers see a constant cost nothing. What the k-th removal of a group is worth
    is a weighted geometric mean of its increment and of the k-th smallest gain: the increment knows what refitting
    saves but not how errors of successive layers meet, the gain knows the whole network, while most of it is there, but
    no refitting (`_worth`, docs/methods/auto.md).
    Of a convolution with too many inputs the positions of the kernel are taken as layers of their own, whose errors add
    up. A group that a node reads which is no matrix, or whose moments do not fit, gets its information gain times the
    median ratio of the others' worth to gain. No labels enter.

    Shapes: values (num_units,). Units: nats per sample.

    Raises:
        InvalidDataset: there is no calibration sample.
        NonFiniteScore: an output or a score is NaN or infinite.
        NothingToPrune: no output is a floating-point value.
    """
    if not sum(len(batch[0]) for batch in batches):
        raise InvalidDataset("optimal brain surgeon needs calibration inputs", actual=0, allowed="at least 1")
    readers, reasons = find_readers(graph, grouping, run.device)
    readers, too_large = _fitting(readers, most_bytes)
    gain, moments = _one_pass(graph, grouping, batches, readers, probes=probes, run=run, head=head)
    surgeon = _Surgeon(grouping=grouping, moments=moments, gain=gain)
    return surgeon.operate(nodes_of_units(graph, grouping), reasons | too_large)


def _one_pass(
    graph: ir.Model,
    grouping: Grouping,
    batches: Sequence[Sequence[AnyArray]],
    readers: Mapping[str, Reader],
    *,
    probes: int,
    run: Run,
    head: Head | Kind | None,
) -> tuple[FloatArray, dict[str, "_Moments"]]:
    """Run the data through the network once, forwards and backwards; give the information gain and the moments."""
    num_samples = sum(len(batch[0]) for batch in batches)
    readings = read_outputs(graph, head)
    deviations = output_deviations(graph, readings, batches, run)
    moments = {
        name: _Moments(reader, num_samples, number, run) for number, (name, reader) in enumerate(readers.items())
    }

    def look(number: int, part: slice) -> Watch:
        count = len(batches[number][0][part])
        return {name: found.observer(count, (number, part.start)) for name, found in moments.items()}

    gain = accumulate(
        graph,
        grouping,
        batches,
        fisher_objectives(readings, deviations, probes=probes, seed=run.seed),
        torch.square,
        readings=readings,
        run=run,
        message="second moments and sensitivities",
        look=look,
        precision=_precision(graph, batches, run.device),
    )
    return 0.5 * gain / num_samples, moments


def _precision(graph: ir.Model, batches: Sequence[Sequence[AnyArray]], device: str) -> str:
    """The fastest arithmetic in which the network still gives nearly what it gives in float32."""
    part = parts(graph, batches[0])[0]
    inputs = tensors([array[part] for array in batches[0]], device)
    return fastest_borne(frozen_module(graph, device), inputs, device, whole=has_fixed_batch(graph))


def _fitting(readers: Mapping[str, Reader], most_bytes: int) -> tuple[dict[str, Reader], dict[str, str]]:
    """Take the smallest layers as long as their moments fit; say of the others how large they are.

    Of a layer with too many inputs the positions of the kernel are taken apart.
    """
    kept: dict[str, Reader] = {}
    others: dict[str, str] = {}
    room = most_bytes
    small = {name: r if r.matrix.shape[2] <= MOST_INPUTS else r.apart() for name, r in readers.items()}
    for name, reader in sorted(small.items(), key=lambda item: (item[1].matrix.shape[2], item[0])):
        num_groups, _, num_inputs = reader.matrix.shape
        needed = 8 * num_groups * num_inputs**2
        if num_inputs > MOST_INPUTS or needed > room:
            others[name] = f"the second moments of its {num_inputs:,} inputs do not fit"
        else:
            room -= needed
            kept[name] = reader
    return kept, others


class _Moments:
    """What one layer reads and how much is felt of what it gives, gathered over the calibration data."""

    def __init__(self, reader: Reader, num_samples: int, number: int, run: Run) -> None:
        num_inputs = reader.matrix.shape[2]
        wanted = min(_MOST_ROWS, max(_FEWEST_ROWS, _ROWS_PER_INPUT * num_inputs))
        self.reader = reader
        self._each = max(1, -(-wanted // num_samples))
        self._seed = (run.seed, _STREAM, number)
        self._num_samples = 0
        self._num_rows = 0
        self._within: torch.Tensor | None = None
        self._between: torch.Tensor | None = None  # around the first batch's mean, so that nothing cancels
        self._shift: torch.Tensor | None = None
        self._total = torch.zeros(())
        self._squares = torch.zeros(())
        self._sums = torch.zeros(())

    def observer(self, num_samples: int, place: tuple[int, int]) -> "_Look":
        """Give the observer of one run through the network."""
        return _Look(self, num_samples, (*self._seed, *place))

    def read(self, source: torch.Tensor, made: Sequence[int], num_samples: int, seed: Sequence[int]) -> None:
        """Take in what the layer reads of some samples."""
        rows = self.reader.rows(source.float(), made, num_samples, self._each, seed)
        self._shift = rows.means.mean(1, keepdim=True) if self._shift is None else self._shift
        means = rows.means - self._shift
        self._num_samples += num_samples
        self._total = self._total + means.sum(1).double()
        self._between = _added(self._between, means)
        if rows.num_positions > 1:
            inside = rows.values - rows.means.index_select(1, rows.sample)
            self._num_rows += inside.shape[1]
            self._within = _added(self._within, inside)

    def feel(self, gradient: torch.Tensor, num_samples: int) -> None:
        squares, sums = self.reader.felt(gradient, num_samples)
        self._squares = self._squares + squares
        self._sums = self._sums + sums

    @property
    def rho(self) -> float:
        """How far errors at the positions of an image add up: 1 independent, number of positions all alike."""
        total = float(self._squares.sum())
        return float(self._sums.sum()) / total if total > 0 else 1.0

    @property
    def weight(self) -> torch.Tensor:
        """W with row o scaled by the root of f_o: (g, m, d)."""
        felt = (self._squares / self._num_samples).expand(self.reader.matrix.shape[:2])
        return self.reader.matrix * felt.clamp_min(0).sqrt()[:, :, None]

    def second_moment(self, *, centred: bool) -> torch.Tensor:
        """H, without a ridge: (g, d, d)."""
        if self._between is None or self._shift is None:
            return torch.zeros_like(self.reader.matrix.transpose(1, 2) @ self.reader.matrix)
        offset = self._total / self._num_samples
        moment = self._between.double() / self._num_samples - offset[:, :, None] * offset[:, None, :]
        if not centred:
            mean = offset + self._shift[:, 0].double()
            moment += mean[:, :, None] * mean[:, None, :]
        moment *= self.rho
        return moment if self._within is None else moment + self._within.double() / self._num_rows


def _added(total: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Add the second moment of rows (g, n, d), in float32."""
    if total is None:
        return rows.transpose(1, 2) @ rows
    return total.baddbmm_(rows.transpose(1, 2), rows)


class _Look:
    """Watches one node during one run: its input at once, the gradient of its output when it comes."""

    def __init__(self, moments: _Moments, num_samples: int, seed: Sequence[int]) -> None:
        self._moments = moments
        self._num_samples = num_samples
        self._seed = seed

    def __call__(self, inputs: Sequence[torch.Tensor | None], outputs: Sequence[torch.Tensor]) -> None:
        source, made = inputs[0], outputs[0]
        if source is None:
            return
        with torch.no_grad(), arithmetic(FLOAT32, source.device.type):
            self._moments.read(source.detach(), made.shape, self._num_samples, self._seed)
        if made.requires_grad:
            made.register_hook(self._felt)  # type: ignore[no-untyped-call]  # torch has no annotation here

    def _felt(self, gradient: torch.Tensor) -> None:
        self._moments.feel(gradient, self._num_samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Solved:
    """One layer after the pass, ready for every group that it reads."""

    weight: torch.Tensor  # (g, m, d)
    inverse: torch.Tensor  # (g, d, d)
    plain: torch.Tensor  # (g, d, d), second moment without centring and ridge
    spread: torch.Tensor  # (g, d), variance where the layer can absorb a constant, else second moment

    @classmethod
    def of(cls, moments: _Moments) -> "_Solved":
        h = moments.second_moment(centred=moments.reader.shifts)
        spread = h.diagonal(dim1=1, dim2=2).clone()
        mean = spread.mean(1)
        strength = torch.where(mean > 0, RIDGE * mean, torch.ones_like(mean))
        h.diagonal(dim1=1, dim2=2).add_(strength[:, None])
        factor, failed = torch.linalg.cholesky_ex(h)
        inverse = torch.cholesky_inverse(factor)
        if failed.any() or not torch.isfinite(inverse).all():
            raise NotALayer("the second moments of what a layer reads overflow")
        return cls(weight=moments.weight, inverse=inverse, plain=moments.second_moment(centred=False), spread=spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surgeon:
    """Turns moments into damage, group by group."""

    grouping: Grouping
    moments: Mapping[str, _Moments]
    gain: FloatArray
    solved: dict[str, _Solved] = field(default_factory=dict)

    def operate(self, nodes: Sequence[set[str]], reasons: Mapping[str, str]) -> Damage:
        """Eliminate every group that can be, and give the others their gain on the same scale."""
        values = self.gain.copy()
        facts: list[dict[str, Json]] = []
        ratios: list[float] = []
        for group, read in zip(self.grouping.groups, nodes, strict=True):
            gain = self.gain[group.start : group.stop]
            try:
                damage, kappa = self._eliminated(group, sorted(read), reasons)
            except NotALayer as reason:
                facts.append({"group": group.id, "score": "information_gain", "reason": str(reason)})
                continue
            values[group.start : group.stop] = damage
            facts.append({"group": group.id, "score": "obs", "kappa": kappa})
            ratios += [_lower_half(damage) / _lower_half(gain)] if _lower_half(gain) > 0 else []
            self._forget(read, nodes[len(facts) :])
        scale = float(np.median(ratios)) if ratios else 1.0
        for group, fact in zip(self.grouping.groups, facts, strict=True):
            if fact["score"] != "obs":
                values[group.start : group.stop] *= scale
        scores = Scores(values=values, source="optimal_brain_surgeon")
        return Damage(scores=scores, gain=self.gain, groups=tuple(facts))

    def _eliminated(self, group: Group, read: Sequence[str], reasons: Mapping[str, str]) -> tuple[FloatArray, float]:
        """The damage of each unit at its turn, and kappa."""
        unread = [f"{name}: {reasons[name]}" for name in read if name in reasons]
        if unread:
            raise NotALayer("; ".join(unread))
        parts = [(self._solve(name), self.moments[name].reader.columns(group)) for name in read]
        regressions, plain, dead = [], np.zeros(group.width), np.ones(group.width, np.bool_)
        for solved, columns in parts:
            for number, own in enumerate(columns):
                regressions.append(_regression(solved, number, own))
                plain += _error(solved, number, own)
                dead &= _is_constant(solved, number, own)
        curve = eliminate(regressions, group.width)
        gain = self.gain[group.start : group.stop]
        kappa = _kappa(gain, plain)
        increments = np.where(dead[curve.order], 0.0, curve.increments)
        first = np.argsort(~dead[curve.order], kind="stable")  # dead units go first, the others in their order
        damage = np.empty(group.width)
        increments = kappa * nondecreasing(increments[first])
        damage[curve.order[first]] = _in_order(_worth(increments, np.sort(gain)))
        return damage, kappa

    def _solve(self, name: str) -> _Solved:
        if name not in self.solved:
            self.solved[name] = _Solved.of(self.moments[name])
        return self.solved[name]

    def _forget(self, read: set[str], later: Sequence[set[str]]) -> None:
        for name in read.difference(*later):
            self.solved.pop(name, None)


def _regression(solved: _Solved, number: int, own: IntArray) -> Regression:
    columns = torch.from_numpy(own.reshape(-1)).to(solved.weight.device)
    inverse = solved.inverse[number].index_select(0, columns).index_select(1, columns)
    return Regression(inverse=inverse, weight=solved.weight[number].index_select(1, columns))


def _error(solved: _Solved, number: int, own: IntArray) -> FloatArray:
    """What each unit alone would cost without refitting: (units,)."""
    index = torch.from_numpy(own).to(solved.weight.device)
    blocks = solved.plain[number][index[:, :, None], index[:, None, :]]
    rows = solved.weight[number][:, index].permute(1, 0, 2)
    found: FloatArray = 0.5 * ((rows @ blocks) * rows).sum((1, 2)).cpu().numpy()
    return found


def _is_constant(solved: _Solved, number: int, own: IntArray) -> BoolArray:
    spread = solved.spread[number].cpu().numpy()
    found: BoolArray = (spread[own] <= _CONSTANT * max(spread.mean(), np.finfo(np.float64).tiny)).all(axis=1)
    return found


def _kappa(gain: FloatArray, plain: FloatArray) -> float:
    """Summed gain over summed error; 1 where either says nothing."""
    total, error = float(gain.sum()), float(plain.sum())
    return total / error if total > 0 and error > 0 else 1.0


def _worth(increments: FloatArray, gains: FloatArray) -> FloatArray:
    """What each removal of a group counts, from its increment and the gain of its rank, both in rising order.

    Source: ours; geometric mean, halves at the first removal. The share of the increment grows with what is gone, since
    the gain is a derivative at the whole network and says ever less.
    """
    gone = np.arange(len(increments)) / len(increments)
    share = 0.5 + 0.5 * gone
    worth: FloatArray = np.maximum.accumulate(increments**share * gains ** (1 - share))
    return worth


def _in_order(increments: FloatArray) -> FloatArray:
    """Tell equal increments apart, so that sorting by them gives the order of elimination."""
    return increments * (1 + 1e-9 * np.arange(len(increments)))


def _lower_half(values: FloatArray) -> float:
    return float(np.sort(values)[: max(1, len(values) // 2)].sum())
