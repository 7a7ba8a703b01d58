"""Every method on every kind of answer: within a hundredth under its target where channels allow it, never above."""

from dataclasses import replace

import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.methods.tasks import CHAIN, task_of
from workers.pruning.allocation.budget import cost as cost_at
from workers.pruning.graph import cost
from workers.pruning.methods import METHODS

LAST = "y = Gemm <transB = 1> (g, w3, b3)"
HEADS = {
    "logits": CHAIN,
    "independent labels": CHAIN.replace(LAST, "z = Gemm <transB = 1> (g, w3, b3)\n  y = Sigmoid (z)"),
    "numbers": CHAIN.replace(LAST, "z = Gemm <transB = 1> (g, w3, b3)\n  y = Tanh (z)"),
    "maps": CHAIN.replace("(float[N, 3] y)", "(float[N, 10, 8, 8] y)")
    .replace(", float[10] b2,\n       float[3, 10] w3, float[3] b3)", ", float[10] b2)")
    .replace(f"\n  f = GlobalAveragePool (e)\n  g = Flatten (f)\n  {LAST}", "")
    .replace("e = Relu (d)", "y = Relu (d)"),
}
OPTIONS = {
    "easiedge": {"rounds": 2, "steps_per_round": 2, "calibration_samples": 64},
    "lcp": {"evaluations": 8, "calibration_samples": 64},
    "taylor": {"share_per_round": 0.2, "ranking_samples": 64, "max_accuracy_drop": 1.0},
}
SHARE = 0.6


def landing(task, method):
    """MACs of the result over the limit, and the least that the smallest channel of the original is worth of it."""
    outcome = METHODS[method](task, **OPTIONS.get(method, {}))
    limit = task.budgets[0].limit
    widths = task.cost_model.widths
    smallest = min(
        cost_at(task.cost_model, widths).macs
        - cost_at(task.cost_model, tuple(w - (i == n) for i, w in enumerate(widths))).macs
        for n in range(len(widths))
    )
    return cost.count(outcome.graph).macs / limit, smallest / limit


@pytest.mark.parametrize("method", sorted(METHODS))
def test_classifiers_land_under_the_target(method):
    """No more than the target, and less by no more than a hundredth and the smallest channel."""
    task = replace(task_of(labelled=True, share=SHARE, steps=8), round_to=None, run=run_of())
    used, channel = landing(task, method)

    assert 1 - 0.01 - channel <= used <= 1


@pytest.mark.parametrize("head", ["independent labels", "numbers", "maps"])
@pytest.mark.parametrize("method", ["auto", "easiedge", "lcp"])
def test_other_answers_land_there_too(method, head):
    """Bernoulli, Gaussian and dense outputs have their own information gain and divergence."""
    task = task_of(HEADS[head], share=SHARE, steps=2)
    task = replace(task, round_to=None, data=replace(task.data, kind="unlabelled"), run=run_of())
    used, channel = landing(task, method)

    assert not task.head.is_classification
    assert 1 - 0.01 - channel <= used <= 1
