"""Widths under a limit on predicted latency, on laws that are worked out by hand."""

from itertools import product
from math import ceil

import numpy as np
import pytest

from tests.workers.pruning.allocation.hand import chain, grouping
from tests.workers.pruning.surgery.keeps import widths
from workers.pruning.allocation.rank import allocate
from workers.pruning.allocation.time_sheet import TimeSheet
from workers.pruning.allocation.timed import predicted
from workers.pruning.errors import TargetUnreachable
from workers.pruning.types import Budget, LatencyLimit, Metric, Scores, TimedLayer


def stairs(limit_ms, *groups, block=8, steps=None, price=1.0):
    """A device on which each of these groups takes `price` a block."""
    layers = tuple(
        TimedLayer(node=f"n{group}", groups=(group,), ms=lambda kept, group=group: price * ceil(kept[group] / block))
        for group in groups
    )
    return LatencyLimit(device="d", limit_ms=limit_ms, layers=layers, steps=steps or (block,) * len(groups))


def scores(*values):
    """Scores, the same for all units of a group."""
    return Scores(values=np.concatenate([np.full(width, value, np.float64) for value, width in values]), source="test")


def test_the_limit_holds_and_widths_are_at_the_top_of_a_stair():
    """Of two groups the cheap one goes, in whole blocks."""
    groups = grouping(32, 32)

    keep = allocate(scores((1.0, 32), (2.0, 32)), groups, chain(32, 32), (), limits=[stairs(5.0, 0, 1)])

    assert [8, 32] == widths(groups, keep)


def test_what_saves_no_time_stays():
    """A group that the device computes for nothing is kept, however little it is worth."""
    groups = grouping(32, 32)
    limit = stairs(2.0, 1, steps=(8, 8))

    keep = allocate(scores((0.001, 32), (2.0, 32)), groups, chain(32, 32), (), limits=[limit])

    assert [32, 16] == widths(groups, keep)


def test_steps_are_halved_where_they_do_not_reach():
    """A limit between two stairs of a narrow group is reached by finer steps."""
    groups = grouping(12)

    keep = allocate(scores((1.0, 12)), groups, chain(12), (), limits=[stairs(1.0, 0, block=4, steps=(8,))])

    assert [4] == widths(groups, keep)


def test_budgets_hold_beside_the_limit():
    """Time and parameters are asked for together; both hold."""
    groups, model = grouping(32, 32), chain(32, 32)
    budget = Budget(metric=Metric.PARAMS, limit=200.0)

    kept = widths(groups, allocate(scores((1.0, 32), (1.0, 32)), groups, model, [budget], limits=[stairs(7.0, 0, 1)]))

    assert 3 * kept[0] + kept[0] * kept[1] + 2 * kept[1] <= 200
    assert predicted(stairs(7.0, 0, 1), kept) <= 7.0


def test_two_devices_hold_at_once():
    """Each device has its own law; the widths suit both."""
    groups = grouping(32, 32)
    limits = [stairs(6.0, 0, steps=(8, 8), price=3.0), stairs(2.0, 1, steps=(8, 8))]

    assert [16, 16] == widths(groups, allocate(scores((1.0, 32), (1.0, 32)), groups, chain(32, 32), (), limits=limits))


def test_exchanges_reach_the_best_choice_of_blocks():
    """On small cases greedy removal with exchanges keeps as much score as trying every choice, or nearly."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(10):
        values = Scores(values=rng.uniform(0.1, 1.0, 72), source="test")
        prices = rng.uniform(0.5, 2.0, 3)
        layers = tuple(
            TimedLayer(node=str(g), groups=(g,), ms=lambda kept, g=g, prices=prices: prices[g] * ceil(kept[g] / 8))
            for g in range(3)
        )
        limit = LatencyLimit(device="d", limit_ms=float(3 * prices.sum() / 2), layers=layers, steps=(8, 8, 8))
        groups = grouping(24, 24, 24)

        kept = values.values[allocate(values, groups, chain(24, 24, 24), (), limits=[limit]).mask].sum()

        shares.append(kept / best(values.values, limit))
    assert max(shares) <= 1 + 1e-9
    assert min(shares) > 0.97


def best(values, limit):
    """The most score that any choice of blocks keeps within the limit."""
    ordered = [np.sort(values[24 * group : 24 * group + 24])[::-1] for group in range(3)]
    choices = (k for k in product((8, 16, 24), repeat=3) if predicted(limit, k) <= limit.limit_ms)
    return max(sum(float(o[:width].sum()) for o, width in zip(ordered, k, strict=True)) for k in choices)


def test_out_of_reach_is_said_with_what_is_predicted():
    """The refusal names the device and the least that it is predicted to take."""
    with pytest.raises(TargetUnreachable, match=r"at d; found smallest predicted 2 ms; allowed 1\.5 ms"):
        allocate(
            scores((1.0, 32), (1.0, 32)), grouping(32, 32), chain(32, 32), (), limits=[stairs(1.5, 0, 1)], min_keep=0.1
        )


def test_a_layer_is_asked_once_for_each_width():
    """Planning stays fast on networks of many layers because nothing is computed twice."""
    asked = []
    layer = TimedLayer(node="n", groups=(0,), ms=lambda kept: asked.append(kept[0]) or float(kept[0]))
    sheet = TimeSheet(LatencyLimit(device="d", limit_ms=1.0, layers=(layer,), steps=(1,)), (10,))

    for _ in range(3):
        assert 4.0 == sheet.saving(0, 4)
    sheet.remove(0, 4)

    assert 6.0 == sheet.value
    assert [10, 6] == asked
