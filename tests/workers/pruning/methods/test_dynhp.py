"""DynHP on small networks: within its memory budget, at the asked size, the same after a kill."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import task_of
from tests.workers.pruning.seeded import MIXED, answers, images, loaded
from workers.pruning.errors import InvalidDataset, OutOfMemory
from workers.pruning.graph import cost
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.find import find
from workers.pruning.methods.dynhp import dynhp
from workers.pruning.methods.regime import TrainingNeeded
from workers.pruning.methods.shrinking import Schedule, relative
from workers.pruning.surgery.cut import cut
from workers.pruning.training.samples import Samples
from workers.pruning.types import Budget, Keep, Metric, Phase


@dataclass(frozen=True)
class Stored:
    """Samples in an array."""

    images: np.ndarray

    def __len__(self):
        """How many."""
        return len(self.images)

    def take(self, indices):
        """Some of them."""
        return self.images[indices]


@pytest.fixture(scope="module")
def prepared():
    """Noisy copies of three pictures, enough of them that batches have room to grow; forty steps of 32."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=1200)
    pictures = rng.normal(size=(3, 3, 8, 8)) + rng.normal(size=(3, 3, 1, 1))
    rows = (Stored((pictures[labels] + rng.normal(size=(1200, 3, 8, 8))).astype(np.float32)),)
    train, held_out = (
        Samples(rows=rows, index=np.arange(start, stop), labels=labels[start:stop])
        for start, stop in ((0, 1000), (1000, 1200))
    )
    task = task_of(share=0.4, steps=40)
    data = replace(task.data, train=train, validation=held_out, kind="labelled", num_classes=3)
    return replace(task, data=data, reference=task.graph)


@pytest.fixture
def task(prepared):
    """With a journal of its own."""
    return replace(prepared, run=run_of())


@pytest.fixture(scope="module")
def reused(prepared):
    return dynhp(replace(prepared, run=run_of()))


def points(outcome, name):
    return [point[name] for point in outcome.facts["events"]]


def test_the_target_is_met_from_below(reused, prepared):
    """The final network has no more MACs than asked and at most one channel (a tenth of a layer) less."""
    limit = prepared.budgets[0].limit
    macs = points(reused, "macs")

    assert 0.85 * limit <= cost.count(reused.graph).macs <= limit
    assert macs == sorted(macs, reverse=True)
    assert len(macs) > 5
    assert reused.masked_vs_cut < 1e-4


def test_what_was_measured_is_what_was_predicted(reused):
    """What a real step held at the start of backward is within a tenth of the line drawn through two small batches."""
    for predicted, measured in zip(points(reused, "predicted_bytes"), points(reused, "measured_bytes"), strict=True):
        assert measured == pytest.approx(predicted, rel=0.1)


def test_the_budget_is_never_exceeded(reused):
    """From the first step to the last, with batches that grow, no step held more than the budget."""
    assert max(points(reused, "measured_bytes")) <= reused.facts["memory_budget_bytes"]


def test_batches_grow_and_never_shrink(reused):
    """Freed memory goes into the batch, by at most a factor of two at a time and in multiples of eight."""
    sizes = points(reused, "batch_size")

    assert sizes[0] == 32
    assert sizes[-1] > 32
    assert all(before <= after <= 2 * before for before, after in pairwise(sizes))
    assert all(size % 8 == 0 for size in sizes)
    assert reused.facts["steps"] < 40


def test_freed_memory_stays_free_if_asked(task):
    """Without reuse the batch is constant and what training holds falls from event to event."""
    outcome = dynhp(task, reuse_memory=False)
    held = points(outcome, "measured_bytes")

    assert set(points(outcome, "batch_size")) == {32}
    assert held == sorted(held, reverse=True)
    assert held[-1] < 0.75 * held[0]
    assert outcome.facts["steps"] == 40


def test_a_small_budget_makes_the_first_batch_small(task, reused):
    """With two thirds of the usual memory the first batch is smaller; it may grow behind that."""
    budget = int(reused.facts["memory_budget_bytes"] * 2 / 3)
    outcome = dynhp(task, memory_budget_bytes=budget)

    assert points(outcome, "batch_size")[0] < 32
    assert max(points(outcome, "measured_bytes")) <= budget


def test_a_budget_that_holds_no_step_is_refused(task):
    """A kilobyte holds nothing; the message states what eight samples need."""
    with pytest.raises(OutOfMemory, match="or more"):
        dynhp(task, memory_budget_bytes=1024)


def test_several_budgets_hold_together(task):
    """MACs and parameters are both limited, and both hold."""
    before = cost.count(task.graph)
    budgets = (
        Budget(metric=Metric.MACS, limit=0.6 * before.macs),
        Budget(metric=Metric.PARAMS, limit=0.5 * before.params),
    )
    after = cost.count(dynhp(replace(task, budgets=budgets)).graph)

    assert after.macs <= budgets[0].limit
    assert after.params <= budgets[1].limit


def test_from_scratch_learns_the_labels(prepared):
    """Uploaded weights are forgotten and the classes of the samples learned: better than always the largest class."""
    task = replace(prepared, run=run_of(), finetune=replace(prepared.finetune, steps=80))
    outcome = dynhp(task, from_scratch=True)
    shares = np.bincount(task.data.validation.labels) / len(task.data.validation)

    assert outcome.finetuned.recipe.loss == "cross-entropy"
    assert outcome.stages[0].evaluation.accuracy > shares.max() + 0.05


def test_from_scratch_needs_labels():
    """Made-up samples have none; the message says what to do instead."""
    with pytest.raises(InvalidDataset, match="uploaded weights"):
        dynhp(task_of(steps=4), from_scratch=True)


def test_it_needs_training(task):
    """Steps 0 leaves nothing in which channels could go."""
    with pytest.raises(TrainingNeeded, match="another method"):
        dynhp(replace(task, finetune=replace(task.finetune, steps=0)))


@pytest.mark.parametrize("die_at", [0.03, 0.3, 0.8])
def test_a_killed_job_ends_with_the_same_bytes(task, reused, die_at):
    """Killed before the first event, between events or behind the last, it ends as if nothing had happened."""
    journal = KeptInMemory()
    with pytest.raises(Killed):
        dynhp(replace(task, run=run_of(journal=journal, report=Watch(Phase.FINETUNE, die_at), tick=20.0)))
    assert journal.memos
    resumed = dynhp(replace(task, run=run_of(journal=journal)))

    assert to_bytes(resumed.graph) == to_bytes(reused.graph)
    assert resumed.facts == reused.facts


def test_slices_lead_from_one_cut_to_the_next():
    """Weights cut once and then by the relative positions are the weights cut at once, on every axis of every kind."""
    graph = loaded(MIXED)
    grouping = find(graph)
    rng = np.random.default_rng(0)
    first, second = np.ones(grouping.num_units, np.bool_), np.ones(grouping.num_units, np.bool_)
    for group in grouping.groups:
        order = rng.permutation(np.arange(group.start, group.stop))
        first[order[: group.width // 3]] = False
        second[order[: group.width // 2]] = False
    once, twice = (cut(graph, grouping, Keep(mask=mask)) for mask in (first, second))
    slices = relative(grouping, Keep(mask=first), Keep(mask=second))
    for name, value in twice.graph.initializers.items():
        array = once.graph.initializers[name].const_value.numpy()
        for axis, kept in slices.get(name, {}).items():
            array = array.take(kept, axis)
        if array.dtype == np.float32:
            np.testing.assert_array_equal(array, value.const_value.numpy())


def test_normalisations_put_back_for_training_are_gone_from_the_result(reused, prepared):
    """The result has the operators of the upload, and ONNX Runtime runs it."""
    operators = [node.op_type for node in reused.graph.graph]

    assert operators == [node.op_type for node in prepared.graph.graph]
    assert answers(reused.graph, images(4))[0].shape == (4, 3)


def test_the_schedule_is_cubic_and_ends_at_the_target():
    """Half way through the window an eighth of the removable share is left; at its end nothing is."""
    schedule = Schedule(start=0.1, stop=0.5, interval=0.1)
    budget = Budget(metric=Metric.MACS, limit=20.0)
    limits = [schedule.budgets(at, {Metric.MACS: 100}, (budget,))[0].limit for at in (0.1, 0.3, 0.5, 0.9)]

    assert limits == pytest.approx([100.0, 30.0, 20.0, 20.0])
    assert [schedule.due(at) for at in (0.0, 0.1, 0.25, 0.5, 1.0)] == [0, 1, 2, 5, 5]
    assert schedule.count == 5


def test_narrow_layers_learn_faster_from_scratch(prepared):
    """The rate grows with every cut, to no more than twice that of the recipe; without scaling it does not."""
    outcome, constant = (
        dynhp(replace(prepared, run=run_of()), from_scratch=True, reuse_memory=False, scale_learning_rate=scaled)
        for scaled in (True, False)
    )
    rate = outcome.finetuned.recipe.learning_rate
    reached = [point["learning_rate"] for point in outcome.facts["events"] if 0.05 < point["fraction"] < 0.6]
    most = min(2.0, outcome.keep.mask.mean() ** -0.5)

    assert reached == sorted(reached)
    assert rate < reached[-1] <= most * rate * (1 + 1e-9)
    assert max(points(constant, "learning_rate")) == rate


def test_the_first_rate_is_one_that_the_network_bears(prepared):
    """From scratch it is at most 0.05; a rate that the job names is taken as it is."""
    named = replace(prepared.finetune, learning_rate=0.013)
    found = [
        dynhp(replace(prepared, run=run_of(), finetune=settings), from_scratch=True).finetuned.recipe.learning_rate
        for settings in (prepared.finetune, named)
    ]

    assert found[0] <= 0.05
    assert found[1] == 0.013
