"""Gemm, MatMul and Einsum."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from workers.pruning.graph.ops.site import Kernel, Operator, Site


def gemm(site: Site) -> Kernel:
    """Alpha * A B + beta * C with optional transposes."""
    alpha, beta = site.number("alpha", 1.0), site.number("beta", 1.0)
    transpose_a, transpose_b = bool(site.integer("transA")), bool(site.integer("transB"))

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if transpose_a else a
        plain = alpha == 1.0 and beta == 1.0 and (c is None or c.dim() == 1)
        if plain:
            return functional.linear(a, b if transpose_b else b.t(), c)
        product = alpha * (a @ (b.t() if transpose_b else b))
        return product if c is None else product + beta * c

    return run


def matmul(_: Site) -> Kernel:
    """Matrix product with broadcast batch axes."""
    return torch.matmul


def einsum(site: Site) -> Kernel:
    """Sum of products by index notation."""
    equation = site.text("equation").replace(" ", "")

    def run(*operands: Tensor) -> Tensor:
        return torch.einsum(equation, *operands)

    return run


OPERATORS: Final = {
    "Gemm": Operator(build=gemm, summary="Matrix product with bias; alpha, beta and both transposes."),
    "MatMul": Operator(build=matmul, summary="Matrix product with broadcast batch axes."),
    "Einsum": Operator(build=einsum, summary="Sum of products by index notation."),
}
