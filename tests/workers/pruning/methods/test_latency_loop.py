"""A latency as the target: the closed loop on simulated devices, and once on this machine."""

from dataclasses import replace

import pytest

from tests.workers.pruning.journals import KeptInMemory, run_of
from tests.workers.pruning.latency.laws import LawDevice
from tests.workers.pruning.latency.network import WIDE
from tests.workers.pruning.methods.tasks import task_of
from tests.workers.pruning.surgery.keeps import widths
from workers.pruning.errors import DeviceGone, LatencyNotAimedAt, TargetUnreachable
from workers.pruning.measure.stopwatch import LocalStopwatch
from workers.pruning.methods import METHODS, require_aim
from workers.pruning.types import Budget, LatencyBudget, Metric

WIDE_TASK = WIDE.replace("3, 16, 16] x", "3, 8, 8] x").replace("b3", "b8").replace("b7", "b3")  # the logits' bias


def task_on(*devices, ratio=0.5, limit_ms=None, steps=0, **changes):
    """A task whose target is a latency on these devices."""
    budget = {"limit_ms": limit_ms} if limit_ms is not None else {"ratio": ratio}
    run = replace(run_of(**changes), stopwatches={device.device: device for device in devices})
    task = task_of(WIDE_TASK, run=run, steps=steps, num_samples=40)
    budgets = tuple(LatencyBudget(device=device.device, **budget) for device in devices)
    return replace(task, budgets=(), round_to=None, latency_budgets=budgets)


@pytest.mark.parametrize(
    "device",
    [
        LawDevice(block=8),
        LawDevice(block=16, network_factor=1.3, call_ms=0.002),
        LawDevice(block=4, grouped_ns=2.0, element_ns=2.0, network_factor=0.8),
        LawDevice(block=8, batch=16),
    ],
    ids=["blocks of 8", "slow networks", "slow depthwise", "batches"],
)
def test_the_target_is_met_within_five_percent_in_three_corrections(device):
    """Whatever the sum of layers leaves out, measured plans put it right."""
    task = task_on(device, ratio=0.6)

    outcome = METHODS["magnitude"](task)

    facts = outcome.facts["latency"][device.device]
    assert facts["met"]
    assert facts["within_window"]
    assert 0.95 * facts["target_ms"] <= facts["reached_ms"] <= facts["target_ms"]
    assert facts["target_ms"] == pytest.approx(0.6 * facts["original_ms"])
    assert facts["corrections"] <= 3
    assert len(facts["plans"]) == facts["corrections"] + 1


@pytest.mark.parametrize("method", ["auto", "random", "easiedge", "lcp"])
def test_methods_that_rank_aim_at_a_latency(method):
    """The loop is the same for all of them."""
    device = LawDevice()
    options = {"evaluations": 6} if method == "lcp" else {}

    outcome = METHODS[method](task_on(device, ratio=0.6), **options)

    assert outcome.facts["latency"][device.device]["met"]


def test_methods_that_decide_in_rounds_refuse_by_name():
    """The refusal says which methods can."""
    task = task_on(LawDevice())

    with pytest.raises(LatencyNotAimedAt, match=r"found dynhp; allowed auto, easiedge"):
        require_aim("dynhp", task)
    require_aim("auto", task)
    require_aim("dynhp", replace(task, latency_budgets=()))


def test_plans_for_two_devices_differ_for_a_reason():
    """One device is slow at depthwise layers, the other at dense ones; the facts say so."""
    slow_depthwise, slow_dense = LawDevice(grouped_ns=30.0), LawDevice(dense_ns=0.2)

    first, second = (METHODS["magnitude"](task_on(device, ratio=0.6)) for device in (slow_depthwise, slow_dense))

    groups = task_on(slow_dense).grouping
    assert widths(groups, first.keep) != widths(groups, second.keep)
    reasons = [outcome.facts["latency"]["dev_law"]["layers"][0] for outcome in (first, second)]
    assert "c5" == reasons[0]["layer"]  # the depthwise layer
    assert reasons[1]["layer"] in {"c2", "c3"}


def test_one_plan_holds_on_two_devices():
    """With a target on each of two devices the network is measured on both."""
    devices = LawDevice(device="a"), LawDevice(device="b", grouped_ns=5.0)

    facts = METHODS["magnitude"](task_on(*devices, ratio=0.6)).facts["latency"]

    assert facts["a"]["met"]
    assert facts["b"]["met"]
    assert facts["a"]["within_window"] or facts["b"]["within_window"]


def test_a_budget_holds_beside_the_latency():
    """Parameters are limited too; they bind here, and the latency is under its target."""
    task = task_on(LawDevice(), ratio=0.9)
    task = replace(task, budgets=(Budget(metric=Metric.PARAMS, limit=20_000.0),))

    outcome = METHODS["magnitude"](task)

    assert outcome.facts["latency"]["dev_law"]["met"]
    assert sum(v.const_value.size for v in outcome.graph.graph.initializers.values()) <= 20_100


def test_out_of_reach_says_the_smallest_measured():
    """The smallest network is measured before a target is refused."""
    with pytest.raises(TargetUnreachable, match=r"at dev_law; found smallest measured .* ms \(\d+% of the original\)"):
        METHODS["magnitude"](task_on(LawDevice(call_ms=1.0), ratio=0.5))


def test_a_milder_target_lies_between_it_and_the_original():
    """With an accuracy floor, a target that costs too much is relaxed by a share of the way."""
    task = task_on(LawDevice(), ratio=0.4)
    milder = replace(task, latency_budgets=(replace(task.latency_budgets[0], relaxed_by=0.5),))

    facts = METHODS["magnitude"](milder).facts["latency"]["dev_law"]

    assert facts["target_ms"] == pytest.approx(0.7 * facts["original_ms"])


def test_a_resumed_attempt_asks_the_device_nothing():
    """What was settled is in the journal, and the result is the same."""
    journal, device = KeptInMemory(), LawDevice()
    first = METHODS["magnitude"](task_on(device, ratio=0.6, journal=journal))
    device.asked.clear()

    second = METHODS["magnitude"](task_on(device, ratio=0.6, journal=journal))

    assert not device.asked
    assert (first.keep.mask == second.keep.mask).all()
    assert first.facts == second.facts


def test_a_device_without_a_stopwatch_is_named():
    """A target on a device that the run does not know fails before anything is measured."""
    task = replace(task_on(LawDevice()), latency_budgets=(LatencyBudget(device="dev_x", ratio=0.5),))

    with pytest.raises(DeviceGone, match=r"at dev_x; allowed dev_law"):
        METHODS["magnitude"](task)


def test_this_machine_is_aimed_at():
    """On a real processor, however busy it is, the loop ends with a measured network that is faster."""
    device = LocalStopwatch(layer_seconds=0.2, network_seconds=0.3)

    facts = METHODS["magnitude"](task_on(device, ratio=0.7)).facts["latency"]["dev_local"]

    assert facts["reached_ms"] < facts["original_ms"]
    assert facts["rows_asked"] == len(device.rows) > 0
