"""Activation functions."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site


def _plain(function: Callable[..., Tensor], summary: str) -> Operator:
    return Operator(build=lambda _: function, summary=summary)


def leaky_relu(site: Site) -> Kernel:
    """x, or alpha * x where x is negative."""
    alpha = site.number("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, alpha)


def prelu(_: Site) -> Kernel:
    """x, or slope * x where x is negative; the slope broadcasts."""

    def run(x: Tensor, slope: Tensor) -> Tensor:
        if slope.numel() == 1 or (x.dim() > 1 and slope.shape == (x.shape[1], *([1] * (x.dim() - 2)))):
            return functional.prelu(x, slope.reshape(-1))
        return torch.where(x < 0, x * slope, x)

    return run


def elu(site: Site) -> Kernel:
    """x, or alpha * (exp(x) - 1) where x is negative."""
    alpha = site.number("alpha", 1.0)
    return lambda x: functional.elu(x, alpha)


def celu(site: Site) -> Kernel:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    alpha = site.number("alpha", 1.0)
    return lambda x: functional.celu(x, alpha)


def selu(site: Site) -> Kernel:
    """Gamma * (x, or alpha * exp(x) - alpha where x is negative)."""
    alpha = site.number("alpha", 1.67326319217681884765625)
    gamma = site.number("gamma", 1.05070102214813232421875)
    return lambda x: gamma * functional.elu(x, alpha)


def thresholded_relu(site: Site) -> Kernel:
    """X where x exceeds alpha, else 0."""
    alpha = site.number("alpha", 1.0)
    return lambda x: functional.threshold(x, alpha, 0.0)


def hard_sigmoid(site: Site) -> Kernel:
    """max(0, min(1, alpha * x + beta))."""
    alpha, beta = site.number("alpha", 0.2), site.number("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)


def gelu(site: Site) -> Kernel:
    """X times the normal distribution function, exact or by tanh."""
    approximate = site.text("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def swish(site: Site) -> Kernel:
    """X * sigmoid(alpha * x)."""
    alpha = site.number("alpha", 1.0)
    return lambda x: functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


def shrink(site: Site) -> Kernel:
    """X moved towards zero by bias outside (-lambd, lambd), 0 inside."""
    bias, bound = site.number("bias", 0.0), site.number("lambd", 0.5)

    def run(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -bound, x + bias, torch.where(x > bound, x - bias, zero))

    return run


def clip(site: Site) -> Kernel:
    """min(max(x, low), high); attributes before opset 11, inputs since."""
    low, high = _bound(site, "min", 1), _bound(site, "max", 2)
    if low is not None and high is not None:
        return lambda x, *_: functional.hardtanh(x, low, high) if x.is_floating_point() else torch.clamp(x, low, high)
    if (site.constant(1) is None and site.has(1)) or (site.constant(2) is None and site.has(2)):
        return lambda x, least=None, most=None: torch.clamp(x, least, most)
    if low is None and high is None:
        return lambda x, *_: x
    return lambda x, *_: torch.clamp(x, low, high)


def _bound(site: Site, name: str, index: int) -> float | None:
    array = site.constant(index)
    if array is not None and array.size:
        return float(array.item())
    return site.number(name) if name in site.attributes else None


def softmax(site: Site) -> Kernel:
    """Exponentials that sum to one: along an axis since opset 13, over all axes from `axis` on before."""
    return _normalised(site, torch.softmax)


def log_softmax(site: Site) -> Kernel:
    """Logarithm of Softmax, with the same axes."""
    return _normalised(site, torch.log_softmax)


def _normalised(site: Site, function: Callable[[Tensor, int], Tensor]) -> Kernel:
    if site.opset >= 13:
        axis = site.integer("axis", -1)
        return lambda x: function(x, axis)
    first = site.integer("axis", 1)

    def run(x: Tensor) -> Tensor:
        start = first % x.dim() if first < x.dim() else x.dim()
        rows = x.reshape(x.shape[:start].numel(), -1)
        return function(rows, 1).reshape(x.shape)

    return run


def hardmax(site: Site) -> Kernel:
    """One at the first largest entry, zero elsewhere."""

    def largest(x: Tensor, axis: int) -> Tensor:
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)

    return _normalised(site, largest)


def dropout(site: Site) -> Kernel:
    """x; in training, entries are zeroed at random with probability `ratio`."""
    constant_ratio = site.constant(1)
    ratio = site.number("ratio", 0.5) if constant_ratio is None else float(constant_ratio.item())

    def run(x: Tensor, *_: Tensor | None, training: bool) -> Tensor | tuple[Tensor, ...]:
        output = functional.dropout(x, ratio, training) if ratio < 1.0 else x
        return output if site.num_outputs == 1 else (output, torch.ones_like(x, dtype=torch.bool))

    return run


OPERATORS: Final = {
    "Relu": _plain(torch.relu, "max(x, 0)."),
    "LeakyRelu": Operator(build=leaky_relu, summary="x, or alpha * x where x is negative."),
    "PRelu": Operator(build=prelu, summary="x, or slope * x where x is negative; the slope broadcasts and is trained."),
    "Elu": Operator(build=elu, summary="x, or alpha * (exp(x) - 1) where x is negative."),
    "Celu": Operator(build=celu, summary="max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."),
    "Selu": Operator(build=selu, summary="Scaled Elu."),
    "ThresholdedRelu": Operator(build=thresholded_relu, summary="x where x exceeds alpha, else 0."),
    "Sigmoid": _plain(torch.sigmoid, "1 / (1 + exp(-x))."),
    "HardSigmoid": Operator(build=hard_sigmoid, summary="max(0, min(1, alpha * x + beta))."),
    "HardSwish": _plain(functional.hardswish, "x * max(0, min(1, x / 6 + 0.5))."),
    "Gelu": Operator(build=gelu, summary="x times the normal distribution function, exact or by tanh."),
    "Swish": Operator(build=swish, summary="x * sigmoid(alpha * x)."),
    "Mish": _plain(functional.mish, "x * tanh(softplus(x))."),
    "Tanh": _plain(torch.tanh, "Hyperbolic tangent."),
    "Softplus": _plain(functional.softplus, "log(1 + exp(x))."),
    "Softsign": _plain(functional.softsign, "x / (1 + |x|)."),
    "Shrink": Operator(build=shrink, summary="Moves x towards zero by bias outside (-lambd, lambd)."),
    "Clip": Operator(build=clip, summary="min(max(x, low), high)."),
    "Softmax": Operator(build=softmax, summary="Softmax; before opset 13 over all axes from `axis` on."),
    "LogSoftmax": Operator(build=log_softmax, summary="Logarithm of Softmax."),
    "Hardmax": Operator(build=hardmax, summary="One at the first largest entry, zero elsewhere."),
    "Dropout": Operator(build=dropout, summary="Identity; zeroes entries at random in training.", modal=True),
}
