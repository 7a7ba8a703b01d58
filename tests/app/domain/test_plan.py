"""Costs, floors and refusals from the cost model alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import plan
from app.domain.methods import ExportOptions
from app.domain.target import Metric, parse_target
from app.errors import TargetUnreachable
from tests.builders import COST_MODEL

MODEL = plan.read_cost_model(COST_MODEL)
# Two 3x3 convolutions on 8x8 pixels, 3 -> 16 -> 32 channels, both prunable, worked by hand.
CHAIN = plan.read_cost_model(
    {
        "widths": [16, 32],
        "group_ids": ["a", "b"],
        "macs": [[64 * 9, [[3, []], [0, [[0, 1]]]]], [64 * 9, [[0, [[0, 1]]], [0, [[1, 1]]]]]],
        "params": [[9, [[3, []], [0, [[0, 1]]]]], [9, [[0, [[0, 1]]], [0, [[1, 1]]]]]],
        "size_bytes": [[36, [[3, []], [0, [[0, 1]]]]], [36, [[0, [[0, 1]]], [0, [[1, 1]]]]]],
        "peak": [[[4 * 64, [[3, [[0, 1]]]]]], [[4 * 64, [[0, [[0, 1], [1, 1]]]]]]],
    }
)


def test_costs_of_the_original() -> None:
    """Both layers at full width: 64 pixels x 9 taps x (3*16 + 16*32)."""
    found = plan.costs(CHAIN, CHAIN.widths)

    assert found[Metric.MACS] == 64 * 9 * (3 * 16 + 16 * 32)
    assert found[Metric.FLOPS] == 2 * found[Metric.MACS]
    assert found[Metric.PARAMS] == 9 * (3 * 16 + 16 * 32)
    assert found[Metric.PEAK_ACTIVATION_BYTES] == 4 * 64 * (16 + 32)


@pytest.mark.parametrize(
    ("min_keep", "round_to", "floors"),
    [
        (0.1, None, (2, 4)),  # ceil(1.6), ceil(3.2)
        (0.1, 8, (8, 8)),
        (0.0, 1, (1, 1)),
        (0.25, None, (4, 8)),
        (0.5, 24, (16, 24)),  # a multiple of 24 would be wider than the group has
        (1.0, None, (16, 32)),
    ],
)
def test_floors(min_keep: float, round_to: int | None, floors: tuple[int, ...]) -> None:
    """A group keeps its share, at least one channel, rounded up, at most what it has."""
    assert plan.floor_widths(CHAIN, ExportOptions(min_keep=min_keep, round_to=round_to)) == floors


def test_a_reachable_target_passes() -> None:
    """The floor of the builders' model is 140 of 500 MACs, so 28 % is just reachable."""
    plan.check_reachable(MODEL, parse_target("macs=28%,flops=28%,macs=140".rpartition(",")[0]), ExportOptions())
    plan.check_reachable(MODEL, parse_target("macs=140"), ExportOptions())


def test_an_unreachable_target_states_the_smallest() -> None:
    """One unit below the floor is refused, in the unit that was asked for."""
    with pytest.raises(TargetUnreachable) as refusal:
        plan.check_reachable(MODEL, parse_target("flops=27.9%"), ExportOptions())

    assert refusal.value.extra["smallest_reachable"] == 280
    assert "allows 279 flops of 1000; the smallest reachable is 280 (28% of the original)" in str(refusal.value)
    assert refusal.value.errors[0].pointer == "/target"


@given(share=st.floats(0.01, 1.0), min_keep=st.sampled_from([0.0, 0.05, 0.1, 0.33, 0.9]))
def test_what_is_advised_is_reachable(share: float, min_keep: float) -> None:
    """Asking for the percentage that a refusal prints is never refused."""
    limits = ExportOptions(min_keep=min_keep)
    try:
        plan.check_reachable(CHAIN, parse_target({"metric": "macs", "ratio": share}), limits)
    except TargetUnreachable as error:
        advised = error.advice.split("macs=")[1].split(" ")[0]
        plan.check_reachable(CHAIN, parse_target(f"macs={advised}"), limits)


def test_a_latency_is_left_to_its_device() -> None:
    """Whatever it is, it is not refused here, and the other targets beside it still are."""
    plan.check_reachable(MODEL, parse_target("latency=1us@dev_local"), ExportOptions())
    with pytest.raises(TargetUnreachable):
        plan.check_reachable(MODEL, parse_target("latency=1us@dev_local,flops=1%"), ExportOptions())


@pytest.mark.parametrize("text", ["macs=50%", "flops=20%", "params=300", "macs=50%,params=20%", "macs=100%"])
def test_an_estimate_meets_the_target_with_equal_shares(text: str) -> None:
    """The predicted network holds every target, and one step more of share would not."""
    targets = parse_target(text)
    found = plan.estimate(CHAIN, targets, ExportOptions())
    before = plan.costs(CHAIN, CHAIN.widths)
    kept = [group["after"] for group in found["groups"]]  # type: ignore[index, attr-defined]
    after = plan.costs(CHAIN, kept)

    assert all(after[t.metric] <= t.limit(before[t.metric]) for t in targets)
    if text != "macs=100%":
        wider = plan.costs(CHAIN, [min(width, keep + 1) for keep, width in zip(kept, CHAIN.widths, strict=True)])
        assert any(wider[t.metric] > t.limit(before[t.metric]) for t in targets)


def test_the_reachable_range_is_stated_per_cost() -> None:
    """Each cost has its original value, its smallest, and the ratio."""
    assert plan.reachable_range(MODEL, ExportOptions())["macs"] == {"before": 500, "smallest": 140, "min_ratio": 0.28}
