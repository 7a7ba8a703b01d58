"""The loss of fine-tuning against formulas worked by hand."""

import math

import pytest
import torch

from workers.pruning.graph.head import Head
from workers.pruning.training.objective import SCALE, Objective
from workers.pruning.training.recipe import Recipe


def recipe(**changes):
    """A recipe of which only the loss matters."""
    plain = {
        "steps": 1, "batch_size": 2, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "distillation": 1.0,
        "temperature": None, "head": Head.LOGITS, "loss": "",
    }  # fmt: skip
    return Recipe(**{**plain, **changes})


TEACHER = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # centred, variance 1


def test_equal_answers_cost_nothing():
    """A student that answers as the teacher has no loss."""
    assert Objective(recipe(), [TEACHER])([TEACHER], [TEACHER], None).item() == 0.0


def test_squared_error_over_variance():
    """Logits twice as large as the teacher's differ by 1 in each centred logit: loss 1 x scale, by hand."""
    loss = Objective(recipe(), [TEACHER])([2 * TEACHER], [TEACHER], None)

    assert loss.item() == pytest.approx(SCALE)


def test_a_constant_on_all_logits_does_not_matter():
    """Softmax ignores a constant, and so does the loss."""
    loss = Objective(recipe(), [TEACHER])([TEACHER + 5.0], [TEACHER], None)

    assert loss.item() == pytest.approx(0.0, abs=1e-9)


def test_size_of_the_logits_does_not_matter():
    """Teacher and student a hundred times larger give the same loss."""
    small = Objective(recipe(), [TEACHER])([0.5 * TEACHER], [TEACHER], None)
    large = Objective(recipe(), [100 * TEACHER])([50 * TEACHER], [100 * TEACHER], None)

    assert small.item() == pytest.approx(large.item())


def test_probabilities_are_compared_as_logits():
    """Behind a softmax the loss is that of the logits before it."""
    student = torch.tensor([[0.5, 0.0], [0.0, 0.3]])
    behind = Objective(recipe(head=Head.PROBABILITIES), [TEACHER.softmax(1)])
    loss = behind([student.softmax(1)], [TEACHER.softmax(1)], None)

    assert Objective(recipe(), [TEACHER])([student], [TEACHER], None).item() == pytest.approx(loss.item(), rel=1e-5)


def test_temperature_takes_the_softened_divergence():
    """At temperature 2 a uniform student costs 4 x (log 2 - entropy of the softened teacher), by hand."""
    loss = Objective(recipe(temperature=2.0), [TEACHER])([torch.zeros(2, 2)], [TEACHER], None)
    p = 1 / (1 + math.exp(-1.0))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert loss.item() == pytest.approx(4 * (math.log(2) - entropy), rel=1e-5)


def test_labels_are_mixed_in_by_weight():
    """Weight 0 is cross-entropy alone, log 2 for a student that does not know; weight 1/2 is half of each."""
    labels, student = torch.tensor([0, 1]), torch.zeros(2, 2)
    apart = [Objective(recipe(distillation=w), [TEACHER])([student], [TEACHER], labels).item() for w in (0.0, 0.5, 1.0)]

    assert apart[0] == pytest.approx(math.log(2))
    assert apart[1] == pytest.approx((apart[0] + apart[2]) / 2)


def test_other_outputs_count_equally():
    """Two outputs of very different size weigh the same; integer outputs are passed over."""
    teacher = [TEACHER, 1000 * TEACHER, torch.tensor([1, 2])]
    objective = Objective(recipe(head=Head.OTHER), teacher)
    first = objective([2 * TEACHER, 1000 * TEACHER, torch.tensor([1, 2])], teacher, None)
    second = objective([TEACHER, 2000 * TEACHER, torch.tensor([1, 2])], teacher, None)

    assert first.item() == pytest.approx(second.item())
