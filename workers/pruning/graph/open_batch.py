"""Let a network that was exported for one batch size take any while it is scored and trained; undo it for the file."""

from typing import Final

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.runtime import random_inputs
from workers.pruning.graph.shapes import forget_shapes, infer_shapes
from workers.pruning.graph.twin import fed_specs
from workers.pruning.graph.twin import session as open_session
from workers.pruning.graph.values import constant
from workers.pruning.graph.weights import clone, set_initializer
from workers.pruning.types import IntArray

AXIS: Final = "batch"
_FIXED: Final = "The network works for one batch size only, so it can be neither scored nor trained"
_UNTOLD: Final = "On drawn inputs the network gives no finite numbers, so whether it takes any batch size is not known"
_TOLERANCE: Final = 1e-4


def fixed_batch(graph: ir.Model) -> int | None:
    """Give the length of the first axis where all inputs have the same fixed one, else None."""
    lengths = {_first(value) for value in graph.graph.inputs}
    return lengths.pop() if len(lengths) == 1 else None


def open_batch(graph: ir.Model) -> ir.Model:
    """Return the graph with an open first axis; one whose batch is open already comes back as it is.

    Where a constant shape of a Reshape begins with the fixed batch, it now says 0, which in ONNX means "as the input
    has it". At the old batch size the network computes what it did.

    Raises:
        InvalidGraph: samples of a larger batch do not get the answers that they get in a batch of the old size, or an
            output is NaN or infinite throughout on drawn inputs, so that this cannot be told.
    """
    batch = fixed_batch(graph)
    if batch is None:
        return graph
    opened = clone(graph)
    for node in opened.graph:
        if node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0):
            follow_input(node, batch)
    beyond = [
        value for node in opened.graph if node.domain for value in node.outputs
    ]  # onnx would not infer these anew
    ends = [*opened.graph.inputs, *opened.graph.outputs, *beyond]
    for value in ends:
        if _first(value) == batch:
            _set_first(value, AXIS)
    forget_shapes(opened)
    infer_shapes(opened)
    if all(isinstance(length, int) for spec in fed_specs(opened) for length in spec.shape[1:]):
        _require_independent(opened, batch)
    return opened


def close_batch(graph: ir.Model, original: ir.Model) -> ir.Model:
    """Return the graph with the first axes of inputs and outputs that the original has."""
    closed = clone(graph)
    pairs = [*zip(closed.graph.inputs, original.graph.inputs, strict=True)]
    pairs += zip(closed.graph.outputs, original.graph.outputs, strict=True)
    for value, wanted in pairs:
        first = _first(wanted)
        if first is not None and value.shape is not None and not isinstance(value.shape[0], int):
            _set_first(value, first)
    return closed


def _require_independent(opened: ir.Model, batch: int) -> None:
    """Compare a batch of twice the old size with its two halves."""
    where = f"first axis of {', '.join(repr(value.name) for value in opened.graph.inputs)}"
    advice = "Export the network with a dynamic batch axis."
    inputs = random_inputs(fed_specs(opened), seed=0, batch=2 * batch)
    halves = [[array[part] for array in inputs] for part in (slice(0, batch), slice(batch, None))]
    try:
        session = open_session(opened, optimised=False)
        whole, parts = session.run(inputs), [session.run(half) for half in halves]
    except InvalidGraph as error:
        raise InvalidGraph(_FIXED, where=where, actual=batch, allowed="dynamic", advice=advice) from error
    for output, together, *apart in zip(opened.graph.outputs, whole, *parts, strict=True):
        joined = np.concatenate(apart)
        finite = np.isfinite(joined)
        if joined.size and not finite.any():
            raise InvalidGraph(
                _UNTOLD, where=f"output {output.name!r}", actual="NaN or infinity", allowed="finite", advice=advice
            )
        scale = float(np.abs(joined[finite]).max(initial=0.0))
        if together.shape != joined.shape or not np.allclose(
            together, joined, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True
        ):
            raise InvalidGraph(_FIXED, where=where, actual=batch, allowed="dynamic", advice=advice)


def follow_input(node: ir.Node, batch: int) -> None:
    """Let a Reshape whose constant target begins with the batch, as what it reads does, take it from there."""
    source, target = node.inputs[0], node.inputs[1]
    shape = constant(target)
    if source is None or target is None or shape is None or _first(source) != batch or shape.size == 0:
        return
    if int(shape[0]) == batch and len(target.uses()) == 1:
        entries: IntArray = np.array(shape, np.int64)
        entries[0] = 0
        set_initializer(target, entries)


def _first(value: ir.Value) -> int | None:
    if value.shape is None or len(value.shape) == 0:
        return None
    length = value.shape[0]
    return length if isinstance(length, int) else None


def _set_first(value: ir.Value, length: int | str) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([length, *list(value.shape)[1:]])
