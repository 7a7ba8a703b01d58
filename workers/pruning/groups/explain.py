"""Groups in words: why these layers shrink together, and what they are worth."""

import numpy as np
import onnx_ir as ir

from workers.pruning.types import FROZEN, CostModel, Group, Grouping, Json, Role, Term

_MAX_LAYERS = 32


def explain(graph: ir.Model, grouping: Grouping, model: CostModel) -> list[dict[str, Json]]:
    """Describe every group in plain JSON: id, channels, layers, share of MACs, reason in words.

    `share_of_macs` is the share of all MACs that would go if the group were gone entirely; shares of neighbours
    overlap, since a MAC between two groups goes with either.
    """
    order = {node.name or "": number for number, node in enumerate(graph.graph)}
    layers = _layers(grouping)
    full, gone = _savings(model)
    return [
        {
            "id": group.id,
            "channels": group.width,
            "layers": list(sorted(layers[index], key=lambda name: order.get(name, -1))[:_MAX_LAYERS]),
            "share_of_macs": gone[index] / full if full else 0.0,
            "reason": _reason(group, len(layers[index])),
        }
        for index, group in enumerate(grouping.groups)
    ]


def _layers(grouping: Grouping) -> list[set[str]]:
    found: list[set[str]] = [set(group.producers) | set(group.consumers) for group in grouping.groups]
    starts = np.asarray([group.start for group in grouping.groups])
    for entry in grouping.initializer_axes:
        if entry.role is Role.THROUGH:
            present = entry.units[entry.units != FROZEN]
            for index in np.unique(np.searchsorted(starts, present, side="right") - 1).tolist():
                found[index].add(entry.node)
    return found


def _savings(model: CostModel) -> tuple[float, list[float]]:
    """All MACs, and for every group those that go with all of it."""
    full, gone = 0.0, [0.0] * len(model.widths)
    for term in model.macs:
        whole = _product(term, model, -1)
        full += whole
        for group in {group for length in term.lengths for group, _ in length.parts}:
            gone[group] += whole - _product(term, model, group)
    return full, gone


def _product(term: Term, model: CostModel, without: int) -> float:
    value = term.coefficient
    for length in term.lengths:
        value *= length.fixed + sum(n * model.widths[group] for group, n in length.parts if group != without)
    return value


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
