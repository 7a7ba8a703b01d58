"""The same tensor, moved the same way several times and joined: torch.stack of one tensor with itself."""

from typing import Final

import onnx_ir as ir

from workers.pruning.graph.values import attributes, constant

_MOVES: Final = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def join_copies(graph: ir.Model) -> None:
    """Let a Concat that joins equal copies of a tensor read one of them as often; in place.

    Exporters write `torch.stack([k, k])` as two Unsqueeze nodes and a Concat. Copies of one head of keys that serves
    several heads of queries are known as such only where they are one value.

    Ensures: the same function; the nodes that nobody reads any longer are dead.
    """
    for node in graph.graph:
        first = node.inputs[0] if node.op_type == "Concat" and not node.domain and len(node.inputs) > 1 else None
        if first is None:
            continue
        described = _described(first)
        for index, value in enumerate(node.inputs):
            if value is not first and value is not None and described is not None and _described(value) == described:
                node.replace_input_with(index, first)


def _described(value: ir.Value) -> object | None:
    """What is moved, and how; None for anything but the movement of a computed tensor by constants."""
    node = value.producer()
    if node is None or node.op_type not in _MOVES or node.domain or not node.inputs:
        return None
    settings = [constant(setting) for setting in node.inputs[1:]]
    if any(setting is None for setting in settings):
        return None
    listed = tuple(tuple(setting.reshape(-1).tolist()) for setting in settings if setting is not None)
    return node.op_type, node.inputs[0], str(sorted(attributes(node).items())), listed
