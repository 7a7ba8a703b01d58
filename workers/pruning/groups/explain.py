"""Groups in words: why these layers shrink together, and what they are worth."""

import onnx_ir as ir

from workers.pruning.types import CostModel, Group, Grouping, Json, Length, Role, Term

_MAX_LAYERS = 32


def explain(graph: ir.Model, grouping: Grouping, model: CostModel) -> list[dict[str, Json]]:
    """Describe every group in plain JSON: id, channels, layers, share of MACs, reason in words.

    `share_of_macs` is the share of all MACs that would go if the group were gone entirely; shares of neighbours
    overlap, since a MAC between two groups goes with either.
    """
    order = {node.name or "": number for number, node in enumerate(graph.graph)}
    layers = _layers(grouping)
    full = _sum(model.macs, model, -1)
    return [
        {
            "id": group.id,
            "channels": group.width,
            "layers": list(sorted(layers[index], key=lambda name: order.get(name, -1))[:_MAX_LAYERS]),
            "share_of_macs": (full - _sum(model.macs, model, index)) / full if full else 0.0,
            "reason": _reason(group, len(layers[index])),
        }
        for index, group in enumerate(grouping.groups)
    ]


def _layers(grouping: Grouping) -> list[set[str]]:
    found: list[set[str]] = [set(group.producers) | set(group.consumers) for group in grouping.groups]
    for entry in grouping.initializer_axes:
        if entry.role is Role.THROUGH:
            present = set(entry.units.tolist())
            for index, group in enumerate(grouping.groups):
                if group.start in present:
                    found[index].add(entry.node)
    return found


def _sum(terms: tuple[Term, ...], model: CostModel, without: int) -> float:
    total = 0.0
    for term in terms:
        value = term.coefficient
        for length in term.lengths:
            value *= _length(length, model, without)
        total += value
    return total


def _length(length: Length, model: CostModel, without: int) -> int:
    return length.fixed + sum(n * model.widths[group] for group, n in length.parts if group != without)


def _reason(group: Group, num_layers: int) -> str:
    made, read = _named(group.producers), _named(group.consumers)
    units = f"{group.width} {'whole attention heads' if group.whole_heads else 'channels'}"
    if len(group.producers) == 1:
        text = f"{made} makes these {units}, read by {read}"
    else:
        text = f"{len(group.producers)} layers ({made}) write to the same {units}, read by {read}"
    between = num_layers - len(set(group.producers) | set(group.consumers))
    if between and not group.whole_heads:
        text += f"; {between} {'layer' if between == 1 else 'layers'} between them scale channels one by one"
    return f"{text}."


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
