"""Weights must be numbers: NaN spreads to every score, and infinity to every sum."""

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import NonFiniteScore
from workers.pruning.graph.weights import is_parameter, weights
from workers.pruning.types import AnyArray

_CHUNK = 1 << 20


def check_finite(graph: ir.Model) -> None:
    """Return when no float initializer is NaN and no trained one is infinite.

    Infinity in a constant is legal: attention masks and the open end of a Clip use it.

    Raises:
        NonFiniteScore: the message names the initializer and the node that reads it.
    """
    for name, array in weights(graph).items():
        value = graph.graph.initializers[name]
        lowest, highest = _range(array)
        if np.isnan(lowest) or (is_parameter(value) and not np.isfinite([lowest, highest]).all()):
            raise NonFiniteScore(
                "A weight is NaN or infinite",
                where=f"initializer {name!r} of {_reader(value)}",
                actual=f"{int(np.count_nonzero(~np.isfinite(array)))} of {array.size} entries",
                allowed="finite numbers",
                advice="Training has diverged before the export; export an earlier checkpoint.",
            )


def _range(array: AnyArray) -> tuple[float, float]:
    """Smallest and largest entry, NaN where there is one; by chunks, so that narrow floats are widened cheaply."""
    flat = array.reshape(-1)
    lowest, highest = 0.0, 0.0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(np.float64 if flat.dtype == np.float64 else np.float32, copy=False)
        lowest = float(np.minimum(lowest, chunk.min()))
        highest = float(np.maximum(highest, chunk.max()))
    return lowest, highest


def _reader(value: ir.Value) -> str:
    return next((f"node {use.node.name!r}" for use in value.uses()), "no node")
