"""How a result states what was asked and reached."""

from dataclasses import replace

import pytest

from tests.workers.pruning.latency.laws import measurement
from workers.prune_spec import Target
from workers.pruning.types import Measurement
from workers.result import latency_target_json

HALF = Target(metric="latency_ms", ratio=0.5, device="dev_local")
FIVE_MS = Target(metric="latency_ms", value=5.0, device="dev_local")


def timed(p50_ms: float, on_cpu_share: float, on_cpu_p50_ms: float) -> Measurement:
    """A measurement with these medians of wall and processor time."""
    return replace(measurement(p50_ms), host={"on_cpu_share": on_cpu_share, "on_cpu_p50_ms": on_cpu_p50_ms})


@pytest.mark.parametrize(
    ("after", "clock", "reached", "met"),
    [
        (timed(5.5, 0.99, 4.9), "wall", 5.5, False),
        (timed(5.5, 0.80, 4.9), "processor", 4.9, True),
        (timed(5.5, 0.80, 5.1), "processor", 5.1, False),
    ],
)
def test_milliseconds_are_judged_by_medians_of_one_clock(
    after: Measurement, clock: str, reached: float, met: bool
) -> None:
    """They are of processor time where other programs took more than a tenth of either's, else of wall time."""
    stated = latency_target_json(FIVE_MS, {"before": timed(10.0, 1.0, 9.9), "after": after})

    assert (stated["clock"], stated["reached"], stated["met"]) == (clock, reached, met)
    assert (stated["judged_by"], stated["limit"], stated["ratio_interval"]) == ("medians", 5.0, None)


@pytest.mark.parametrize(("share", "met"), [(0.48, True), (0.52, False)])
def test_a_share_of_the_original_is_judged_by_runs_side_by_side(share: float, met: bool) -> None:
    """The pace doubles half-way through, and the medians are of other rounds; only the ratio in each round counts."""
    paces = (1.0,) * 4 + (2.0,) * 5
    before = replace(measurement(2.0), samples_ms=paces)
    after = replace(measurement(1.0), samples_ms=tuple(share * pace for pace in paces))
    stated = latency_target_json(HALF, {"before": before, "after": after})

    assert stated["met"] == met
    assert (stated["judged_by"], stated["clock"], stated["limit"]) == ("paired ratio", "wall", 1.0)
    assert stated["ratio"] == pytest.approx(share)
    assert stated["reached"] == pytest.approx(2 * share)
    assert stated["ratio_interval"] == pytest.approx([share, share])


def test_what_was_not_measured_is_not_met() -> None:
    """Without a measurement there is no limit in ms, nothing reached, and no claim."""
    stated = latency_target_json(HALF, {})

    assert (stated["limit"], stated["reached"], stated["met"]) == (None, None, False)
