"""What is done about nodes that no gradient passes: the part to work on, what the rest costs, and words about it.

Also what is said of operators outside of the standard.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import onnx_ir as ir

from workers.pruning.errors import InvalidGraph, PruningError
from workers.pruning.graph import cost
from workers.pruning.graph.domains import STANDARD_DOMAINS
from workers.pruning.graph.execute import foreign_nodes
from workers.pruning.graph.head import inner_outputs
from workers.pruning.graph.load import rewritten
from workers.pruning.graph.observed import observed
from workers.pruning.graph.open_batch import fixed_batch, open_batch
from workers.pruning.graph.second_stage import fed_rows
from workers.pruning.graph.sizes import sized_by_data
from workers.pruning.graph.trunk import Trunk, trunk
from workers.pruning.graph.values import operator
from workers.pruning.graph.weights import is_parameter
from workers.pruning.types import NOTHING, Cost, CostModel, Frozen, Term

_OF_ANY_LENGTH: Final = "it lies behind a node that gives as much as the data make it, so its work is not known"
_OF_NO_SAMPLE: Final = (
    "it lies behind a node that no gradient passes, and no sample has a part of its own in what it gives"
)
_RELAYOUT: Final = "com.microsoft.nchwc"
_RELAYOUT_ADVICE: Final = (
    f" Layers of {_RELAYOUT} hold their weights in the layout of one processor: send the network from before that "
    "optimisation, or optimised by ONNX Runtime up to ORT_ENABLE_EXTENDED, and they are pruned."
)
_NAMED: Final = 3  # nodes of one operator that are listed by name


def trunk_of(graph: ir.Model) -> Trunk:
    """Give the part of a network that can be scored and trained; the network itself where no gradient stops.

    Shapes that only running the network tells are noted in the part. Where a network for one image works for no other
    batch, and gives rows that may be picked from that image, layers behind take part row by row, or are left out.
    """
    foreign = foreign_nodes(graph)
    noted = observed(graph, foreign)
    part = trunk(noted, foreign)
    if fixed_batch(graph) == 1 and any(_has_rows(value) for value in graph.graph.outputs) and not _opens(part.graph):
        tried = (trunk(noted, foreign, picked=True, fed=fed) for fed in (True, False))
        part = next((each for each in tried if _opens(each.graph)), part)
    return part if noted is graph else replace(part, whole=graph)


def _has_rows(value: ir.Value) -> bool:
    return bool(value.shape) and value.shape is not None and value.shape[0] != 1


def _opens(graph: ir.Model) -> bool:
    try:
        open_batch(graph)
    except InvalidGraph:
        return False
    return True


def tail_cost(part: Trunk) -> Cost:
    """Give what the nodes cost that are not in the part, as far as it is known: lengths may hang on the data."""
    if not part.tail:
        return NOTHING
    batch = fixed_batch(part.whole) or 1
    try:
        whole, kept = cost.count(part.whole), cost.count(part.graph)
    except PruningError:
        return NOTHING
    return Cost(
        macs=max(0, whole.macs - kept.macs) // batch,
        params=max(0, whole.params - kept.params),
        size_bytes=max(0, whole.size_bytes - kept.size_bytes),
        peak_activation_bytes=0,
    )


def with_tail(model: CostModel, tail: Cost) -> CostModel:
    """Give the cost model of a part with what the rest costs, whatever is cut."""

    def and_rest(terms: Sequence[Term], rest: int) -> tuple[Term, ...]:
        return (*terms, Term(coefficient=float(rest), lengths=())) if rest else tuple(terms)

    return replace(
        model,
        macs=and_rest(model.macs, tail.macs),
        params=and_rest(model.params, tail.params),
        size_bytes=and_rest(model.size_bytes, tail.size_bytes),
    )


def tail_frozen(part: Trunk) -> tuple[Frozen, ...]:
    """Name the layers with weights that are not in the part, and why they stay."""
    tail, sized = set(part.tail), sized_by_data(part.whole)
    layers = [node for node in part.whole.graph if node.name in tail and _has_weights(node)]
    reasons = [_OF_ANY_LENGTH if sized.intersection(node.outputs) else _OF_NO_SAMPLE for node in layers]
    return tuple(
        Frozen(node=node.name or "", op_type=node.op_type, reason=reason)
        for node, reason in zip(layers, reasons, strict=True)
    )


def _has_weights(node: ir.Node) -> bool:
    return any(value is not None and value.is_initializer() and is_parameter(value) for value in node.inputs)


def origin_notes(graph: ir.Model) -> tuple[str, ...]:
    """Say what became of operators that only ONNX Runtime knows: rewritten, or left and not counted."""
    said = []
    if taken_apart := rewritten(graph):
        listed = ", ".join(f"{number} {name}" for name, number in taken_apart.items())
        said.append(
            f"Operators of ONNX Runtime were rewritten in those of the ONNX standard, which give the same: {listed}. "
            "The pruned network has the standard ones; ONNX Runtime puts them together again when it loads it."
        )
    left = Counter(operator(node) for node in graph.graph if node.domain not in STANDARD_DOMAINS)
    if left:
        listed = ", ".join(f"{number} {name}" for name, number in sorted(left.items()))
        advice = _RELAYOUT_ADVICE if any(name.startswith(_RELAYOUT) for name in left) else ""
        said.append(
            f"Only ONNX Runtime knows some operators: {listed}. They stay as they are, and what they multiply is not "
            f"counted in the figures.{advice}"
        )
    return tuple(said)


def stop_notes(part: Trunk) -> tuple[str, ...]:
    """Say which nodes stop gradients, and what follows from that."""
    tail = set(part.tail)
    inside = [stop for stop in part.stops if stop[0] not in tail]
    behind = [stop for stop in part.stops if stop[0] in tail]
    said = []
    if inside:
        said.append(f"No gradient passes {_listed(inside)}: {_consequence(part)}")
    if behind:
        said.append(f"{_of_rest(part, behind)}{_in_front(part)}")
    return tuple(said)


def _of_rest(part: Trunk, behind: Sequence[tuple[str, str]]) -> str:
    rows = fed_rows(part.graph)
    if not rows:
        return (
            f"Nothing is learned behind {_listed(behind)}: these and the {len(part.tail)} nodes that only lead to what "
            "they give stay as they are."
        )
    entering = ", ".join(f"{name} ({count} rows an image)" for name, count in rows.items())
    return (
        f"Layers behind {_listed(behind)} work on rows picked from an image: {entering}. They are scored, fine-tuned "
        f"and judged on rows that the original picks, one for each image; {len(part.tail)} nodes between the stages "
        "and behind the second stay as they are."
    )


def _in_front(part: Trunk) -> str:
    read = sorted(inner_outputs(part.graph))
    if not read:
        return ""
    return f" The network in front of them is scored, fine-tuned and judged by what it gives them: {', '.join(read)}."


def _consequence(part: Trunk) -> str:
    read = sorted(inner_outputs(part.graph))
    if not read:
        return "layers in front, if any, are scored and fine-tuned by what passes beside."
    return f"layers in front are scored by, and fine-tuned towards, what the original gives there: {', '.join(read)}."


def _listed(stops: Sequence[tuple[str, str]]) -> str:
    by_operator: dict[str, list[str]] = {}
    for name, kind in stops:
        by_operator.setdefault(kind, []).append(name)
    return ", ".join(_of_one_operator(kind, names) for kind, names in by_operator.items())


def _of_one_operator(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    listed = ", ".join(repr(name) for name in names[:_NAMED])
    return f"{kind} {listed}{more}"
