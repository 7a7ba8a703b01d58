"""Weights that the upload stores in half precision and turns to float32 in front of their reader.

They are trained and cut in float32. The file gets them back as they were stored: in their own type, with the Cast.
"""

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.constants import STORED_AS
from workers.pruning.graph.save import size_bytes
from workers.pruning.graph.values import constant, fresh_name, initializer
from workers.pruning.graph.weights import clone, replace_weights
from workers.pruning.types import AnyArray


def rounded(graph: ir.Model, original: ir.Model) -> ir.Model:
    """Return a graph whose weights are numbers that their stored type can hold, still as float32."""
    return replace_weights(graph, {name: array.astype(np.float32) for name, array in _stored(graph, original).items()})


def store(graph: ir.Model, original: ir.Model) -> None:
    """Write these weights in their stored type, a Cast behind each, in place."""
    taken = {value.name or "" for node in graph.graph for value in node.outputs} | set(graph.graph.initializers)
    casts: list[ir.Node] = []
    for name, array in _stored(graph, original).items():
        value = graph.graph.initializers.pop(name)
        held = initializer(fresh_name(f"{name}_stored", taken), array)
        made = ir.Value(name=name, shape=value.shape, type=value.type)
        value.name = fresh_name(f"{name}_float", taken)
        value.replace_all_uses_with(made)
        graph.graph.register_initializer(held)
        to = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        casts.append(ir.node("Cast", [held], {"to": to}, name=f"{held.name}_cast", outputs=[made]))
    graph.graph.insert_before(graph.graph[0], casts)


def file_bytes(graph: ir.Model) -> int:
    """Length of the file of a graph: that of its bytes, with these weights as they are stored."""
    if not any(STORED_AS in value.metadata_props for value in graph.graph.initializers.values()):
        return size_bytes(graph)
    stated = clone(graph)
    store(stated, graph)
    return size_bytes(stated)


def stored_bytes(value: ir.Value) -> float:
    """Bytes that each number of a weight takes in the file."""
    kind = value.metadata_props.get(STORED_AS)
    if kind is not None and value.dtype == ir.DataType.FLOAT:
        return float(ir.DataType[kind].itemsize)
    tensor = value.const_value
    return 0.0 if tensor is None or not tensor.size else tensor.nbytes / tensor.size


def _stored(graph: ir.Model, original: ir.Model) -> dict[str, AnyArray]:
    """Weights in their stored type, by name; those that are no longer float32 or not finite there are left out."""
    found = {}
    for name, value in original.graph.initializers.items():
        kind = value.metadata_props.get(STORED_AS)
        array = constant(graph.graph.initializers.get(name))
        if kind is None or array is None or array.dtype != np.float32:
            continue
        with np.errstate(over="ignore"):  # asked right below
            narrow = array.astype(ir.DataType[kind].numpy())
        if np.isfinite(narrow.astype(np.float32)).all():
            found[name] = narrow
    return found
