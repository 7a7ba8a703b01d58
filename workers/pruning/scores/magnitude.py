"""The norm of a unit's filters: the baseline that needs no data."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import NonFiniteScore
from workers.pruning.types import FloatArray, Grouping, IntArray, Role, Scores

Norm = Literal["l1", "l2"]


def magnitude(graph: ir.Model, grouping: Grouping, norm: Norm = "l2") -> Scores:
    """Score each unit by the size of the weights that compute it.

    Source: Li et al., "Pruning Filters for Efficient ConvNets" (l1); Chin et al., "Towards Efficient Model Compression
    via Learned Global Ranking" (squared l2, summed over coupled layers). A unit that several layers produce, such as a
    residual channel, gets the sum over these layers. Biases and normalisation do not count.
    Shapes: values (num_units,).
    Units: l2 is the sum of squares, l1 the sum of absolute values; neither is divided by the number of weights.

    Raises:
        NonFiniteScore: a weight is NaN or infinite; the message names its node.
    """
    values = np.zeros(grouping.num_units)
    for _, units, sizes in by_layer(graph, grouping, norm):
        values[units] += sizes
    return Scores(values=values, source=f"magnitude_{norm}")


def by_layer(graph: ir.Model, grouping: Grouping, norm: Norm = "l2") -> Iterator[tuple[str, IntArray, FloatArray]]:
    """Yield, for each layer that produces units, its node, these units in ascending order, and what each weighs there.

    Raises:
        NonFiniteScore: a weight is NaN or infinite; the message names its node.
    """
    for axis in grouping.initializer_axes:
        if axis.role is not Role.PRODUCE:
            continue
        weight = graph.graph.initializers[axis.initializer].const_value
        if weight is None:
            continue
        sizes = _sizes(weight.numpy().astype(np.float64), axis.axis, norm)
        if not np.isfinite(sizes).all():
            raise NonFiniteScore("a weight is NaN or infinite", where=axis.node, actual=axis.initializer)
        member = axis.units >= 0
        units, position = np.unique(axis.units[member], return_inverse=True)
        if len(units):
            total = np.zeros(len(units))
            np.add.at(total, position, sizes[member])
            yield axis.node, units, total


def _sizes(weight: FloatArray, axis: int, norm: Norm) -> FloatArray:
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    sizes: FloatArray = (np.abs(rows) if norm == "l1" else np.square(rows)).sum(axis=1)
    return sizes
