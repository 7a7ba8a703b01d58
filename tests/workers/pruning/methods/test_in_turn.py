"""How a network compares with the original that was timed in turn with it."""

from dataclasses import replace

import pytest

from tests.workers.pruning.latency.laws import measurement
from workers.pruning.methods.in_turn import Judgement, by_medians, by_ratio, same_rounds


def timed(*samples, per_round=1, **host):
    """A measurement with these samples."""
    middle = sorted(samples)[(len(samples) - 1) // 2]
    return replace(measurement(middle), samples_ms=samples, host={"runs_per_round": per_round, **host})


# The machine slows down in the middle: 0.48 in every round but the one that both medians are of.
DRIFTING = (
    timed(1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0),
    timed(0.48, 0.48, 0.48, 0.48, 1.1, 1.44, 1.44, 1.44, 1.44),
)


def test_where_the_clock_drifts_pairs_tell_the_ratio() -> None:
    """Runs side by side share the pace; the medians are of one round in nine."""
    found = by_ratio(*DRIFTING)

    assert found.judged_by is Judgement.PAIRED
    assert found.ratio == pytest.approx(0.48)
    assert found.reached_ms == pytest.approx(0.48 * 2.0)
    assert by_medians(*DRIFTING).ratio == pytest.approx(0.55)


def test_medians_are_of_one_clock_and_say_which() -> None:
    """Of processor time where other programs took more than a tenth of either's."""
    torn = timed(*[5.0] * 8, on_cpu_share=0.8, on_cpu_p50_ms=4.0)
    calm = timed(*[10.0] * 8, on_cpu_share=1.0, on_cpu_p50_ms=9.8)
    found = by_medians(calm, torn)

    assert (found.clock, found.original_ms, found.reached_ms) == ("processor", 9.8, 4.0)
    assert by_medians(calm, calm).clock == "wall"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (timed(*[1.0] * 5), timed(*[0.5] * 5)),  # too few for an interval
        (timed(*[1.0] * 8), timed(*[0.5] * 20)),  # not timed together
        (timed(*[1.0] * 32, per_round=4), timed(*[0.5] * 32)),
    ],
    ids=["few", "apart", "other rounds"],
)
def test_what_was_not_timed_in_rounds_is_judged_by_medians(one, other) -> None:
    """There are no pairs then, and the judgement says so."""
    found = by_ratio(one, other)

    assert (found.judged_by, found.ratio, found.interval) == (Judgement.MEDIANS, 0.5, None)


def test_a_round_that_one_of_them_lacks_does_not_count() -> None:
    """An agent that ran out of time leaves one network a visit behind."""
    pair = same_rounds(timed(*[1.0] * 32, per_round=4), timed(*[0.5] * 28, per_round=4))

    assert pair is not None
    assert [28, 28] == [len(each.samples_ms) for each in pair]
