"""Fine-tuning on a small residual network: it learns, repeats itself, resumes, and refuses nonsense."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.seeded import seeded
from workers.pruning.errors import TrainingDiverged
from workers.pruning.graph.head import Head
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.training.data import synthetic
from workers.pruning.training.loop import finetune
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Phase, TensorSpec

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
residual (float[N, 3, 16, 16] x, float[8, 3, 3, 3] w1, float[8] scale1, float[8] b1, float[8] m1, float[8] var1,
          float[8, 8, 3, 3] w2, float[8] scale2, float[8] b2, float[8] m2, float[8] var2, float[5, 8] w3, float[5] b3)
    => (float[N, 5] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1)
  c = BatchNormalization (a, scale1, b1, m1, var1)
  d = Relu (c)
  e = Conv <pads = [1, 1, 1, 1]> (d, w2)
  f = BatchNormalization (e, scale2, b2, m2, var2)
  g = Add (d, f)
  h = Relu (g)
  i = GlobalAveragePool (h)
  j = Flatten (i)
  y = Gemm <transB = 1> (j, w3, b3)
}
"""
SETTINGS = FinetuneSettings(steps=24, batch_size=32)


@pytest.fixture(scope="module")
def teacher():
    return seeded(RESIDUAL, seed=1)


@pytest.fixture(scope="module")
def student(teacher):
    """The teacher with noise on its filters."""
    rng = np.random.default_rng(2)
    noisy = {
        name: array * (1 + 0.3 * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in weights(teacher).items()
        if name.startswith("w")
    }
    return replace_weights(teacher, noisy)


@pytest.fixture(scope="module")
def data(teacher):
    return synthetic(teacher, [TensorSpec(name="x", dtype="float32", shape=("N", 3, 16, 16))], seed=0, num_samples=160)


def test_it_learns_to_answer_as_the_original(teacher, student, data):
    """The loss on stored training samples falls to less than half, and the graph given stays as it was."""
    before = to_bytes(student)
    done = finetune(student, teacher, data, replace(SETTINGS, steps=60), run_of())

    assert done.loss_after < done.loss_before / 2
    assert before == to_bytes(student)
    assert to_bytes(done.graph) != before


def test_running_statistics_are_trained(teacher, student, data):
    """BatchNormalization is in training mode, so its stored mean moves."""
    done = finetune(student, teacher, data, SETTINGS, run_of())

    assert not np.array_equal(weights(student)["m1"], weights(done.graph)["m1"])


def test_the_same_seed_gives_the_same_bytes(teacher, student, data):
    """Two runs with one seed are byte-identical; another seed gives others."""
    done = [to_bytes(finetune(student, teacher, data, SETTINGS, run_of(seed=seed)).graph) for seed in (3, 3, 4)]

    assert done[0] == done[1]
    assert done[0] != done[2]


@pytest.mark.parametrize("die_at", [0.2, 0.5, 0.97])
def test_a_killed_run_ends_with_the_same_bytes(teacher, student, data, die_at):
    """A run that died and resumed gives the bytes and the curve of one that was never disturbed."""
    undisturbed = finetune(student, teacher, data, SETTINGS, run_of())
    journal = KeptInMemory()
    with pytest.raises(Killed):
        finetune(
            student, teacher, data, SETTINGS, run_of(journal=journal, tick=3, report=Watch(Phase.FINETUNE, die_at))
        )
    recorded = journal.memos["finetune"].state["step"]
    watch = Watch()
    resumed = finetune(student, teacher, data, SETTINGS, run_of(journal=journal, report=watch))

    assert 0 < recorded < SETTINGS.steps
    assert len(watch.heard) == SETTINGS.steps - recorded
    assert to_bytes(undisturbed.graph) == to_bytes(resumed.graph)
    assert undisturbed.curve == resumed.curve


def test_a_finished_run_is_not_repeated(teacher, student, data):
    """With the record of the last step, no step is taken again and the result is the same."""
    journal, watch = KeptInMemory(), Watch()
    first = finetune(student, teacher, data, SETTINGS, run_of(journal=journal))
    second = finetune(student, teacher, data, SETTINGS, run_of(journal=journal, report=watch))

    assert watch.heard == []
    assert to_bytes(first.graph) == to_bytes(second.graph)


def test_progress_says_step_loss_and_time_left(teacher, student, data):
    """Every step is reported, with a fraction that ends at 1 and nothing left to wait for."""
    watch = Watch()
    finetune(student, teacher, data, SETTINGS, run_of(report=watch))
    fractions = [fraction for _, fraction, _, _ in watch.heard]
    metrics = watch.heard[-1][3]

    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert metrics["step"] == SETTINGS.steps
    assert metrics["eta_seconds"] == 0.0
    assert np.isfinite(metrics["loss"])


def test_divergence_is_refused_with_advice(teacher, student, data):
    """A rate that makes the loss infinite ends the run with the step and what to change."""
    with pytest.raises(TrainingDiverged, match=r"step \d+ of 24.*Set finetune.learning_rate below"):
        finetune(student, teacher, data, replace(SETTINGS, learning_rate=1e30), run_of())


def test_training_that_does_not_help_is_undone(teacher, data):
    """A network that already answers as the original comes back untouched."""
    done = finetune(teacher, teacher, data, replace(SETTINGS, steps=3, learning_rate=1.0), run_of())

    assert not done.improved
    assert done.graph is teacher


def test_labels_are_used_on_request(teacher, student, data):
    """With distillation 0 the network learns labels that contradict the original."""
    labels = np.zeros(len(data.train), np.int64)
    labelled = replace(data, train=replace(data.train, labels=labels), kind="labelled")
    done = finetune(student, teacher, labelled, replace(SETTINGS, steps=60, distillation=0.0), run_of())

    assert done.recipe.loss == "cross-entropy"
    assert done.loss_after < done.loss_before


def test_maps_are_distilled_too(data):
    """A network whose output is no classification learns by the squared error of its outputs."""
    text = RESIDUAL.replace("(float[N, 5] y)", "(float[N, 8, 16, 16] y)").replace("h = Relu (g)", "y = Relu (g)")
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("i =", "j =", "y = Gemm")))
    text = text.replace(", float[5, 8] w3, float[5] b3", "")
    original = seeded(text, seed=1)
    noisy = replace_weights(original, {"w1": weights(original)["w1"] * np.float32(0.7)})
    done = finetune(noisy, original, data, SETTINGS, run_of(), head=Head.OTHER)

    assert done.loss_after < done.loss_before
    assert (done.recipe.max_shift, done.recipe.flip) == (0, False)
