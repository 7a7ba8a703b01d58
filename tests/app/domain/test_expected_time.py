"""The forecast of a job's time follows what is asked, and rests on the figures that the engine uses."""

from typing import Any

import pytest

from app.domain import expected_time
from app.domain.expected_time import Known, forecast
from tests.builders import spec
from workers.pruning.training import recipe

KNOWN = Known(seconds_per_run=0.0, seconds_per_sample=0.001, macs=10**7, num_nodes=20, num_groups=10, num_samples=6400)


def middle(**asked: Any) -> float:
    """The seconds of all phases."""
    found = forecast(spec(**asked), KNOWN, [0.5])
    assert found is not None
    return sum(found["phases"].values())


def test_the_default_budget_is_the_recipes():
    """Two places state it, because the web process does not load the engine."""
    for name in ("BATCH_SIZE", "MIN_STEPS", "MAX_STEPS", "MAX_EPOCHS", "NODE_MACS"):
        assert getattr(expected_time, name) == getattr(recipe, name), name
    assert recipe.WORK_MACS["cpu"] == expected_time.WORK_MACS


def test_training_is_counted_by_its_steps():
    """Each is three passes of half a network and one of the whole, in mixed precision, and its own 0.07 s."""
    step = (3 * 0.5 + 1) * 0.35 * 128 * 0.001 + 0.07

    assert middle(finetune={"steps": 100}) - middle(finetune={"steps": 0}) == pytest.approx(100 * step, abs=0.1)


def test_another_target_does_not_score_again():
    """What two targets share is counted once."""
    one, two = (forecast(spec(), KNOWN, shares) for shares in ([0.5], [0.5, 0.5]))
    assert one is not None
    assert two is not None

    assert two["phases"]["score"] == one["phases"]["score"]
    assert two["phases"]["compensate"] == pytest.approx(2 * one["phases"]["compensate"], abs=0.2)
    assert two["seconds"][0] < two["seconds"][1]


@pytest.mark.parametrize("asked", [{"method": "taylor"}, {"method": "dynhp"}, {"max_accuracy_drop": 0.02}])
def test_what_depends_on_what_is_found_is_not_forecast(asked: dict[str, Any]):
    """Rounds and searches end where the accuracy says."""
    assert forecast(spec(**asked), KNOWN, [0.5]) is None


def test_an_analysis_without_a_speed_gives_no_forecast():
    """As those of networks that cannot be run on made-up inputs."""
    assert Known.of({"speed": None, "macs": 1, "num_nodes": 1, "prunable_groups": []}, 10) is None
