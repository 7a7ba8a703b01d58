"""Latencies aimed at on devices drawn from seeds, of which the layers tell less than the truth."""

from dataclasses import replace
from functools import cache

import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.latency.shapes import NETWORKS
from tests.workers.pruning.latency.uncertain import KINDS, UncertainDevice
from tests.workers.pruning.seeded import loaded
from workers.pruning.allocation.budget import cost
from workers.pruning.allocation.rank import allocate
from workers.pruning.allocation.timed import allocate_between
from workers.pruning.errors import TargetUnreachable
from workers.pruning.graph import head
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.methods import latency_loop
from workers.pruning.methods.latency_loop import CORRECTIONS
from workers.pruning.methods.task import Task
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.surgery.cut import cut
from workers.pruning.training.data import synthetic
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import LatencyBudget, TensorSpec

# The ratio of two medians of 32 samples that are off by 2 % is off by 0.6 %; it was three times as much at most.
NOISE = 0.02


@cache
def prepared(name):
    """A network as a task, and its scores."""
    graph = loaded(NETWORKS[name])
    specs = [TensorSpec(name="x", dtype="float32", shape=("N", 3, 16, 16))]
    grouping = find(graph)
    task = Task(
        uploaded=graph,
        graph=graph,
        head=head.find(graph),
        data=synthetic(graph, specs, seed=0, num_samples=8),
        grouping=grouping,
        cost_model=cost_model(graph, grouping),
        budgets=(),
        finetune=FinetuneSettings(steps=0),
        run=run_of(),
        reference=graph,
    )
    return task, magnitude(graph, grouping)


def settled(name, device, ratio):
    """Aim at a share of the latency; gives the facts and what the device truly takes, of its target."""
    task, scores = prepared(name)
    budget = LatencyBudget(device=device.device, ratio=ratio)
    task = replace(task, run=replace(run_of(), stopwatches={device.device: device}), latency_budgets=(budget,))

    def plan(limits, between=None):
        known = scores, task.grouping, task.cost_model, task.budgets
        if between is None:
            return allocate(*known, alpha=1.0, min_keep=task.min_keep, limits=limits)
        return allocate_between(*known, limits, alpha=1.0, between=between)

    found = latency_loop.settle(task, plan)
    smaller = to_bytes(cut(task.graph, task.grouping, found.keep))
    share = device.truth(smaller) / device.truth(to_bytes(task.graph))
    return found.facts[device.device], share / ratio


def landed(name, seed, ratio):
    """Whether the window was reached in time; what is claimed is true in any case."""
    device = UncertainDevice.drawn(seed)
    try:
        facts, true = settled(name, device, ratio)
    except TargetUnreachable as refusal:
        assert "smallest" in str(refusal)
        return False
    assert facts["met"] == (facts["reached_ms"] <= facts["target_ms"])
    assert true <= 1 + NOISE
    assert facts["corrections"] == len(facts["plans"]) - 1
    return facts["within_window"] and facts["corrections"] <= CORRECTIONS


def landings(cases):
    """The share of cases that landed."""
    return sum(landed(*case) for case in cases) / len(cases)


def test_the_window_is_reached_on_devices_that_the_model_is_wrong_about():
    """Operators off by up to twice, costs of nodes and of widths off the step, a pace that changes, 2 % of noise."""
    names = ("plain", "mobile", "plain", "residual")

    assert landings([(names[seed % 4], seed, 0.5) for seed in range(12)]) >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["plain", "residual", "mobile"])
def test_the_window_is_reached_on_a_hundred_devices(name):
    """In at least 95 of 100 cases; the others say what they reached, or the smallest that was measured."""
    assert landings([(name, seed, 0.5) for seed in range(40)]) >= 0.95


@pytest.mark.parametrize(
    ("name", "ratio", "off_step", "before"),
    # Plans in halves and quarters of steps kept 0.387 of the MACs, 0.383 and out of the window, and found no plan.
    [("plain", 0.5, 1.3, 0.387), ("wide", 0.5, 1.0, 0.383), ("mobile", 0.4, 1.6, 0.0)],
)
def test_a_device_of_stairs_gets_plans_on_its_steps(name, ratio, off_step, before):
    """A device computes in blocks of 16, and other widths cost more: the window is reached without them."""
    factors = dict.fromkeys(KINDS, 1.0)
    device = UncertainDevice(block=16, step=16, off_step=off_step, noise=0.003, pace=0.1, factors=factors)

    facts, true = settled(name, device, ratio)

    task, _ = prepared(name)
    steps = {one["group"]: one["step"] for one in facts["groups"]}
    kept = [(facts["kept"][group.id], steps[group.id], group.width) for group in task.grouping.groups]
    assert all(width % step == 0 or width == full for width, step, full in kept)
    assert facts["within_window"]
    assert facts["corrections"] <= CORRECTIONS
    assert true <= 1 + NOISE
    left, full = (cost(task.cost_model, kept).macs for kept in (tuple(facts["kept"].values()), task.cost_model.widths))
    assert left / full > before


def test_where_no_width_lies_in_the_window_the_nearest_that_holds_is_taken():
    """Four groups in blocks of 16 reach few times; nothing is measured that is not predicted to be nearer."""
    facts, true = settled("wide", UncertainDevice.drawn(0), 0.5)

    assert facts["met"]
    assert not facts["within_window"]
    assert true <= 1 + NOISE
    assert facts["corrections"] <= CORRECTIONS
