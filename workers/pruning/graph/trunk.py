"""Where gradients stop: the part of a network that is scored and trained, and how it is put back into the whole.

No gradient passes a node that ONNX Runtime runs, an index or a rounding. What such a node reads becomes an output of
its own here, an *inner* output: layers in front of it are scored by what reaches it and learn to give it what the
original gives it. Nodes that only lead to outputs which cannot be compared sample by sample (boxes that are left after
a suppression) are the *tail*: it is taken off, and put back behind the pruned trunk.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from workers.pruning.graph.head import CARRIED, DECLARED, INNER, added_outputs
from workers.pruning.graph.second_stage import (
    SecondStage,
    depends,
    fed_rows,
    feed,
    row_count,
    second_stage,
    settle,
    unfeed,
)
from workers.pruning.graph.shapes import OBSERVED, ROWS, forget_shapes, infer_shapes
from workers.pruning.graph.simplify import remove_dead
from workers.pruning.graph.sizes import sized_by_data
from workers.pruning.graph.values import (
    all_values,
    fresh_name,
    is_float,
    operator,
    reads,
    set_outputs,
)
from workers.pruning.graph.weights import clone, is_parameter

_STEPPED: Final = frozenset({"Ceil", "Floor", "Round", "Sign"})  # their derivative is zero
_ABOUT_SHAPES: Final = frozenset({"Shape", "Size"})  # what they read says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """The part of a network that is scored and trained; `whole` is the network, `graph` the part."""

    whole: ir.Model
    graph: ir.Model
    stops: tuple[tuple[str, str], ...] = ()  # nodes that no gradient passes, with their operators
    tail: tuple[str, ...] = ()  # nodes of the whole that are not in the part

    @property
    def is_whole(self) -> bool:
        """Whether nothing stops a gradient, so that the part is the network itself."""
        return self.graph is self.whole


def trunk(graph: ir.Model, foreign: frozenset[str], *, picked: bool = False, fed: bool = False) -> Trunk:
    """Split a network where gradients stop; `foreign` names the nodes that torch has no function for.

    With `picked`, what has rows that are picked from one image belongs to no sample: any first length but one. With
    `fed`, layers that work on such rows are part of the trunk, which then has an input for them (`second_stage`).

    Outputs of the part are those of the network that hang on its weights through gradients, then the inner ones, then
    the others that the tail reads. Where nothing is stopped, the part is the network itself.
    """
    found = _Search(graph, foreign, picked=picked, fed=fed)
    if not found.inner and (not found.dropped or not found.kept):
        return Trunk(whole=graph, graph=graph, stops=found.stops)
    near = found.near()
    stage = None if found.stage is None or any(value.producer() in near for value in found.stage.fed) else found.stage
    if stage is not None:
        near |= stage.nodes
    later = () if stage is None else stage.outputs
    tail = tuple(node.name or "" for node in graph.graph if node not in near)
    crossing = [value for value in found.crossing(near) if value not in later]
    part = clone(graph)
    inner = [*found.inner, *(value for value in later if not value.is_graph_output())]
    names = [value.name or "" for value in (*inner, *crossing)]
    own = [value.name for value in graph.graph.outputs if value in found.kept or value in later]
    if stage is not None:
        feed(part, {value.name or "": stage.rows for value in stage.fed})
    set_outputs(part, (*own, *names))
    _free_merged_batch(part, names)
    part.metadata_props[INNER] = "\n".join(names[: len(inner)])
    part.metadata_props[CARRIED] = "\n".join(names[len(inner) :])
    if found.dropped:  # one output that is left is not what the network is for
        part.metadata_props.setdefault(DECLARED, "other")
    remove_dead(part)
    if stage is not None:
        settle(part, {value.name for value in later})
    return Trunk(whole=graph, graph=part, stops=found.stops, tail=tail)


def _free_merged_batch(part: ir.Model, names: Sequence[str]) -> None:
    """Forget the first length of added outputs where it is not the batch: it may be a multiple of that."""
    batches = _batches(part.graph)
    for value in part.graph.outputs:
        if value.name in names and value.shape and isinstance(value.shape[0], int) and value.shape[0] not in batches:
            value.shape = ir.Shape([None, *list(value.shape)[1:]])


def _batches(graph: ir.Graph) -> set[int | ir.SymbolicDim]:
    """First lengths of the inputs."""
    return {value.shape[0] for value in graph.inputs if value.shape}


def cut_off(graph: ir.Model, like: ir.Model) -> ir.Model:
    """Return the trunk of a network that has the values of `like`, another trunk, under the same names."""
    part = clone(graph)
    if rows := fed_rows(like):
        feed(part, rows)
    set_outputs(part, (value.name for value in like.graph.outputs))
    part.metadata_props.update(
        {key: like.metadata_props[key] for key in (INNER, CARRIED) if key in like.metadata_props}
    )
    remove_dead(part)
    if rows:
        ends = zip(part.graph.outputs, like.graph.outputs, strict=True)
        settle(part, {value.name for value, wanted in ends if value.shape != wanted.shape})
    return part


def restored(part: ir.Model, of: Trunk) -> ir.Model:
    """Return the whole network with its trunk replaced by `part`, a cut of it."""
    if of.is_whole:
        return part
    made, whole = clone(part), clone(of.whole)
    added, wanted = added_outputs(part), [value.name for value in whole.graph.outputs]
    if of.tail:
        _attach(made, whole, frozenset(of.tail))
        _reorder(made, [node.name for node in of.whole.graph])
    left = [value.name for value in made.graph.outputs if value.name not in added]
    set_outputs(made, wanted if added.intersection(wanted) or of.tail else left)
    if fed_rows(made):
        _count_rows(made, of.whole)
    for key in (INNER, CARRIED, OBSERVED, ROWS):
        made.metadata_props.pop(key, None)
    return made


def _attach(made: ir.Model, whole: ir.Model, tail: Container[str | None]) -> None:
    """Move the tail of the one network behind the other, which has what it reads under the same names."""
    behind = [node for node in whole.graph if node.name in tail]
    whole.graph.outputs[:] = []
    fed = fed_rows(made)
    here = {value.name: value for value in (*made.graph.inputs, *made.graph.outputs) if value.name not in fed}
    for value in list(all_values(whole)):
        if value.name in here and value.const_value is None:
            value.replace_all_uses_with(here[value.name])
    whole.graph.remove([node for node in whole.graph if node.name not in tail], safe=True)
    _bring_weights(made, whole, behind)
    whole.graph.remove(behind)
    made.graph.extend(behind)
    unfeed(made, fed)


def _count_rows(made: ir.Model, whole: ir.Model) -> None:
    """Let all shapes be those of one image again, with all of its rows."""
    del made.metadata_props[ROWS]
    for value, wanted in zip(made.graph.outputs, whole.graph.outputs, strict=True):
        value.shape = wanted.shape
    forget_shapes(made)
    infer_shapes(made)


def _reorder(graph: ir.Model, names: Sequence[str | None]) -> None:
    """Put nodes where they were, with what is new in front of what stood behind it."""
    place = {name: number for number, name in enumerate(names)}
    nodes, last = list(graph.graph), len(place)
    keys = []
    for node in reversed(nodes):
        last = place.get(node.name, last)
        keys.append(last)
    ordered = [node for _, node in sorted(zip(reversed(keys), nodes, strict=True), key=lambda pair: pair[0])]
    graph.graph.remove(nodes)
    graph.graph.extend(ordered)


def _bring_weights(made: ir.Model, whole: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Move what the nodes hold to their new graph, under a name of its own where that is taken."""
    taken = {value.name or "" for value in all_values(made)}
    held = (value for node in nodes for value in reads(node) if value is not None and value.is_initializer())
    for value in dict.fromkeys(held):
        whole.graph.initializers.pop(value.name or "")
        value.name = fresh_name(value.name or "", taken)
        made.graph.register_initializer(value)


def _not_one_each(graph: ir.Graph) -> set[ir.Value]:
    """Values whose first axis has a known length other than one."""
    return {value for node in graph for value in node.outputs if row_count(value) is not None}


def _leaves(value: ir.Value) -> bool:
    """Whether a value is an output, or nodes read it that do not give as many rows."""
    given = [[row_count(out) for out in use.node.outputs] for use in value.uses()]
    return value.is_graph_output() or any(row_count(value) not in counts for counts in given)


class _Search:
    """What is known of the values of a graph: what hangs on weights, what the outputs feel, what lies behind stops."""

    def __init__(self, graph: ir.Model, foreign: frozenset[str], *, picked: bool, fed: bool) -> None:
        self._graph, self._foreign = graph.graph, foreign
        self._batches = _batches(self._graph)
        self._alive: set[ir.Value] = set()
        self._sized = sized_by_data(graph)
        self._behind: set[ir.Value] = set()  # a stop that torch does not run, or values of such lengths
        for node in self._graph:
            self._follow(node)
        self.stage = self._second_stage() if fed else None
        self._loose = set(self._sized)  # what no sample owns
        if picked:
            self._loose |= _not_one_each(self._graph)
        if self.stage is not None:
            self._loose |= depends(self._graph, self.stage.fed)
        outputs = list(self._graph.outputs)
        stopped = self._behind - self._alive
        self.dropped = [value for value in outputs if value in self._loose or value in stopped]
        self.kept = [value for value in outputs if value not in self.dropped]
        felt = self._felt()
        self._unfelt = self._alive - felt - self._loose
        self.inner = self._ends(felt)
        self.stops = tuple((node.name or "", operator(node)) for node in self._graph if self._stops(node))

    def _second_stage(self) -> SecondStage | None:
        """The layers that work on what no sample owns, where they can be looked at row by row."""
        values = (value for node in self._graph for value in node.outputs)
        rows = [value for value in values if value in self._alive and value not in self._sized and _leaves(value)]
        ends = set(rows)
        told = [value for value in rows if value.is_graph_output() or not self._follows_from(value, ends)]
        return second_stage(told, self._alive)

    def near(self) -> set[ir.Node]:
        """The nodes that what is kept is computed from."""
        wanted = [value.producer() for value in (*self.kept, *self.inner)]
        near: set[ir.Node] = set()
        while wanted:
            node = wanted.pop()
            if node is not None and node not in near:
                near.add(node)
                wanted += [value.producer() for value in reads(node) if value is not None]
        return near

    def crossing(self, near: Container[ir.Node]) -> list[ir.Value]:
        """What the rest reads of these nodes, or is an output that is not kept, but for the inner outputs."""
        read = {value for node in self._graph if node not in near for value in reads(node)} | set(self.dropped)
        made = (value for node in self._graph if node in near for value in node.outputs)
        return [value for value in made if value in read and value not in self.kept and value not in self.inner]

    def _follow(self, node: ir.Node) -> None:
        values = [value for value in reads(node) if value is not None]
        passes = node.name not in self._foreign and node.op_type not in _STEPPED
        alive = passes and any(value in self._alive or is_parameter(value) for value in values if is_float(value))
        behind = node.name in self._foreign or any(value in self._behind for value in values)
        for value in node.outputs:
            if alive and is_float(value):
                self._alive.add(value)
            if behind or value in self._sized:
                self._behind.add(value)

    def _felt(self) -> set[ir.Value]:
        """The values from which a gradient reaches what is kept."""
        felt = {value for value in self.kept if value in self._alive}
        for node in reversed(list(self._graph)):
            if any(value in felt for value in node.outputs):
                felt |= {value for value in reads(node) if value in self._alive}
        return felt

    def _ends(self, felt: set[ir.Value]) -> list[ir.Value]:
        """What hangs on weights, is not felt by what is kept, and is read where gradients end; each said once."""
        made = [value for node in self._graph for value in node.outputs if value in self._unfelt]
        ends = {self._with_batch(value) for value in made if any(self._is_far(use.node) for use in value.uses())} - felt
        return [value for value in made if value in ends and not self._follows_from(value, ends)]

    def _with_batch(self, value: ir.Value) -> ir.Value:
        """The value itself, or where a step without weights took its batch axis away, what that step reads."""
        while not self._has_batch(value) and (source := self._only_source(value)) is not None:
            value = source
        return value

    def _has_batch(self, value: ir.Value) -> bool:
        return value.shape is not None and len(value.shape) > 0 and value.shape[0] in self._batches

    def _only_source(self, value: ir.Value) -> ir.Value | None:
        sources = self._sources(value)
        return sources[0] if len(sources) == 1 and sources[0] in self._alive else None

    def _sources(self, value: ir.Value) -> list[ir.Value]:
        """What a value is computed from that hangs on weights or is one."""
        node = value.producer()
        read = () if node is None else reads(node)
        return [source for source in read if source is not None and (source in self._alive or is_parameter(source))]

    def _follows_from(self, value: ir.Value, ends: Container[ir.Value]) -> bool:
        """Whether others of the ends say all of a value: no weight comes in between."""
        waiting = self._sources(value)
        while waiting:
            source = waiting.pop()
            if source not in ends:
                if source not in self._alive:
                    return False
                waiting += self._sources(source)
        return True

    def _is_far(self, node: ir.Node) -> bool:
        """Whether a gradient ends at a node: it stops it, is inside of one that does, or gives what no sample owns."""
        if node.op_type in _ABOUT_SHAPES:
            return False
        return node.graph is not self._graph or not any(v in self._alive and v not in self._loose for v in node.outputs)

    def _stops(self, node: ir.Node) -> bool:
        ends = any(value in self._unfelt for value in reads(node)) and self._is_far(node)
        return (node.name or "") in self._foreign or ends
