"""Embedding and attention of ONNX Runtime's optimiser for transformers, taken apart into operators of the standard.

Source: docs/ContribOperators.md of ONNX Runtime, and its kernels for processors. Attention with past keys and values,
with rotation inside, or with masks of other forms than stated here stays as it is.
"""

from itertools import pairwise
from math import sqrt
from typing import Final

import numpy as np
import onnx

from workers.pruning.graph.rewriting import NotKnownYet, Place

_OLDEST_OPSET: Final = 11  # with Range, and with Slice by inputs
_FIRST_OPSET_OF_AXES_INPUT: Final = 13  # of ReduceSum, Unsqueeze and Split
_SEQUENCE_RANK: Final = 3  # (batch, length, width)
_MASKED: Final = -10000.0


def attention(place: Place) -> None:
    """MatMul and Add for queries, keys and values, then the products of several heads; no past, no rotation."""
    _require_opset(place)
    place.only(0)
    place.without(4, 6)
    if place.setting("do_rotary", 0) or place.setting("past_present_share_buffer", 0) or not place.given(2):
        raise NotKnownYet
    widths = place.integer_list("qkv_hidden_sizes") or [place.length(place.given(2), 0) // 3] * 3
    product = place.add("MatMul", place.given(0), place.given(1), main=True)
    parts = _split(place, place.add("Add", product, place.given(2)), widths)
    _attend(place, parts, (widths[0], widths[2]), (place.given(3), place.given(5)))


def multi_head_attention(place: Place) -> None:
    """Products of several heads, with what projections still lack added before; no past, no packed inputs."""
    _require_opset(place)
    place.only(0)
    place.without(6, 7, 8, 9)
    parts = [place.given(index) for index in range(3)]
    if not all(parts) or any(place.rank(name) != _SEQUENCE_RANK for name in parts):
        raise NotKnownYet
    width, value_width = place.length(parts[0], 2), place.length(parts[2], 2)
    if place.given(3):
        starts = (0, width, 2 * width, 2 * width + value_width)
        biases = [
            place.add("Slice", place.given(3), place.integers(start), place.integers(stop))
            for start, stop in pairwise(starts)
        ]
        parts = [place.add("Add", part, bias) for part, bias in zip(parts, biases, strict=True)]
    _attend(place, parts, (width, value_width), (place.given(4), place.given(5)))


def _require_opset(place: Place) -> None:
    if place.known.opset < _OLDEST_OPSET:
        raise NotKnownYet


def _attend(place: Place, parts: list[str], widths: tuple[int, int], added: tuple[str, str]) -> None:
    """Softmax of the products of queries and keys, times the values; `added` are a mask and a bias of the products."""
    heads = int(place.setting("num_heads", 0))
    if heads < 1 or any(width % heads for width in widths):
        raise NotKnownYet
    size, value_size = (width // heads for width in widths)
    query = _by_head(place, parts[0], heads, size, [0, 2, 1, 3])
    key = _by_head(place, parts[1], heads, size, [0, 2, 3, 1])
    value = _by_head(place, parts[2], heads, value_size, [0, 2, 1, 3])
    scale = place.setting("scale", 0.0) or 1 / sqrt(size)
    scores = place.add("Mul", place.add("MatMul", query, key), place.number(scale))
    mask, bias = added
    if mask:
        scores = place.add("Add", scores, _mask(place, mask, parts[1]))
    if bias:
        scores = place.add("Add", scores, bias)
    if place.setting("unidirectional", 0):
        scores = _causal(place, scores, parts[0])
    weights = place.add("Softmax", scores, settings={"axis": -1})
    mixed = place.add("MatMul", weights, value, main=place.node.op_type == "MultiHeadAttention")
    turned = place.add("Transpose", mixed, settings={"perm": [0, 2, 1, 3]})
    place.add("Reshape", turned, place.integers(0, 0, widths[1]), to=place.wanted(0))


def _by_head(place: Place, name: str, heads: int, size: int, order: list[int]) -> str:
    split = place.add("Reshape", name, place.integers(0, 0, heads, size))
    return place.add("Transpose", split, settings={"perm": order})


def _split(place: Place, name: str, widths: list[int]) -> list[str]:
    stops = [sum(widths[: index + 1]) for index in range(len(widths))]
    return [
        place.add("Slice", name, place.integers(stop - width), place.integers(stop), place.integers(2))
        for stop, width in zip(stops, widths, strict=True)
    ]


def _mask(place: Place, mask: str, keys: str) -> str:
    """Numbers to add to the products: zero, or a large negative one where a key is padding.

    The mask is (batch,), how many keys are none, (batch, keys) or (batch, queries, keys), zero for padding.
    """
    rank = place.rank(mask)
    if rank == 1:
        batch = place.axes(place.node.input[0])[0]
        if batch is None or place.axes(mask)[0] != batch:
            raise NotKnownYet
        index = place.add("Cast", mask, settings={"to": int(onnx.TensorProto.INT64)})
        kept = place.add("Less", _positions(place, keys), _widened(place, index, [1, 2, 3]))
    elif rank in {2, 3}:
        told = place.add("Cast", mask, settings={"to": int(onnx.TensorProto.BOOL)})
        kept = _widened(place, told, [1, 2] if rank == 2 else [1])  # axes for heads and queries
    else:
        raise NotKnownYet
    low = place.number(place.setting("mask_filter_value", _MASKED))
    return place.add("Where", kept, place.number(0.0), low)


def _causal(place: Place, scores: str, queries: str) -> str:
    """Leave out what comes later."""
    positions = _positions(place, queries)
    earlier = place.add("LessOrEqual", positions, _widened(place, positions, [1]))
    return place.add("Where", earlier, scores, place.number(float(np.finfo(np.float32).min)))


def _positions(place: Place, sequence: str) -> str:
    """0, 1, ... along the sequence."""
    length = place.add("Gather", place.add("Shape", sequence), place.integer(1))
    return place.add("Range", place.integer(0), length, place.integer(1))


def _widened(place: Place, name: str, axes: list[int]) -> str:
    if place.known.opset < _FIRST_OPSET_OF_AXES_INPUT:
        return place.add("Unsqueeze", name, settings={"axes": axes})
    return place.add("Unsqueeze", name, place.integers(*axes))


def embedding(place: Place) -> None:
    """Gather from the tables of words, positions and segments, Add, LayerNormalization; ReduceSum of the mask."""
    _require_opset(place)
    ids, segments, words, positions, table = (place.given(index) for index in range(5))
    mask, mask_index = place.given(7), place.wanted(1)
    if mask_index and not mask:
        raise NotKnownYet
    at = place.add("Gather", positions, place.given(8)) if place.given(8) else _first_rows(place, positions, ids)
    total = place.add("Gather", words, ids)
    if segments:
        total = place.add("Add", total, place.add("Gather", table, segments))
    total = place.add("Add", total, at, to=place.wanted(2))
    place.normalise(total, place.given(5), place.given(6), place.wanted(0), epsilon=1e-12)
    if mask_index:
        _count(place, mask, mask_index)


def _first_rows(place: Place, table: str, ids: str) -> str:
    """As many rows of a table as there are words."""
    length = place.add("Gather", place.add("Shape", ids), place.integers(1))
    return place.add("Slice", table, place.integers(0), length, place.integers(0))


def _count(place: Place, mask: str, to: str) -> None:
    if place.known.opset < _FIRST_OPSET_OF_AXES_INPUT:
        place.add("ReduceSum", mask, to=to, settings={"axes": [1], "keepdims": 0})
    else:
        place.add("ReduceSum", mask, place.integers(1), to=to, settings={"keepdims": 0})
