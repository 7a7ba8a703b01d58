"""Normalisations."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site


def batch_normalization(site: Site) -> Kernel:
    """Batch normalisation; in training by batch statistics, with the running ones updated.

    Source: ONNX BatchNormalization. running = momentum * running + (1 - momentum) * batch, so torch's momentum is one
    minus ONNX's. Differs: torch updates the running variance with the unbiased estimate, as PyTorch training does.
    A node that asks for batch statistics at inference (training_mode) gets them in both modes.
    """
    if site.integer("spatial", 1) != 1:
        site.refuse("attribute", "spatial=0", "spatial=1")
    epsilon, momentum = site.number("epsilon", 1e-5), 1.0 - site.number("momentum", 0.9)
    always = bool(site.integer("training_mode"))

    def run(
        x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, training: bool
    ) -> Tensor | tuple[Tensor, ...]:
        if not always or training:
            output = functional.batch_norm(x, mean, variance, scale, bias, training, momentum, epsilon)
        else:
            output = functional.batch_norm(x, None, None, scale, bias, True, momentum, epsilon)  # noqa: FBT003
        return output if site.num_outputs == 1 else (output, *_updated(x, mean, variance, momentum))

    return run


def _updated(x: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    batch_variance, batch_mean = torch.var_mean(x, axes, correction=0)
    return torch.lerp(mean, batch_mean, momentum), torch.lerp(variance, batch_variance, momentum)


def instance_normalization(site: Site) -> Kernel:
    """Normalisation of each channel of each sample."""
    epsilon = site.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)

    return run


def group_normalization(site: Site) -> Kernel:
    """Normalisation of groups of channels; the form before opset 21 was withdrawn from ONNX."""
    groups, epsilon = site.integer("num_groups", 1), site.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return run


def layer_normalization(site: Site) -> Kernel:
    """Normalisation over the axes from `axis` on."""
    axis, epsilon = site.integer("axis", -1), site.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        first = axis % x.dim()
        shape = x.shape[first:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            output = functional.layer_norm(x, shape, scale, bias, epsilon)
        else:
            output = functional.layer_norm(x, shape, eps=epsilon) * scale
            output = output if bias is None else output + bias
        if site.num_outputs == 1:
            return output
        variance, mean = torch.var_mean(x, list(range(first, x.dim())), correction=0, keepdim=True)
        return (output, mean, torch.rsqrt(variance + epsilon))[: site.num_outputs]

    return run


def rms_normalization(site: Site) -> Kernel:
    """Division by the root of the mean square over the axes from `axis` on."""
    axis, epsilon = site.integer("axis", -1), site.number("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        axes = list(range(axis % x.dim(), x.dim()))
        return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon) * scale

    return run


def mean_variance(site: Site) -> Kernel:
    """Mean zero and deviation one over `axes`."""
    axes = site.integers("axes") or [0, 2, 3]

    def run(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return (x - mean) / (variance.sqrt() + 1e-9)

    return run


def lp_normalization(site: Site) -> Kernel:
    """Division by the L1 or L2 norm along an axis."""
    axis, order = site.integer("axis", -1), site.integer("p", 2)

    def run(x: Tensor) -> Tensor:
        return functional.normalize(x, float(order), axis, eps=0.0)

    return run


def local_response(site: Site) -> Kernel:
    """Division by a power of the energy of neighbouring channels.

    Source: ONNX LRN: channels c - floor((size-1)/2) to c + ceil((size-1)/2).
    """
    size, alpha, beta = site.integer("size", 1), site.number("alpha", 1e-4), site.number("beta", 0.75)
    bias = site.number("bias", 1.0)

    def run(x: Tensor) -> Tensor:
        squares = x.square().flatten(2).transpose(1, 2)
        padded = functional.pad(squares, [(size - 1) // 2, size // 2])
        mean = functional.avg_pool1d(padded, size, 1).transpose(1, 2).reshape(x.shape)
        return x / (bias + alpha * mean).pow(beta)

    return run


OPERATORS: Final = {
    "BatchNormalization": Operator(
        build=batch_normalization,
        summary="Batch normalisation; by batch statistics in training, running ones otherwise. spatial=1 only.",
        modal=True,
    ),
    "InstanceNormalization": Operator(
        build=instance_normalization, summary="Normalisation of each channel of each sample."
    ),
    "GroupNormalization": Operator(build=group_normalization, summary="Normalisation of groups of channels."),
    "LayerNormalization": Operator(build=layer_normalization, summary="Normalisation over trailing axes."),
    "RMSNormalization": Operator(build=rms_normalization, summary="Division by the root mean square of trailing axes."),
    "MeanVarianceNormalization": Operator(build=mean_variance, summary="Mean zero, deviation one over axes."),
    "LpNormalization": Operator(build=lp_normalization, summary="Division by the L1 or L2 norm along an axis."),
    "LRN": Operator(build=local_response, summary="Local response normalisation across channels."),
}
