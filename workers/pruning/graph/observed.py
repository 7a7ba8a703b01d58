"""Shapes that onnx cannot infer, seen on made-up inputs: what a loop or a branch gives is known when it has run."""

import json
from collections.abc import Container, Sequence

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import PruningError
from workers.pruning.graph.load import input_specs
from workers.pruning.graph.open_batch import fixed_batch
from workers.pruning.graph.runtime import Session, random_inputs
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.shapes import BATCH, OBSERVED, infer_shapes
from workers.pruning.graph.sizes import sized_by_data
from workers.pruning.graph.values import has_open_length, input_symbols, set_outputs
from workers.pruning.graph.weights import clone
from workers.pruning.types import AnyArray

_BATCHES = (2, 3)


def observed(graph: ir.Model, names: frozenset[str]) -> ir.Model:
    """Return the graph with the shapes noted that the named nodes give, and all that follows from them inferred.

    Only where onnx does not know them, and where they do not hang on the data (`sizes`). Lengths that are the same for
    two batches are taken to be fixed, those that are the batch to follow it. Comes back as it is where nothing is
    missing, or where it cannot be run on made-up inputs.
    """
    symbols = input_symbols(graph.graph)
    sized = sized_by_data(graph)
    given = (value for node in graph.graph if node.name in names for value in node.outputs)
    missing = [value for value in given if _is_unknown(value, symbols) and value not in sized]
    if not missing:
        return graph
    batch = fixed_batch(graph)
    batches = _BATCHES if batch is None else (batch,)
    try:
        runs = _run(graph, [value.name or "" for value in missing], batches)
    except PruningError:
        return graph
    seen = {value.name or "": arrays for value, *arrays in zip(missing, *runs, strict=True)}
    shapes = {name: _lengths(arrays, batches) for name, arrays in seen.items() if len({a.ndim for a in arrays}) == 1}
    noted = clone(graph)
    noted.metadata_props[OBSERVED] = json.dumps(shapes, sort_keys=True)
    infer_shapes(noted)
    return noted


def _is_unknown(value: ir.Value, symbols: Container[str]) -> bool:
    if not value.name or (value.type is not None and not isinstance(value.type, ir.TensorType)):
        return False
    return has_open_length(value, symbols)


def _run(graph: ir.Model, names: Sequence[str], batches: Sequence[int]) -> list[tuple[AnyArray, ...]]:
    looked_at = clone(graph)
    set_outputs(looked_at, names)
    session = Session(to_bytes(looked_at), optimised=False)
    return [session.run(random_inputs(input_specs(graph), seed=0, batch=batch)) for batch in batches]


def _lengths(seen: Sequence[AnyArray], batches: Sequence[int]) -> list[int | str | None]:
    """The length of each axis: a number, the batch, or not known."""
    columns = np.array([array.shape for array in seen]).reshape(len(seen), -1).T.tolist()
    found: list[int | str | None] = []
    for axis, column in enumerate(columns):
        follows = column == list(batches) and (len(batches) > 1 or axis == 0)
        found.append(BATCH if follows else column[0] if len(set(column)) == 1 else None)
    return found
