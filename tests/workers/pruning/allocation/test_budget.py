"""Costs, floors and what can be reached, worked out by hand."""

import pytest

from tests.workers.pruning.allocation.hand import chain
from workers.pruning.allocation.budget import aligned_floors, cost, floor_widths, holds, reachable, require_reachable
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, Cost, Metric


def test_cost_is_the_sum_of_products() -> None:
    """Widths 10 and 20 with 4 and 6 kept: 3x4 + 4x6 + 2x6 = 48 MACs and parameters; 100 + 4x48 bytes; peak 4x(4+6)."""
    expected = Cost(macs=48, params=48, size_bytes=292, peak_activation_bytes=40)

    assert expected == cost(chain(10, 20), [4, 6])


def test_budgets_hold_up_to_their_limit() -> None:
    """A budget may be met exactly, and all have to hold."""
    figures = cost(chain(10, 20), [4, 6])
    exact = Budget(metric=Metric.MACS, limit=48)
    tight = Budget(metric=Metric.PEAK_ACTIVATION_BYTES, limit=39)

    assert holds(figures, [exact])
    assert not holds(figures, [exact, tight])
    assert holds(figures, [])


@pytest.mark.parametrize(
    ("min_keep", "round_to", "expected"),
    [
        (0.1, 1, (1, 7, 64)),  # 1 of 10, 7 of 64 (6.4 up), 64 of 640
        (0.1, 8, (8, 8, 64)),
        (0.5, 8, (8, 32, 320)),
        (0.0, 1, (1, 1, 1)),  # never none
        (1.0, 8, (10, 64, 640)),  # never more than all
        (0.1, None, (1, 7, 64)),  # as of step 1: what is reachable does not depend on what the runtime likes
    ],
)
def test_floors(min_keep: float, round_to: int | None, expected: tuple[int, ...]) -> None:
    """The share that stays, rounded up to a step, for widths 10, 64 and 640."""
    assert expected == floor_widths(chain(10, 64, 640), min_keep, round_to)


def test_aligned_floors_fill_blocks() -> None:
    """Steps 4, 8, 16 and 16: 10 channels keep 4, 32 keep a block of 16, 64 one step of 16, 640 their share."""
    assert (4, 16, 16, 64) == aligned_floors(chain(10, 32, 64, 640), 0.1)


def test_the_smallest_reachable_value_is_that_of_the_floor() -> None:
    """Floors 1 and 2 of 10 and 20: 3 + 2 + 4 = 9 MACs, 136 bytes, 12 bytes of activations."""
    expected = {
        Metric.MACS: 9,
        Metric.PARAMS: 9,
        Metric.SIZE_BYTES: 136,
        Metric.PEAK_ACTIVATION_BYTES: 12,
    }

    assert expected == reachable(chain(10, 20), min_keep=0.1, round_to=1)


def test_an_unreachable_target_states_what_can_be_reached() -> None:
    """The message has the figure asked for, the smallest of every metric, its share, and the way out."""
    budget = Budget(metric=Metric.MACS, limit=5)
    with pytest.raises(TargetUnreachable) as caught:
        require_reachable(chain(10, 20), [budget], min_keep=0.1, round_to=1)

    # 9 of 3x10 + 10x20 + 2x20 = 270 MACs are 3.3 %.
    assert "found smallest reachable macs 9 (3.3%), params 9 (3.3%), size_bytes 136 (11.5%)" in caught.value.message
    assert "allowed macs 5" in caught.value.message
    assert "min_keep (now 0.1)" in caught.value.message
    require_reachable(chain(10, 20), [Budget(metric=Metric.MACS, limit=9)], min_keep=0.1, round_to=1)
