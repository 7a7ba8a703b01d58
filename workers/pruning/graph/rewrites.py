"""Operators of ONNX Runtime written in those of the standard: what its own optimiser has put together, taken apart.

Source: docs/ContribOperators.md of ONNX Runtime, and its kernels for processors. Each entry gives the same numbers but
for the order of sums; tests compare every one with ONNX Runtime.
"""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Final

import numpy as np

from workers.pruning.graph.rewrites_attention import attention, embedding, multi_head_attention
from workers.pruning.graph.rewriting import NotKnownYet, Place

_CONTRIB: Final = "com.microsoft"
_FIRST_OPSET_OF_CLIP_INPUTS: Final = 11
_FIRST_OPSET_OF_GELU: Final = 20
_FIRST_OPSET_OF_AXES_INPUT: Final = 18
_CUBIC: Final = 0.044715  # of the approximation of Gelu by tanh
_CONV_ATTRIBUTES: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


Rewrite = Callable[[Place], None]


def _activated(place: Place, value: str, numbers: Mapping[str, float]) -> None:
    """Add the activation that follows; `numbers` are its settings."""
    kind, to = place.text("activation"), place.wanted(0)
    if kind not in _ACTIVATIONS:
        raise NotKnownYet
    if kind == "Clip":
        _clip(place, value, numbers["min"], numbers["max"])
    else:
        place.add(kind, value, to=to, settings={name: numbers[name] for name in _ACTIVATIONS[kind] if name in numbers})


_ACTIVATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}


def _clip(place: Place, value: str, low: float, high: float) -> None:
    if place.known.opset < _FIRST_OPSET_OF_CLIP_INPUTS:
        place.add("Clip", value, to=place.wanted(0), settings={"min": low, "max": high})
    else:
        place.add("Clip", value, place.number(low), place.number(high), to=place.wanted(0))


def _fused_conv(place: Place) -> None:
    """Conv, perhaps Add of a shortcut, and the activation."""
    params = next((list(each.floats) for each in place.node.attribute if each.name == "activation_params"), [])
    names = _ACTIVATIONS.get(place.text("activation"), ())
    if len(params) < len(names):
        raise NotKnownYet
    conv = place.add("Conv", *place.node.input[:3], main=True, copied=_CONV_ATTRIBUTES)
    if place.given(3):
        conv = place.add("Add", conv, place.given(3))
    _activated(place, conv, dict(zip(names, params, strict=False)))


def _fused_gemm(place: Place) -> None:
    """Gemm and the activation."""
    product = place.add("Gemm", *place.node.input, main=True, copied=("alpha", "beta", "transA", "transB"))
    settings = {name: f"activation_{name}" for name in ("alpha", "beta", "min", "max")}
    given = {each.name: each.f for each in place.node.attribute}
    _activated(place, product, {name: given[key] for name, key in settings.items() if key in given})


def _fused_matmul(place: Place) -> None:
    """Transpose, MatMul and Mul by a number; no transposed batch axes."""
    if place.setting("transBatchA", 0) or place.setting("transBatchB", 0):
        raise NotKnownYet
    operands = [_turned(place, index, name) for index, name in enumerate(("transA", "transB"))]
    alpha = place.setting("alpha", 1.0)
    product = place.add("MatMul", *operands, to=place.wanted(0) if alpha == 1 else "", main=True)
    if alpha != 1:
        place.add("Mul", product, place.number(alpha), to=place.wanted(0))


def _turned(place: Place, index: int, setting: str) -> str:
    name = place.given(index)
    if not place.setting(setting, 0):
        return name
    rank = place.rank(name)
    if rank < 2:  # of a vector ONNX Runtime leaves the setting out of account
        raise NotKnownYet
    return place.add("Transpose", name, settings={"perm": [*range(rank - 2), rank - 1, rank - 2]})


def _gelu(place: Place) -> None:
    """Gelu, before opset 20 x / 2 (1 + erf(x / sqrt 2)); a bias is added before."""
    source = place.given(0)
    if place.given(1):
        source = place.add("Add", source, place.given(1))
    if place.known.opset >= _FIRST_OPSET_OF_GELU:
        place.add("Gelu", source, to=place.wanted(0), main=True)
        return
    scaled = place.add("Div", source, place.number(sqrt(2)))
    _half_of_one_plus(place, source, place.add("Erf", scaled, main=True))


def _fast_gelu(place: Place) -> None:
    """Gelu by tanh, before opset 20 x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); a bias is added before."""
    source = place.given(0)
    if place.given(1):
        source = place.add("Add", source, place.given(1))
    if place.known.opset >= _FIRST_OPSET_OF_GELU:
        place.add("Gelu", source, to=place.wanted(0), main=True, settings={"approximate": "tanh"})
        return
    square = place.add("Mul", source, source)
    cubic = place.add("Mul", place.add("Mul", square, source), place.number(_CUBIC))
    inner = place.add("Mul", place.add("Add", source, cubic), place.number(sqrt(2 / np.pi)))
    _half_of_one_plus(place, source, place.add("Tanh", inner, main=True))


def _half_of_one_plus(place: Place, source: str, bent: str) -> None:
    shifted = place.add("Add", bent, place.number(1.0))
    place.add("Mul", place.add("Mul", source, shifted), place.number(0.5), to=place.wanted(0))


def _quick_gelu(place: Place) -> None:
    """Product of x and Sigmoid of alpha x."""
    source, alpha = place.given(0), place.setting("alpha", 1.702)
    scaled = source if alpha == 1 else place.add("Mul", source, place.number(alpha))
    place.add("Mul", source, place.add("Sigmoid", scaled, main=True), to=place.wanted(0))


def _layer_norm(place: Place) -> None:
    """Before opset 17, where ONNX Runtime had it and the standard did not: its parts."""
    place.only(0)
    place.normalise(place.given(0), place.given(1), place.given(2), place.wanted(0))


def _simplified_layer_norm(place: Place) -> None:
    """Division by the root mean square of the last axis, in its parts."""
    place.only(0)
    _divided(place, place.given(0), place.given(1), place.wanted(0))


def _skip_layer_norm(place: Place) -> None:
    """Add of stream, branch and bias, and LayerNormalization; the sum may be an output too."""
    place.only(0, 3)
    total = _summed(place, place.given(4))
    place.normalise(total, place.given(2), place.given(3), place.wanted(0), epsilon=1e-12)


def _skip_simplified_layer_norm(place: Place) -> None:
    """Add of stream, branch and bias, and division by the root mean square, in its parts."""
    place.only(0, 3)
    _divided(place, _summed(place, place.given(3)), place.given(2), place.wanted(0))


def _summed(place: Place, bias: str) -> str:
    """The sum in front of a normalisation, under the name of the output that gives it, if one does."""
    both = (place.given(0), place.given(1))
    if not bias:
        return place.add("Add", *both, to=place.wanted(3))
    return place.add("Add", place.add("Add", *both), bias, to=place.wanted(3))


def _divided(place: Place, source: str, scale: str, to: str) -> None:
    """Add a division by the root mean square of the last axis, in its parts."""
    axis = int(place.setting("axis", -1))
    if axis != -1 and axis != place.rank(source) - 1:
        raise NotKnownYet
    square = place.add("Mul", source, source)
    if place.known.opset < _FIRST_OPSET_OF_AXES_INPUT:
        mean = place.add("ReduceMean", square, settings={"axes": [-1]})
    else:
        mean = place.add("ReduceMean", square, place.integers(-1))
    root = place.add("Sqrt", place.add("Add", mean, place.number(place.setting("epsilon", 1e-5))))
    place.add("Mul", place.add("Div", source, root, main=True), scale, to=to)


REWRITES: Final[Mapping[tuple[str, str], Rewrite]] = {
    ("", "LayerNormalization"): _layer_norm,
    ("", "SimplifiedLayerNormalization"): _simplified_layer_norm,
    (_CONTRIB, "Attention"): attention,
    (_CONTRIB, "BiasGelu"): _gelu,
    (_CONTRIB, "EmbedLayerNormalization"): embedding,
    (_CONTRIB, "FastGelu"): _fast_gelu,
    (_CONTRIB, "FusedConv"): _fused_conv,
    (_CONTRIB, "FusedGemm"): _fused_gemm,
    (_CONTRIB, "FusedMatMul"): _fused_matmul,
    (_CONTRIB, "Gelu"): _gelu,
    (_CONTRIB, "MultiHeadAttention"): multi_head_attention,
    (_CONTRIB, "QuickGelu"): _quick_gelu,
    (_CONTRIB, "SkipLayerNormalization"): _skip_layer_norm,
    (_CONTRIB, "SkipSimplifiedLayerNormalization"): _skip_simplified_layer_norm,
    (_CONTRIB, "TransposeMatMul"): _fused_matmul,
}
