"""Repair without any data: a unit that goes leaves its readers' weights to the one that is most like it."""

import numpy as np
import onnx_ir as ir

from workers.pruning.graph.filters import filters_of, positions
from workers.pruning.graph.weights import replace_weights
from workers.pruning.types import FloatArray, Group, Grouping, Keep, Role


def merge(graph: ir.Model, grouping: Grouping, keep: Keep) -> ir.Model:
    """Return the uncut graph with the weights that read removed units added to those of their likest kept ones.

    Source: Kim et al., "Neuron Merging" (NeurIPS 2020), and Srinivas & Babu, "Data-free parameter pruning" (2015): if
    filter r is a times filter s, rectified answers of r are a times those of s, so W_s += a W_r loses nothing. Ours:
    filters have their BatchNormalization and bias folded in and are compared over all layers that make a unit,
    depthwise ones among them; the factor is a times the cosine, the least-squares one; where what lies between is no
    rectifier filters are compared with their lengths and a is 1. Units without a like one are lost.
    Cut the result with the same `keep`.
    """
    changed: dict[str, FloatArray] = {}
    for group in grouping.groups:
        stays = keep.mask[group.start : group.stop]
        if stays.all() or not stays.any():
            continue
        filters = filters_of(graph, grouping, group)
        if filters is None:
            continue
        cosine, factor = filters.likeness()
        gone, kept = np.flatnonzero(~stays), np.flatnonzero(stays)
        heirs = kept[cosine[np.ix_(gone, kept)].argmax(1)]
        _hand_over(graph, grouping, group, (gone, heirs, (cosine * factor)[gone, heirs]), changed)
    return replace_weights(graph, {name: array.astype(np.float32) for name, array in changed.items()})


def _hand_over(
    graph: ir.Model,
    grouping: Grouping,
    group: Group,
    will: tuple[np.ndarray, np.ndarray, FloatArray],
    changed: dict[str, FloatArray],
) -> None:
    gone, heirs, shares = will
    for axis in grouping.initializer_axes:
        if axis.role is not Role.CONSUME or not ((axis.units >= group.start) & (axis.units < group.stop)).any():
            continue
        tensor = graph.graph.initializers[axis.initializer].const_value
        if tensor is None:
            continue
        array = changed.setdefault(axis.initializer, np.array(tensor.numpy(), np.float64))
        columns = np.moveaxis(array, axis.axis, 0)
        where = positions(axis, group)
        for unit, heir, share in zip(gone, heirs, shares, strict=True):
            columns[where[heir]] += share * columns[where[unit]]
