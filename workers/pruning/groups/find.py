"""Which channels live and die together: the Grouping of a graph."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from workers.pruning.errors import NothingToPrune
from workers.pruning.graph.shapes import Shapes
from workers.pruning.graph.summation import SUMS, contracted_axis, summed_axes
from workers.pruning.groups import heads
from workers.pruning.groups.classes import Line, on_open_axis, owner, settle
from workers.pruning.groups.labels import FIXED
from workers.pruning.groups.propagate import propagate
from workers.pruning.groups.propagation import Propagation, Tag
from workers.pruning.types import FROZEN, Group, Grouping, InitializerAxis, IntArray, Role

_Keys = npt.NDArray[np.uint64]


def find(
    graph: ir.Model, *, include: Sequence[str] = (), exclude: Sequence[str] = (), shapes: Shapes | None = None
) -> Grouping:
    """Find the units of a graph and the groups of exchangeable units.

    Source: derivation. Every element of every tensor carries a label; operators make labels, tie or move them. Units of
    one group occur equally often on exactly the same axes of the same weights and activations, so that the cost of the
    network depends on how many of them are kept, not on which. Attention is followed twice, once for positions inside
    of the heads and once for whole heads; see `heads`.

    Args:
        graph: as `load` gives it.
        include: patterns over node names; where given, only units all of whose producers match may be removed.
        exclude: patterns over node names; units that such a node makes or scales stay.
        shapes: those of the graph at batch 1, for a caller that knows them already.

    Ensures: every unit is produced by a weight, and read by a weight or summed over, alone or in a product of two
    activations (a position of the head dimension of queries and keys); channels of graph inputs and outputs and of
    anything that is not understood are no units, and `frozen` names the nodes that are the reason.
    """
    state = propagate(graph, shapes=shapes)
    inside = _found(state, include, exclude)
    if not state.has_heads:
        return inside
    return heads.crossed(inside, _found(propagate(graph, heads_of=state), include, exclude))


def _found(state: Propagation, include: Sequence[str], exclude: Sequence[str]) -> Grouping:
    _exclude(state, exclude)
    roots = settle(state)
    lines = _Lines.of(state, roots)
    reasons = _reasons(lines, roots, include)
    if state.whole_heads:
        reasons[heads.none_of(state, roots)] = _WHY.index("its channels are tied to channels that stay")
    classes = np.where(reasons[roots] == 0, roots, FIXED)
    unit_of, starts = _numbered(classes, _signatures(lines, classes, len(roots)))
    _name_rest(state, unit_of[classes], reasons[roots])
    return _grouping(state, lines, unit_of[classes], starts)


def require_prunable(grouping: Grouping) -> None:
    """Refuse a graph without units.

    Raises:
        NothingToPrune: every channel stays; the message says which nodes are the reason.
    """
    if grouping.num_units == 0:
        reasons = "; ".join(f"{frozen.node} ({frozen.op_type}): {frozen.reason}" for frozen in grouping.frozen[:5])
        raise NothingToPrune(
            "No channel of this model may be removed",
            where=reasons,
            actual="0 removable channels",
            allowed="at least 2 channels between two weighted layers",
            advice="Only channels between two weighted layers can be removed; include and exclude may forbid it.",
        )


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where classes lie on weights, activations and sums over them; entries without any class left out."""

    tags: list[tuple[Tag, IntArray]]
    values: list[tuple[ir.Value, Line]]
    products: list[tuple[str, IntArray]]  # name of a product of two activations, classes that it sums over

    @classmethod
    def of(cls, state: Propagation, roots: IntArray) -> "_Lines":
        found: dict[int, Line | None] = {}
        for labels in [*state.labels.values(), *(tag.labels for tag in state.tags)]:
            if id(labels.compact) not in found:
                found[id(labels.compact)] = owner(labels, roots)
        tags = []
        for tag in state.tags:
            line = found[id(tag.labels.compact)]
            if line is not None and line.axis == tag.along:
                tags.append((tag, line.labels))
        values = [(value, found[id(labels.compact)]) for value, labels in state.labels.items()]
        lines = {value: line for value, line in values if line is not None}
        return cls(tags, list(lines.items()), _summed_over(state.graph, lines))


def _summed_over(graph: ir.Model, lines: Mapping[ir.Value, Line]) -> list[tuple[str, IntArray]]:
    found = []
    for node in graph.graph:
        source = node.inputs[0] if node.inputs else None
        if source is None or source not in lines:
            continue
        summed = summed_axes(node, len(source.shape or ())) if node.op_type in SUMS else [contracted_axis(node)]
        if lines[source].axis in summed:
            found.append((node.name or "", lines[source].labels))
    return found


def _exclude(state: Propagation, patterns: Sequence[str]) -> None:
    for tag in state.tags:
        if tag.role is not Role.CONSUME and _matches(tag.node, patterns):
            state.ties.freeze(tag.labels.compact)
            node = next(node for node in state.graph.graph if node.name == tag.node)
            state.name(node, "it is excluded by the request")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _reasons(lines: _Lines, roots: IntArray, include: Sequence[str]) -> IntArray:
    """Why each class may not be removed, as an index into `_WHY`; 0 where it may."""
    made, read, reason = (np.zeros(len(roots), np.int64) for _ in range(3))
    for tag, classes in lines.tags:
        if tag.role is Role.PRODUCE:
            made[classes] = 1
            if include and not _matches(tag.node, include):
                reason[classes] = _WHY.index("it is not included by the request")
        elif tag.role is Role.CONSUME:
            read[classes] = 1
    for _, classes in lines.products:
        read[classes] = 1
    for value, line in lines.values:
        if on_open_axis(value, line):
            reason[line.labels] = _WHY.index("its channels lie on an axis without a fixed length")
    reason[read == 0] = _WHY.index("no weight reads its channels")
    reason[made == 0] = _WHY.index("its channels are made by no weight")
    reason[FIXED] = _WHY.index("its channels are tied to channels that stay")
    return reason


_WHY: Final = (
    "",
    "its channels are tied to channels that stay",
    "its channels are made by no weight",
    "no weight reads its channels",
    "its channels lie on an axis without a fixed length",
    "it is not included by the request",
)


def _name_rest(state: Propagation, unit_of_label: IntArray, reason_of_label: IntArray) -> None:
    """Name every node none of whose channels may be removed, unless a rule has named it already."""
    nodes = {node.name: node for node in state.graph.graph}
    for tag in state.tags:
        labels = tag.labels.compact
        if tag.role is Role.PRODUCE and (unit_of_label[labels] == FROZEN).all():
            why = _WHY[int(reason_of_label[labels].max())]
            state.name(nodes[tag.node], why or "all of its channels are tied to each other")


def _signatures(lines: _Lines, classes: IntArray, count: int) -> _Keys:
    """Fingerprint where, and how often, each class occurs; equal for exchangeable classes.

    Two independent sums of random 64-bit keys: for a million classes the chance of a wrong match is below 1e-26.
    """
    keys = np.random.default_rng(0)
    signature = np.zeros((count, 2), np.uint64)
    seen: set[object] = set()
    places: list[tuple[object, IntArray]] = [((tag.initializer, tag.axis), line) for tag, line in lines.tags]
    places += [(id(line.labels), line.labels) for _, line in lines.values]
    for place, line in places:
        if place in seen:
            continue
        seen.add(place)
        present, occurrences = np.unique(classes[line], return_counts=True)
        key = keys.integers(1, 1 << 63, size=2, dtype=np.uint64) | np.uint64(1)
        signature[present] += occurrences.astype(np.uint64)[:, None] * key
    return signature


def _numbered(classes: IntArray, signatures: _Keys) -> tuple[IntArray, list[int]]:
    """Number the classes so that groups are runs, in the order in which they are made; also tell where runs start."""
    alive = np.unique(classes)
    alive = alive[alive != FIXED]
    runs: dict[bytes, list[int]] = defaultdict(list)
    for each in alive.tolist():
        runs[signatures[each].tobytes()].append(each)
    unit_of = np.full(len(signatures), FROZEN, np.int64)
    starts, unit = [], 0
    for members in runs.values():
        if len(members) > 1:
            unit_of[members] = np.arange(unit, unit + len(members))
            starts.append(unit)
            unit += len(members)
    return unit_of, [*starts, unit]


def _grouping(state: Propagation, lines: _Lines, unit_of: IntArray, starts: Sequence[int]) -> Grouping:
    axes: dict[tuple[str, int, Role], InitializerAxis] = {}
    touched: dict[Role, dict[str, IntArray]] = {role: {} for role in Role}
    for tag, line in lines.tags:
        units = unit_of[line]
        if (units == FROZEN).all():
            continue
        touched[tag.role][f"{tag.node}\n{tag.initializer}"] = units
        axes.setdefault(
            (tag.initializer, tag.axis, tag.role),
            InitializerAxis(initializer=tag.initializer, axis=tag.axis, node=tag.node, role=tag.role, units=units),
        )
    for node, line in lines.products:
        if (unit_of[line] != FROZEN).any():
            touched[Role.CONSUME][f"{node}\n"] = unit_of[line]
    values: dict[str, Mapping[int, IntArray]] = {}
    for value, value_line in lines.values:
        units = unit_of[value_line.labels]
        if (units != FROZEN).any():
            values[value.name or ""] = {value_line.axis: units}
    return Grouping(
        num_units=starts[-1],
        groups=_groups(starts, touched),
        initializer_axes=tuple(axes.values()),
        value_axes=values,
        frozen=tuple(state.frozen.values()),
    )


def _groups(starts: Sequence[int], touched: Mapping[Role, Mapping[str, IntArray]]) -> tuple[Group, ...]:
    producers = _nodes_by_group(starts, touched[Role.PRODUCE])
    consumers = _nodes_by_group(starts, touched[Role.CONSUME])
    return tuple(
        Group(id=f"g{index}", start=start, stop=stop, producers=producers[index], consumers=consumers[index])
        for index, (start, stop) in enumerate(pairwise(starts))
    )


def _nodes_by_group(starts: Sequence[int], touched: Mapping[str, IntArray]) -> list[tuple[str, ...]]:
    found: list[dict[str, None]] = [{} for _ in starts[1:]]
    for key, units in touched.items():
        present = units[units != FROZEN]
        for index in np.unique(np.searchsorted(starts, present, side="right") - 1).tolist():
            found[index].setdefault(key.split("\n", 1)[0])
    return [tuple(names) for names in found]
