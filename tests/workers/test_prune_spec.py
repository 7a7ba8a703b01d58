"""A stored job becomes what the engine is asked for."""

import pytest

from app.domain.methods import parse_spec
from workers.prune_spec import PruneSpec, Target, budgets, latency_budgets
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Cost, LatencyBudget, Metric

BEFORE = Cost(macs=1000, params=200, size_bytes=900, peak_activation_bytes=64)


def stored(**fields):
    """A job's spec as the service keeps it."""
    return parse_spec({"model": "mdl_1", **fields}).model_dump(mode="json")


def test_defaults_leave_everything_to_the_engine():
    """A job that says only its target asks for auto with nothing chosen."""
    spec = PruneSpec.from_json(stored(target="flops=50%"))

    assert spec.target_sets == ((Target(metric="flops", ratio=0.5),),)
    assert (spec.method, spec.finetune, spec.round_to, spec.min_keep) == ("auto", FinetuneSettings(), None, 0.1)
    assert spec.preprocessing is None


def test_everything_a_job_can_say_arrives():
    """Options, fine-tuning, rounding, patterns and the allowed drop reach the engine."""
    spec = PruneSpec.from_json(
        stored(
            target=[{"metric": "params", "value": 1200.0}, {"metric": "macs", "ratio": 0.5}],
            method="magnitude",
            options={"norm": "l1"},
            finetune={"steps": 7, "learning_rate": 0.1, "distillation": 0.5, "temperature": 3},
            export={"round_to": 4, "min_keep": 0.0},
            include=["layer*"],
            exclude=["head"],
            max_accuracy_drop=0.02,
        )
    )

    assert spec.target_sets == ((Target(metric="params", value=1200.0), Target(metric="macs", ratio=0.5)),)
    assert (spec.method, spec.options["norm"]) == ("magnitude", "l1")
    assert spec.finetune == FinetuneSettings(steps=7, learning_rate=0.1, distillation=0.5, temperature=3)
    assert (spec.round_to, spec.min_keep, spec.max_accuracy_drop) == (4, 0.0, 0.02)
    assert (spec.include, spec.exclude) == (("layer*",), ("head",))


def test_several_targets_are_several_sets():
    """`targets` gives one set per artifact."""
    spec = PruneSpec.from_json(stored(targets=["flops=50%", "flops=30%,params=40%"]))

    assert [len(targets) for targets in spec.target_sets] == [1, 2]


@pytest.mark.parametrize(
    ("target", "budget"),
    [
        (Target(metric="flops", ratio=0.5), Budget(metric=Metric.MACS, limit=500.0)),
        (Target(metric="flops", value=1000.0), Budget(metric=Metric.MACS, limit=500.0)),
        (Target(metric="macs", value=300.0), Budget(metric=Metric.MACS, limit=300.0)),
        (Target(metric="size_bytes", ratio=1 / 3), Budget(metric=Metric.SIZE_BYTES, limit=300.0)),
    ],
)
def test_targets_become_limits(target, budget):
    """Shares are of the original's figure; a FLOP is half a MAC."""
    assert target.budget(BEFORE) == budget


def test_latencies_are_budgets_of_their_own():
    """Each names its device: its own, else the job's, else the worker's; exact limits stay beside them."""
    spec = PruneSpec.from_json(stored(target="latency=8ms@dev_a,latency=50%,flops=50%", device="dev_b"))
    (targets,) = spec.target_sets
    plain = PruneSpec.from_json(stored(target="latency=50%"))

    assert latency_budgets(targets) == (
        LatencyBudget(device="dev_a", limit_ms=8.0),
        LatencyBudget(device="dev_b", ratio=0.5),
    )
    assert budgets(targets, BEFORE) == (Budget(metric=Metric.MACS, limit=500.0),)
    assert latency_budgets(plain.target_sets[0]) == (LatencyBudget(device="dev_local", ratio=0.5),)
    assert [target.text() for target in targets] == ["latency=8ms@dev_a", "latency=50%@dev_b", "flops=50%"]


def test_devices_are_those_aimed_at_and_those_measured_on():
    """Each once, without the worker's own processor, which is always measured."""
    spec = PruneSpec.from_json(
        stored(target="latency=8ms@dev_a", device="dev_b", measure_on=["dev_local", "dev_c", "dev_a"])
    )

    assert spec.devices == ("dev_a", "dev_b", "dev_c")


def test_the_meaning_of_the_outputs_is_passed_on() -> None:
    """What the job says; found out where it says nothing."""
    target = {"target": {"metric": "macs", "ratio": 0.5}}

    assert "other" == PruneSpec.from_json({**target, "head": "other"}).head
    assert "auto" == PruneSpec.from_json(target).head
