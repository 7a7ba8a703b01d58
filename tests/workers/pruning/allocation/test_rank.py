"""The allocator: budgets hold, floors hold, what goes is worth least."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import graph
from tests.torch_networks import exported
from tests.work import calls
from tests.workers.pruning.allocation.hand import chain, grouping
from tests.workers.pruning.surgery.keeps import widths
from workers.pruning.allocation.alignment import steps_for
from workers.pruning.allocation.budget import cost, figure, floor_widths, holds, total
from workers.pruning.allocation.rank import allocate
from workers.pruning.errors import NonFiniteScore, TargetUnreachable
from workers.pruning.graph.load import load
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.types import Budget, CostModel, FloatArray, Grouping, Keep, Length, Metric, Scores, Term

NETWORKS = ["chain", "residual", "padded_shortcut", "concat", "depthwise", "grouped", "flatten", "unet"]


def scores(values: object) -> Scores:
    """Scores from a list."""
    return Scores(values=np.asarray(values, np.float64), source="test")


def macs(model: CostModel, share: float) -> Budget:
    """A share of the MACs."""
    return Budget(metric=Metric.MACS, limit=share * cost(model, model.widths).macs)


def bisected(values: FloatArray, grouping: Grouping, model: CostModel, limit: float) -> Keep:
    """Reference: the lowest threshold on the scores that meets the budget, floors kept; scores are all different."""
    floors = floor_widths(model, 0.1, 1)

    def kept(threshold: float) -> np.ndarray:
        mask = values > threshold
        for group, floor in zip(grouping.groups, floors, strict=True):
            best = group.start + np.argsort(-values[group.start : group.stop], kind="stable")[:floor]
            mask[best] = True
        return mask

    candidates = np.concatenate([[-1.0], np.sort(values)])
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        mask = kept(candidates[middle])
        if total(model.macs, widths(grouping, Keep(mask=mask))) <= limit:
            high = middle
        else:
            low = middle + 1
    return Keep(mask=kept(candidates[low]))


@given(st.integers(0, 10_000), st.floats(0.2, 1.0))
def test_alpha_zero_is_a_threshold(seed: int, share: float) -> None:
    """Ranked by score alone, the result is the global threshold, but for units given back within the budget."""
    model, groups = chain(9, 14, 11), grouping(9, 14, 11)
    values = np.random.default_rng(seed).permutation(34) + 1.0
    budget = macs(model, share)
    expected = bisected(values, groups, model, budget.limit).mask
    found = allocate(scores(values), groups, model, [budget], alpha=0.0, round_to=1).mask

    assert found[expected].all()
    assert holds(cost(model, widths(groups, Keep(mask=found))), [budget])
    for unit in np.flatnonzero(found & ~expected):  # given back: the threshold is above it, the budget is not
        assert values[unit] <= values[~expected].max()


@given(
    st.sampled_from(NETWORKS),
    st.integers(0, 1000),
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([1, 2, 4, None]),
    st.sampled_from(list(Metric)),
)
def test_targets_are_met_and_never_exceeded(  # noqa: PLR0917  # one per dimension of the request
    name: str, seed: int, ease: float, alpha: float, round_to: int | None, metric: Metric
) -> None:
    """Whatever can be reached is reached, for every metric, with floors and steps kept."""
    network = graph(name)
    groups = find(network)
    model = cost_model(network, groups)
    floors = floor_widths(model, 0.1, round_to)
    least, full = (figure(cost(model, kept), metric) for kept in (floors, model.widths))
    budget = Budget(metric=metric, limit=least + ease * (full - least))
    values = scores(np.random.default_rng(seed).random(groups.num_units))
    kept = widths(groups, allocate(values, groups, model, [budget], alpha=alpha, round_to=round_to))

    assert holds(cost(model, kept), [budget])
    for count, floor, width, step in zip(kept, floors, model.widths, steps_for(model, round_to or 1), strict=True):
        assert floor <= count <= width
        assert count in {width, floor} or count % step == 0


@given(st.integers(0, 1000))
def test_within_a_group_the_worst_go_first(seed: int) -> None:
    """No unit that went was worth more than one of its group that stayed."""
    model, groups = chain(12, 30), grouping(12, 30)
    values = np.random.default_rng(seed).random(42)
    mask = allocate(scores(values), groups, model, [macs(model, 0.4)], round_to=1).mask

    for group in groups.groups:
        here, stays = values[group.start : group.stop], mask[group.start : group.stop]
        assert here[~stays].max(initial=0.0) <= here[stays].min()


def test_score_per_cost_spares_what_saves_little() -> None:
    """Widths 2, 50, 2: a unit of the first group saves 53 of 210 MACs, one of the middle 4.

    To save 21, six of the middle go when scores alone count, and one of the first when they count per MAC.
    """
    model, groups = chain(2, 50, 2), grouping(2, 50, 2)
    values = [2.0] * 2 + [1.0] * 50 + [2.0] * 2
    budget = macs(model, 0.9)

    assert [2, 44, 2] == widths(groups, allocate(scores(values), groups, model, [budget], alpha=0.0, round_to=1))
    assert [1, 50, 2] == widths(groups, allocate(scores(values), groups, model, [budget], alpha=1.0, round_to=1))


def test_the_default_rounding_keeps_blocks_filled() -> None:
    """Half the MACs of 20, 32, 128 and 512: each width is whole, or a multiple of 4, 8, 16 and 16, and not below 16."""
    model, groups = chain(20, 32, 128, 512), grouping(20, 32, 128, 512)
    values = scores(np.random.default_rng(0).random(groups.num_units))
    kept = widths(groups, allocate(values, groups, model, [macs(model, 0.5)]))

    assert all(
        count == width or count % step == 0
        for count, width, step in zip(kept, model.widths, (4, 8, 16, 16), strict=True)
    )
    assert min(kept[1:]) >= 16


def test_the_default_rounding_gives_way_to_the_target() -> None:
    """Where steps of 4 cannot reach 30 % of 8 x 8, single channels can."""
    model, groups = chain(8, 8), grouping(8, 8)
    kept = widths(groups, allocate(scores(np.arange(16.0)), groups, model, [macs(model, 0.3)]))

    assert holds(cost(model, kept), [macs(model, 0.3)])
    assert any(count % 4 for count in kept)


def test_reading_parameters_counts_by_default() -> None:
    """A layer of few MACs but many parameters goes first by default, a layer of many MACs where `round_to` is given."""
    hot, heavy = (Length(fixed=0, parts=((group, 1),)) for group in (0, 1))
    model = CostModel(
        widths=(64, 64),
        macs=(Term(coefficient=200.0, lengths=(hot,)), Term(coefficient=100.0, lengths=(heavy,))),
        params=(Term(coefficient=1.0, lengths=(hot,)), Term(coefficient=50.0, lengths=(heavy,))),
        size_bytes=(),
        peak=(),
    )
    groups = grouping(64, 64)

    assert [64, 48] == widths(groups, allocate(scores([1.0] * 128), groups, model, [macs(model, 0.92)]))
    assert [48, 64] == widths(groups, allocate(scores([1.0] * 128), groups, model, [macs(model, 0.92)], round_to=16))


def test_all_budgets_hold_at_once() -> None:
    """MACs, parameters, bytes and activations together."""
    model, groups = chain(40, 30, 20), grouping(40, 30, 20)
    full = cost(model, model.widths)
    budgets = [Budget(metric=metric, limit=0.6 * figure(full, metric)) for metric in Metric]
    values = scores(np.random.default_rng(0).random(90))
    kept = widths(groups, allocate(values, groups, model, budgets, round_to=1))

    assert holds(cost(model, kept), budgets)


def test_a_generous_target_removes_nothing() -> None:
    """When the budget holds already, everything stays."""
    model, groups = chain(5, 6), grouping(5, 6)

    assert allocate(scores([0.0] * 11), groups, model, [macs(model, 1.0)]).mask.all()


def test_ties_go_to_the_earlier_unit() -> None:
    """Equal scores: units go in order, and twice the same input gives the same mask."""
    model, groups = chain(8, 8), grouping(8, 8)
    first = allocate(scores([1.0] * 16), groups, model, [macs(model, 0.8)], alpha=0.0, round_to=1).mask

    assert (first == allocate(scores([1.0] * 16), groups, model, [macs(model, 0.8)], alpha=0.0, round_to=1).mask).all()
    assert all(a <= b for a, b in pairwise(first[:8].tolist()))


def test_an_unreachable_target_is_refused() -> None:
    """Nothing is allocated below the floor."""
    model, groups = chain(10, 20), grouping(10, 20)
    with pytest.raises(TargetUnreachable, match="smallest reachable macs 9"):
        allocate(scores([1.0] * 30), groups, model, [Budget(metric=Metric.MACS, limit=8)], round_to=1)


@pytest.mark.parametrize(
    ("values", "words"),
    [([1.0, np.nan, 2.0], "1 are not finite"), ([1.0, -1.0, 2.0], "1 are negative"), ([1.0, 2.0], "allowed 3 finite")],
)
def test_scores_that_cannot_be_ranked_are_refused(values: list[float], words: str) -> None:
    """NaN, negative or missing scores are named."""
    model, groups = chain(1, 2), grouping(1, 2)
    with pytest.raises(NonFiniteScore, match=words):
        allocate(scores(values), groups, model, [macs(model, 0.9)])


@pytest.mark.data
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_half_the_flops_of_real_networks(data_dir: Path, alpha: float) -> None:
    """With `round_to` 1 every given file lands between 48 and 50 %."""
    for pattern in ("resnet20*bn.onnx", "resnet56*bnfolded.onnx", "crack*"):
        for path in sorted((data_dir / "models").glob(pattern)):
            if path.suffix != ".onnx":
                continue
            network = load(path)
            groups = find(network)
            model = cost_model(network, groups)
            values = scores(np.random.default_rng(1).random(groups.num_units))
            kept = widths(groups, allocate(values, groups, model, [macs(model, 0.5)], alpha=alpha, round_to=1))

            assert 0.48 <= cost(model, kept).macs / cost(model, model.widths).macs <= 0.5, path.name


def test_ten_thousand_units_cost_a_few_calls_each() -> None:
    """MobileNetV2 has 9,128 units; savings are updated, not recomputed for each."""
    network = load(exported("mobilenetv2", "legacy", folded=True))
    groups = find(network)
    model = cost_model(network, groups)
    values = scores(np.random.default_rng(1).random(groups.num_units))

    assert groups.num_units > 9000
    assert calls(lambda: allocate(values, groups, model, [macs(model, 0.1)], round_to=1)) < 120 * groups.num_units
