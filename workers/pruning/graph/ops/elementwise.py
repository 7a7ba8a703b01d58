"""Arithmetic, comparison and logic, entry by entry, with broadcasting."""

from collections.abc import Callable
from functools import reduce
from typing import Final

import torch
from torch import Tensor

from workers.pruning.graph.ops.site import Kernel, Operator, Site, together, torch_dtype


def _unary(function: Callable[[Tensor], Tensor], summary: str) -> Operator:
    return Operator(build=lambda _: function, summary=summary)


def _binary(function: Callable[[Tensor, Tensor], Tensor], summary: str) -> Operator:
    def run(left: Tensor, right: Tensor) -> Tensor:
        if left.device != right.device:
            left, right = together(left, right)
        return function(left, right)

    return Operator(build=lambda _: run, summary=summary)


def _variadic(function: Callable[[Tensor, Tensor], Tensor], summary: str) -> Operator:
    def run(*tensors: Tensor) -> Tensor:
        return reduce(function, together(*tensors))

    return Operator(build=lambda _: run, summary=summary)


def _divide(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _power(left: Tensor, right: Tensor) -> Tensor:
    result = torch.pow(left, right)
    return result if result.dtype == left.dtype or left.is_floating_point() else result.to(left.dtype)


def mod(site: Site) -> Kernel:
    """Remainder: of the divisor's sign, or of the dividend's with fmod."""
    function = torch.fmod if site.integer("fmod") else torch.remainder

    def run(left: Tensor, right: Tensor) -> Tensor:
        left, right = together(left, right)
        return function(left, right)

    return run


def mean(_: Site) -> Kernel:
    """Mean of the inputs."""

    def run(*tensors: Tensor) -> Tensor:
        return reduce(torch.add, tensors) / len(tensors)

    return run


def where(_: Site) -> Kernel:
    """The second input where the first holds, else the third."""

    def run(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        condition, yes, no = together(condition, yes, no)
        return torch.where(condition, yes, no)

    return run


def cast(site: Site) -> Kernel:
    """Conversion of type; half precision is computed in float32."""
    dtype = torch_dtype(site.integer("to", 1))

    def run(x: Tensor) -> Tensor:
        return x.to(dtype)

    return run


def cast_like(_: Site) -> Kernel:
    """Conversion to the type of the second input."""

    def run(x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype)

    return run


def is_infinite(site: Site) -> Kernel:
    """Whether entries are infinite."""
    negative, positive = bool(site.integer("detect_negative", 1)), bool(site.integer("detect_positive", 1))

    def run(x: Tensor) -> Tensor:
        found = torch.zeros_like(x, dtype=torch.bool)
        found = found | torch.isneginf(x) if negative else found
        return found | torch.isposinf(x) if positive else found

    return run


OPERATORS: Final = {
    "Add": _binary(torch.add, "Sum of two."),
    "Sub": _binary(torch.sub, "Difference."),
    "Mul": _binary(torch.mul, "Product."),
    "Div": _binary(_divide, "Quotient; integers are cut towards zero."),
    "Pow": _binary(_power, "Power."),
    "Mod": Operator(build=mod, summary="Remainder of a division."),
    "Sum": _variadic(torch.add, "Sum of all inputs."),
    "Mean": Operator(build=mean, summary="Mean of all inputs."),
    "Max": _variadic(torch.maximum, "Largest of all inputs."),
    "Min": _variadic(torch.minimum, "Smallest of all inputs."),
    "Equal": _binary(torch.eq, "Comparison."),
    "Less": _binary(torch.lt, "Comparison."),
    "LessOrEqual": _binary(torch.le, "Comparison."),
    "Greater": _binary(torch.gt, "Comparison."),
    "GreaterOrEqual": _binary(torch.ge, "Comparison."),
    "And": _binary(torch.logical_and, "Logic."),
    "Or": _binary(torch.logical_or, "Logic."),
    "Xor": _binary(torch.logical_xor, "Logic."),
    "Not": _unary(torch.logical_not, "Logic."),
    "Where": Operator(build=where, summary="The second input where the first holds, else the third."),
    "Abs": _unary(torch.abs, "|x|."),
    "Neg": _unary(torch.neg, "-x."),
    "Reciprocal": _unary(torch.reciprocal, "1 / x."),
    "Sqrt": _unary(torch.sqrt, "Square root."),
    "Exp": _unary(torch.exp, "e to the x."),
    "Log": _unary(torch.log, "Natural logarithm."),
    "Erf": _unary(torch.erf, "Error function."),
    "Sign": _unary(torch.sign, "-1, 0 or 1."),
    "Floor": _unary(torch.floor, "Largest integer not above x."),
    "Ceil": _unary(torch.ceil, "Smallest integer not below x."),
    "Round": _unary(torch.round, "Nearest integer, halves to even."),
    "Sin": _unary(torch.sin, "Sine."),
    "Cos": _unary(torch.cos, "Cosine."),
    "Tan": _unary(torch.tan, "Tangent."),
    "Asin": _unary(torch.asin, "Inverse sine."),
    "Acos": _unary(torch.acos, "Inverse cosine."),
    "Atan": _unary(torch.atan, "Inverse tangent."),
    "Sinh": _unary(torch.sinh, "Hyperbolic sine."),
    "Cosh": _unary(torch.cosh, "Hyperbolic cosine."),
    "Asinh": _unary(torch.asinh, "Inverse hyperbolic sine."),
    "Acosh": _unary(torch.acosh, "Inverse hyperbolic cosine."),
    "Atanh": _unary(torch.atanh, "Inverse hyperbolic tangent."),
    "IsNaN": _unary(torch.isnan, "Whether entries are NaN."),
    "IsInf": Operator(build=is_infinite, summary="Whether entries are infinite."),
    "Cast": Operator(build=cast, summary="Conversion of type; half precision is computed in float32."),
    "CastLike": Operator(build=cast_like, summary="Conversion to the type of the second input."),
}
