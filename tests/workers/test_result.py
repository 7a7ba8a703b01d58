"""How a result states what was asked and reached."""

from dataclasses import replace

import pytest

from tests.workers.pruning.latency.laws import measurement
from workers.prune_spec import Target
from workers.pruning.types import Measurement
from workers.result import latency_target_json

HALF = Target(metric="latency_ms", ratio=0.5, device="dev_local")


def timed(p50_ms: float, on_cpu_share: float, on_cpu_p50_ms: float) -> Measurement:
    """A measurement with these medians of wall and processor time."""
    return replace(measurement(p50_ms), host={"on_cpu_share": on_cpu_share, "on_cpu_p50_ms": on_cpu_p50_ms})


@pytest.mark.parametrize(
    ("after", "clock", "reached", "met"),
    [
        (timed(5.5, 0.99, 4.9), "wall", 5.5, False),  # limit 5.0: half of 10.0
        (timed(5.5, 0.80, 4.9), "processor", 4.9, True),  # limit 4.95: half of 9.9
        (timed(5.5, 0.80, 5.0), "processor", 5.0, False),
    ],
)
def test_a_latency_is_judged_by_one_clock(after: Measurement, clock: str, reached: float, met: bool) -> None:
    """Both sides are of processor time where other programs took more than a tenth of either's, else of wall time."""
    stated = latency_target_json(HALF, {"before": timed(10.0, 1.0, 9.9), "after": after})

    assert (stated["clock"], stated["reached"], stated["met"]) == (clock, reached, met)
    assert stated["limit"] == (5.0 if clock == "wall" else 4.95)


def test_what_was_not_measured_is_not_met() -> None:
    """Without a measurement there is no limit in ms, nothing reached, and no claim."""
    stated = latency_target_json(HALF, {})

    assert (stated["limit"], stated["reached"], stated["met"]) == (None, None, False)
