"""What methods share: calibration data, recorded scores, and statistics of what stays."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import seeded
from workers.pruning.graph import cost, head, load
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.methods import METHODS, steps
from workers.pruning.methods.task import Task
from workers.pruning.training.data import synthetic
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Keep, Metric, Scores, TensorSpec

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 3, 8, 8] x, float[6, 3, 3, 3] w1, float[6] b1, float[4, 6, 3, 3] w2, float[4] b2, float[3, 4] w3,
       float[3] b3) => (float[N, 3] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
  e = Relu (d)
  f = GlobalAveragePool (e)
  g = Flatten (f)
  y = Gemm <transB = 1> (g, w3, b3)
}
"""


@pytest.fixture
def task():
    graph = load.load(to_bytes(seeded(CHAIN)))
    grouping = find(graph)
    return Task(
        uploaded=graph,
        graph=graph,
        head=head.find(graph),
        data=synthetic(graph, [TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8))], seed=0, num_samples=100),
        grouping=grouping,
        cost_model=cost_model(graph, grouping),
        budgets=(Budget(metric=Metric.MACS, limit=0.6 * cost.count(graph).macs),),
        finetune=FinetuneSettings(steps=0),
        run=run_of(),
        reference=graph,
        round_to=1,
    )


def test_calibration_never_sees_held_out_samples(task):
    """Calibration inputs are distinct training samples, and no held-out sample is among them."""
    drawn = np.concatenate([batch[0] for batch in steps.calibration_batches(task, 512)])
    held_out = task.data.validation.batch(np.arange(len(task.data.validation)))[0]
    seen = {image.tobytes() for image in drawn}

    assert len(seen) == len(task.data.train) == 90
    assert not seen & {image.tobytes() for image in held_out}


def test_calibration_takes_as_many_as_asked(task):
    """Forty samples in batches of at most 64, other ones for another seed."""
    one, other = (steps.calibration_batches(replace(task, run=run_of(seed=seed)), 40)[0][0] for seed in (0, 1))

    assert len(one) == len(other) == 40
    assert not np.array_equal(one, other)


def test_scores_are_computed_once(task):
    """A second attempt takes the recorded scores, value for value."""
    scores = Scores(values=np.array([0.1, 0.2]), source="by hand")
    steps.remembered_scores(task, lambda: scores)
    recalled = steps.remembered_scores(task, lambda: pytest.fail("computed again"))

    assert recalled.source == "by hand"
    assert recalled.values.tolist() == [0.1, 0.2]


def test_statistics_follow_what_stays(task):
    """Of six channels the second and last go, and so do their mean and variance."""
    mask = np.ones(task.grouping.num_units, np.bool_)
    units = task.grouping.value_axes["a"][1]
    mask[units[[1, 5]]] = False
    statistics = {"a": (np.arange(6.0), np.arange(6.0) + 1)}
    mean, variance = steps.kept_statistics(task.graph, task.grouping, Keep(mask=mask), statistics)["a"]

    assert mean.tolist() == [0.0, 2.0, 3.0, 4.0]
    assert variance.tolist() == [1.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dynhp", "taylor"}))  # these train, and have own stages
def test_methods_meet_the_budget_and_keep_their_input(task, name):
    """Every method gives a network within the budget and leaves the one it was given as it was."""
    before = cost.count(task.graph)
    outcome = METHODS[name](task, **({"evaluations": 20} if name == "lcp" else {}))

    assert cost.count(outcome.graph).macs <= task.budgets[0].limit
    assert cost.count(task.graph) == before
    assert [stage.name for stage in outcome.stages] == ["raw", "compensated"]
    assert outcome.masked_vs_cut < 1e-4


@pytest.mark.parametrize(("num_steps", "passes"), [(2, 2), (8, 1)])
def test_training_of_less_than_the_data_is_hastened(task, num_steps, passes):
    """90 samples in batches of 32: two steps see some of them, and each view twice; eight see all, and each once."""
    short = replace(task, finetune=FinetuneSettings(steps=num_steps, batch_size=32))
    _, finetuned = steps.train(short, task.graph, steps.calibration_batches(task, 64))

    assert finetuned.recipe.passes == passes
