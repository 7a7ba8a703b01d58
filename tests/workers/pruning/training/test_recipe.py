"""What fine-tuning chooses where nothing was asked."""

from dataclasses import replace

import pytest

from workers.pruning.graph.head import Head
from workers.pruning.training.recipe import FinetuneSettings, Workload, choose

# ResNet-56 at half its MACs: 63 and 126 million MACs, 4,000 images.
RESNET56 = Workload(
    student_macs=63_000_000,
    teacher_macs=126_000_000,
    num_nodes=300,
    activation_bytes=8 << 20,
    num_samples=4000,
    labelled=True,
    device="cpu",
)


def test_nothing_asked_is_the_measured_recipe():
    """Without settings the rate, batch and loss are those that were measured, and labels are not used."""
    recipe = choose(FinetuneSettings(), RESNET56, Head.LOGITS)

    assert (recipe.batch_size, recipe.learning_rate, recipe.distillation) == (128, 0.01, 1.0)
    assert "cross-entropy" not in recipe.loss


def test_what_was_asked_is_used():
    """Every setting that is given is used as given."""
    asked = FinetuneSettings(steps=7, batch_size=16, learning_rate=0.5, distillation=0.25, temperature=3.0)
    recipe = choose(asked, RESNET56, Head.LOGITS)

    assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (7, 16, 0.5)
    assert recipe.loss == "0.25 x Kullback-Leibler divergence at temperature 3 + 0.75 x cross-entropy"


def test_epochs_become_steps():
    """Two epochs of 4,000 images in whole batches of 128 are 2 x 31 steps."""
    assert choose(FinetuneSettings(epochs=2), RESNET56, Head.LOGITS).steps == 62


def test_larger_networks_get_fewer_steps():
    """The default spends the same work, so ten times the MACs give fewer steps."""
    larger = replace(RESNET56, student_macs=10 * RESNET56.student_macs, teacher_macs=10 * RESNET56.teacher_macs)

    assert (
        choose(FinetuneSettings(), larger, Head.LOGITS).steps < choose(FinetuneSettings(), RESNET56, Head.LOGITS).steps
    )


def test_batches_fit_into_memory_and_the_rate_follows():
    """A network with 64 MiB of values per sample gets batches of 32, and half the rate: sqrt(32 / 128)."""
    recipe = choose(FinetuneSettings(), replace(RESNET56, activation_bytes=64 << 20), Head.LOGITS)

    assert recipe.batch_size == 32
    assert recipe.learning_rate == pytest.approx(0.005)


def test_batch_never_exceeds_the_data():
    """Fifty samples are one batch of fifty."""
    assert choose(FinetuneSettings(), replace(RESNET56, num_samples=50), Head.LOGITS).batch_size == 50


def test_without_labels_there_is_no_cross_entropy():
    """A weight for labels means nothing where there are none."""
    recipe = choose(FinetuneSettings(distillation=0.5), replace(RESNET56, labelled=False), Head.LOGITS)

    assert recipe.distillation == 1.0


def test_other_heads_have_no_temperature():
    """Outputs that are no class scores are distilled by their squared error whatever was asked."""
    recipe = choose(FinetuneSettings(temperature=2.0, distillation=0.5), RESNET56, Head.OTHER)

    assert (recipe.temperature, recipe.distillation) == (None, 1.0)
