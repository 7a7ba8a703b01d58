"""What fine-tuning does: what was asked, what was chosen where nothing was asked, and what was used in the end.

The recipe was found by measurement on CIFAR ResNets (docs/benchmarks.md): distillation from the original network by
the squared error of centred logits, no cross-entropy, SGD with Nesterov momentum at 0.01, a cosine to zero over the
steps, batches of 128, trained BatchNormalization. Everything here is a function of its arguments: no clock, so that a
resumed run chooses the same.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Final

import onnx_ir as ir

from workers.pruning.graph.head import Head
from workers.pruning.graph.values import sample_elements
from workers.pruning.types import Json

LEARNING_RATE: Final = 0.01
BATCH_SIZE: Final = 128
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-4
BRIEF_FACTOR: Final = 2.0  # of the rate, within one pass over the data
BRIEF_PASSES: Final = 2
MIN_STEPS: Final = 40
MAX_STEPS: Final = 600
MAX_EPOCHS: Final = 30

# The work of the default budget, in multiply-adds. One core does about 1e11 a second on convolutions in bfloat16, so
# 9e12 is a minute and a half; a GPU does some hundred times as much.
WORK_MACS: Final = {"cpu": 9e12, "cuda": 6e14}
# What a step costs beside its arithmetic, as multiply-adds per node and step: small networks are bound by this.
NODE_MACS: Final = 5e7
ACTIVATION_BYTES: Final = 2 << 30  # of one batch, kept for the backward pass


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """What the job asked for; None means: choose.

    `distillation` is the weight of the original network against the labels: w x distillation + (1 - w) x
    cross-entropy. None is the measured recipe, which is w = 1. `temperature` selects the form of the distillation:
    None is the squared error of centred logits (the measured recipe), a number is the Kullback-Leibler divergence of
    the softened distributions times its square (Hinton et al. 2015). Networks without logits always use the squared
    error. `hastened` lets training that sees less than the whole data leave out what pays little in it (`_hastened`).
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    distillation: float | None = None
    temperature: float | None = None
    hastened: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Every figure that fine-tuning used."""

    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    distillation: float
    temperature: float | None
    head: Head
    loss: str
    flip: bool = False
    max_shift: int = 0
    precision: str = "float32"
    passes: int = 1  # over the same views, so that the original answers each once
    frozen: int = 0  # nodes in front that stay as they are

    def as_json(self) -> dict[str, Json]:
        """Give the recipe in the words of the report."""
        return {key: str(value) if isinstance(value, Head) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one sample costs to train on, and how many there are."""

    student_macs: int
    teacher_macs: int
    num_nodes: int
    activation_bytes: int
    num_samples: int
    labelled: bool
    device: str


def choose(settings: FinetuneSettings, workload: Workload, head: Head) -> Recipe:
    """Fill in what was not asked for; the same arguments give the same recipe.

    The rate falls with the square root of the batch, as the measured pairs (128, 0.01) and (32, 0.005) do.
    """
    batch_size = min(settings.batch_size or _batch_size(workload), workload.num_samples)
    learning_rate = settings.learning_rate or LEARNING_RATE * math.sqrt(min(batch_size, BATCH_SIZE) / BATCH_SIZE)
    distillation = 1.0 if settings.distillation is None or not workload.labelled else settings.distillation
    if not head.is_classification:
        distillation = 1.0
    temperature = settings.temperature if head.is_classification else None
    recipe = Recipe(
        steps=_steps(settings, workload, batch_size),
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        distillation=distillation,
        temperature=temperature,
        head=head,
        loss=_loss_in_words(head, distillation, temperature),
    )
    return _hastened(recipe, settings, workload.num_samples) if settings.hastened else recipe


def fallen(rate: float, fraction: float) -> float:
    """Give what is left of a rate after a fraction of its time: it falls to zero as a cosine."""
    return rate * 0.5 * (1.0 + math.cos(math.pi * fraction))


def activation_bytes(graph: ir.Model) -> int:
    """Give the bytes of all values of one sample, which is what a backward pass keeps; unknown axes count as one."""
    return 4 * sum(sample_elements(value) for node in graph.graph for value in node.outputs)


def _hastened(recipe: Recipe, settings: FinetuneSettings, num_samples: int) -> Recipe:
    """Give the recipe for less than one pass over the data, where time counts and little is to be forgotten.

    Twice the usual rate, unless one was asked for, and half the views, each seen twice: the original answers
    each only once. The front may stay as it is (`front.find_front`). Only where the original alone teaches.
    """
    if recipe.distillation < 1.0 or not recipe.head.is_classification or recipe.temperature is not None:
        return recipe
    if recipe.steps * recipe.batch_size > num_samples:
        return recipe
    rate = recipe.learning_rate * (BRIEF_FACTOR if settings.learning_rate is None else 1.0)
    return replace(recipe, learning_rate=rate, passes=BRIEF_PASSES)


def _batch_size(workload: Workload) -> int:
    batch_size = BATCH_SIZE
    while batch_size > 1 and batch_size * workload.activation_bytes > ACTIVATION_BYTES:
        batch_size //= 2
    return batch_size


def _steps(settings: FinetuneSettings, workload: Workload, batch_size: int) -> int:
    steps_per_epoch = max(1, workload.num_samples // batch_size)
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is not None:
        return max(1, round(settings.epochs * steps_per_epoch))
    # A backward pass costs twice its forward pass.
    step_macs = batch_size * (3 * workload.student_macs + workload.teacher_macs) + NODE_MACS * workload.num_nodes
    affordable = int(WORK_MACS[workload.device] / step_macs)
    return min(max(affordable, MIN_STEPS), MAX_STEPS, MAX_EPOCHS * steps_per_epoch)


def _loss_in_words(head: Head, distillation: float, temperature: float | None) -> str:
    if not head.is_classification:
        return "squared error of outputs over the original's variance"
    if temperature is None:
        soft = "squared error of centred logits over the original's variance"
    else:
        soft = f"Kullback-Leibler divergence at temperature {temperature:g}"
    if distillation >= 1.0:
        return soft
    if distillation <= 0.0:
        return "cross-entropy"
    return f"{distillation:g} x {soft} + {1 - distillation:g} x cross-entropy"
