"""Which units go at an event, on two layers of made-up cost."""

import numpy as np
import pytest

from workers.pruning.allocation.budget import cost
from workers.pruning.methods.marginal import rules, shrunk
from workers.pruning.types import Budget, CostModel, Group, Grouping, Keep, Length, Metric, Term


def linear(group, coefficient):
    return Term(coefficient=coefficient, lengths=(Length(fixed=0, parts=((group, 1),)),))


# Ten units of 10 MACs and 8 bytes, twenty units of 1 MAC and 1 byte.
MODEL = CostModel(
    widths=(10, 20), macs=(linear(0, 10.0), linear(1, 1.0)), params=(linear(0, 1.0),), size_bytes=(), peak=()
)
HELD = (linear(0, 8.0), linear(1, 1.0))
GROUPING = Grouping(
    num_units=30,
    groups=(
        Group(id="a", start=0, stop=10, producers=(), consumers=()),
        Group(id="b", start=10, stop=30, producers=(), consumers=()),
    ),
    initializer_axes=(),
    value_axes={},
    frozen=(),
)
WHOLE = Keep(mask=np.ones(30, np.bool_))
SCORES = np.concatenate([8.0 * np.arange(1, 11), np.arange(1, 21)]).astype(float)  # per MAC 0.8..8 and 1..20


def event(budget, *, final=60.0, scores=SCORES, keep=WHOLE, last=False, marginal=0.0):
    held = rules(
        GROUPING, MODEL, (Budget(metric=Metric.MACS, limit=final),), round_to=1, min_keep=0.1, marginal=marginal
    )
    return shrunk(held, keep, scores, HELD, (Budget(metric=Metric.MACS, limit=budget),), last=last)


def widths(keep):
    return [int(keep.mask[:10].sum()), int(keep.mask[10:].sum())]


def test_the_least_score_per_saving_goes_first():
    """From 120 MACs to 109: the two units worth 0.8 and 1 per MAC, one of each group, save 11."""
    keep = event(109.0)

    assert widths(keep) == [9, 19]
    assert not keep.mask[[0, 10]].any()


def test_no_group_loses_more_than_a_fifth_at_once():
    """Whatever the schedule wants, ten lose two and twenty lose four."""
    assert widths(event(60.0)) == [8, 16]


def test_the_last_event_meets_the_budget_and_wastes_nothing():
    """At the end the budget holds whatever that takes, and one more unit of either group would break it."""
    keep = event(60.0, last=True)
    macs = cost(MODEL, widths(keep)).macs

    assert macs <= 60
    assert macs + 1 > 60 or widths(keep)[1] == 20


def test_marginal_units_go_before_they_have_to():
    """Units far below the median go though the schedule's budget holds, but not below the final size."""
    scores = SCORES.copy()
    scores[[3, 25]] = 1e-9
    keep = event(200.0, scores=scores, marginal=0.1)

    assert not keep.mask[[3, 25]].any()
    assert keep.mask.sum() == 28
    assert event(200.0, scores=scores, marginal=0.1, final=200.0).mask.all()


def test_what_is_gone_stays_gone():
    """A unit that was cut does not come back, even with the best score."""
    mask = WHOLE.mask.copy()
    mask[9] = False
    keep = event(60.0, keep=Keep(mask=mask), last=True)

    assert not keep.mask[9]


def test_floors_hold():
    """Ten units keep one and twenty keep two."""
    assert widths(event(12.0, final=12.0, last=True)) == [1, 2]


def test_no_group_falls_far_below_the_others():
    """Half of the MACs are 5 of 10 units and 10 of 20: half of that stays of each, 3 and 5, whatever it scores."""
    held = rules(GROUPING, MODEL, (Budget(metric=Metric.MACS, limit=60.0),), round_to=1, min_keep=0.1, marginal=0.0)

    assert held.floors == (3, 5)


@pytest.mark.parametrize("round_to", [4, 5])
def test_widths_are_multiples_of_the_step(round_to):
    """Blocks leave multiples of the step asked for."""
    held = rules(
        GROUPING, MODEL, (Budget(metric=Metric.MACS, limit=96.0),), round_to=round_to, min_keep=0.1, marginal=0.0
    )
    keep = shrunk(held, WHOLE, SCORES, HELD, (Budget(metric=Metric.MACS, limit=96.0),), last=True)

    assert [width % round_to for width in widths(keep)] == [0, 0]
    assert cost(MODEL, widths(keep)).macs <= 96


def test_bytes_can_decide_instead():
    """A unit of the first group holds 8 bytes and costs 1 MAC here: by bytes it goes first, by MACs the other.

    The last of three finishes the work; both groups save as much by it, so it comes from the first.
    """
    cheap = CostModel(
        widths=(10, 20), macs=(linear(0, 1.0), linear(1, 1.0)), params=(linear(0, 1.0),), size_bytes=(), peak=()
    )
    scores, budget = np.repeat([4.0, 2.0], [10, 20]), (Budget(metric=Metric.MACS, limit=27.0),)
    found = {
        by: widths(
            shrunk(
                rules(GROUPING, cheap, budget, round_to=1, min_keep=0.1, marginal=0.0, rank_by=by),
                WHOLE,
                scores,
                HELD,
                (Budget(metric=Metric.MACS, limit=27.0),),
                last=True,
            )
        )
        for by in ("target", "memory")
    }

    assert found == {"memory": [7, 20], "target": [9, 18]}
