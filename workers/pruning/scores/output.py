"""What the outputs of a network are distributions of, and directions in which they can move.

Each output is read as the parameter z of a distribution with Fisher information M(z). A *direction* v with
E v v^T = M turns the Fisher information of a gate into the square of one gradient: J^T M J = E (d<z, v>/dm)^2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir
import torch

from workers.pruning.errors import NothingToPrune
from workers.pruning.graph.head import Head, carried_outputs, find, inner_outputs
from workers.pruning.types import IntArray

_UNIFORM: Final = 1e-6


class Kind(StrEnum):
    """The distribution whose parameter an output is."""

    CATEGORICAL = "categorical"
    BERNOULLI = "bernoulli"
    GAUSSIAN = "gaussian"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one output is read: its position, its distribution, and the node that turns z into probabilities, if any."""

    index: int
    kind: Kind
    axis: int = 1  # of the classes
    link: str = ""  # a final Softmax, LogSoftmax or Sigmoid: z is what it reads
    inner: bool = False  # no output of the network: what a node reads that no gradient passes


def read_outputs(graph: ir.Model, head: Head | Kind | None = None) -> tuple[Reading, ...]:
    """Say how each floating-point output is read.

    A classification head is categorical. Of other networks, an output that ends in a softmax is categorical, one that
    ends in a sigmoid Bernoulli, anything else Gaussian. `head` says what kind of network it is (None: found out), or
    as a `Kind` how every output is read; dense predictions are then categorical along axis 1, each position by itself.
    Inner outputs (see `graph.trunk`) are Gaussian.

    Raises:
        NothingToPrune: no output is a floating-point value, so nothing can be scored by its effect on the output.
    """
    head = find(graph) if head is None else head
    inner, carried = inner_outputs(graph), carried_outputs(graph)
    readings = tuple(
        Reading(index=index, kind=Kind.GAUSSIAN, inner=True)
        if value.name in inner
        else _read(graph, index, value, head)
        for index, value in enumerate(graph.graph.outputs)
        if (value.dtype is None or value.dtype.is_floating_point()) and value.name not in carried
    )
    if not readings:
        raise NothingToPrune(
            "every output is an integer, so no score can be taken from the outputs",
            where=", ".join(value.name or "" for value in graph.graph.outputs),
            advice="Export the network without its final ArgMax, or score by magnitude.",
        )
    return readings


def _read(graph: ir.Model, index: int, value: ir.Value, head: Head | Kind) -> Reading:
    producer = value.producer()
    operator = producer.op_type if producer is not None else ""
    kind = head if isinstance(head, Kind) else _kind(operator, head)
    if kind is Kind.CATEGORICAL and operator in {"Softmax", "LogSoftmax"} and producer is not None:
        rank = len(value.shape) if value.shape is not None else 2
        axis = producer.attributes.get_int("axis", 1 if _opset(graph) < 13 else -1) % rank
        return Reading(index=index, kind=kind, axis=axis, link=producer.name or "")
    if kind is Kind.BERNOULLI and operator == "Sigmoid" and producer is not None:
        return Reading(index=index, kind=kind, link=producer.name or "")
    return Reading(index=index, kind=kind)


def _kind(operator: str, head: Head) -> Kind:
    if head.is_classification or operator in {"Softmax", "LogSoftmax"}:
        return Kind.CATEGORICAL
    return Kind.BERNOULLI if operator == "Sigmoid" else Kind.GAUSSIAN


def _opset(graph: ir.Model) -> int:
    return graph.graph.opset_imports.get("", 1)


def probabilities(reading: Reading, z: torch.Tensor) -> torch.Tensor:
    """Probabilities at z, mixed with one part in a million of the uniform distribution.

    A network that is certain of every sample has no information left in float32, and all units would score zero. With
    the mixture they are ordered by what they do to the logits.
    """
    if reading.kind is Kind.CATEGORICAL:
        return torch.softmax(z, dim=reading.axis) * (1 - _UNIFORM) + _UNIFORM / z.shape[reading.axis]
    return torch.sigmoid(z) * (1 - _UNIFORM) + _UNIFORM / 2


def probe(reading: Reading, z: torch.Tensor, deviation: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
    """Draw a direction v with E v v^T equal to the Fisher information of the output's distribution at z.

    Source: with xi of independent signs, v = sqrt(p) xi - p <sqrt(p), xi> has E v v^T = diag(p) - p p^T.
    Shapes: z, v (batch, ...); deviation, of a Gaussian output, (...).
    """
    signs = torch.from_numpy(rng.integers(0, 2, z.shape).astype(np.float32) * 2 - 1).to(z)
    if reading.kind is Kind.CATEGORICAL:
        p = probabilities(reading, z)
        root = p.sqrt() * signs
        return root - p * root.sum(dim=reading.axis, keepdim=True)
    if reading.kind is Kind.BERNOULLI:
        p = probabilities(reading, z)
        return (p * (1 - p)).sqrt() * signs
    return signs if deviation is None else signs / deviation


def exact_directions(reading: Reading, z: torch.Tensor, deviation: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """Yield one direction per element of the output; their outer products sum to the Fisher information.

    Source: sum over y of p_y (e_y - p)(e_y - p)^T = diag(p) - p p^T; the others are diagonal.
    """
    p = probabilities(reading, z)
    for position in np.ndindex(*z.shape[1:]):
        v = torch.zeros_like(z)
        v[(slice(None), *position)] = 1.0
        if reading.kind is Kind.CATEGORICAL:
            yield (v - p) * (p * v).sum(dim=reading.axis, keepdim=True).sqrt()
        elif reading.kind is Kind.BERNOULLI:
            yield v * (p * (1 - p)).sqrt()
        else:
            yield v if deviation is None else v / deviation


def num_exact(readings: Sequence[Reading], zs: Sequence[torch.Tensor]) -> int | None:
    """Backward passes that the exact Fisher information takes, or None where directions cannot be listed one by one."""
    if len(readings) > 1 or zs[0].dim() < 2:
        return None
    return None if readings[0].kind is Kind.CATEGORICAL and zs[0].dim() > 2 else prod(zs[0].shape[1:])


def pseudo_labels(z: torch.Tensor, reading: Reading) -> IntArray:
    """The class that the network itself chooses for each sample."""
    labels: IntArray = z.argmax(dim=reading.axis).cpu().numpy().astype(np.int64)
    return labels
