"""The loss of fine-tuning: how far the pruned network is from the original, and from the labels if asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import onnx_ir as ir
import torch
from torch.nn import functional

from workers.pruning.graph.head import Head, carried_outputs, inner_outputs
from workers.pruning.training.recipe import Recipe

# Turns the relative squared error into the size of loss that the learning rate of 0.01 was measured with: the
# variance of the centred logits of the CIFAR ResNets that it was measured on.
SCALE: Final = 10.0
_TINY: Final = 1e-12


def logits(output: torch.Tensor, head: Head) -> torch.Tensor:
    """Give the output as logits in float32; behind a softmax they are its logarithm, equal up to a constant.

    Shapes: (N, K) or (N, K, 1, 1) -> (N, K).
    """
    output = output.float().flatten(1)
    return output.clamp_min(1e-7).log() if head is Head.PROBABILITIES else output


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Positions of outputs that the network itself does not have; see `graph.trunk`."""

    inner: frozenset[int] = frozenset()
    carried: frozenset[int] = frozenset()


ANSWERS: Final = Roles()


def roles(graph: ir.Model) -> Roles:
    """Say which outputs of a graph are no answers."""
    inner, carried = inner_outputs(graph), carried_outputs(graph)
    names = [value.name for value in graph.graph.outputs]
    return Roles(
        inner=frozenset(index for index, name in enumerate(names) if name in inner),
        carried=frozenset(index for index, name in enumerate(names) if name in carried),
    )


class _Comparable(NamedTuple):
    values: torch.Tensor
    inner: bool


class Objective:
    """Loss of a student's outputs against a teacher's; its scale is fixed once, from the teacher on one batch."""

    def __init__(self, recipe: Recipe, teacher_outputs: Sequence[torch.Tensor], roles: Roles = ANSWERS) -> None:
        """`roles` tells outputs that the network itself does not have from its answers."""
        self.recipe = recipe
        self._roles = roles
        self._variances = [self._variance(each) for each in self._comparables(teacher_outputs)]

    def distance(self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
        """Give the distillation term.

        Source: squared error of centred logits as in Ba and Caruana 2014 (centring leaves out the constant that a
        softmax ignores), or Hinton et al. 2015 where a temperature is set. Differs: divided by the teacher's variance,
        so that one learning rate serves networks with large and with small logits.
        """
        temperature = self.recipe.temperature
        if temperature is not None:
            softened = _softened_divergence(
                logits(student[0], self.recipe.head), logits(teacher[0], self.recipe.head), temperature
            )
            return softened + self._errors(student, teacher, inner=True)
        return self._errors(student, teacher)

    def _errors(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], *, inner: bool = False
    ) -> torch.Tensor:
        """Mean relative squared error of the outputs, or of the inner ones alone."""
        triples = zip(self._comparables(student), self._comparables(teacher), self._variances, strict=True)
        terms = [
            functional.mse_loss(s.values, t.values) / variance for s, t, variance in triples if s.inner or not inner
        ]
        return SCALE * torch.stack(terms).mean() if terms else torch.zeros(())

    def __call__(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Give w x distillation + (1 - w) x cross-entropy."""
        weight = self.recipe.distillation
        if weight >= 1.0 or labels is None:
            return self.distance(student, teacher)
        cross_entropy = functional.cross_entropy(logits(student[0], self.recipe.head), labels)
        if weight <= 0.0:
            return cross_entropy
        return weight * self.distance(student, teacher) + (1 - weight) * cross_entropy

    def _comparables(self, outputs: Sequence[torch.Tensor]) -> list[_Comparable]:
        """Outputs that errors are taken of: answers as the head has them, inner outputs as they are."""
        return [
            _Comparable(self._comparable(output, inner=index in self._roles.inner), index in self._roles.inner)
            for index, output in enumerate(outputs)
            if output.is_floating_point() and index not in self._roles.carried
        ]

    def _comparable(self, output: torch.Tensor, *, inner: bool) -> torch.Tensor:
        if inner or not self.recipe.head.is_classification:
            return output.float()
        values = logits(output, self.recipe.head)
        return values - values.mean(dim=1, keepdim=True)

    @staticmethod
    def _variance(each: _Comparable) -> float:
        return each.values.var(correction=0).clamp_min(_TINY).item()


def _softened_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    divergence = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return temperature**2 * divergence
