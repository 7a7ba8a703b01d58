"""What was found out about a network on its data serves every later job that asks the same of them, and no other."""

from typing import Any

import pytest

from app.db.tables import JobRow
from app.services.assembly import Services
from app.services.claims import Claimed
from tests.builders import TENANT, FakeClock, artifact, claim, job, spec


def scored(services: Services, **asked: Any) -> JobRow:
    """A finished job that recorded its scores and its compensated network on the way."""
    row = job(services, **asked)
    claimed = claim(services)
    record = services.attempts.record_checkpoint
    record(row.id, claimed.epoch, "score", {"score.safetensors": (artifact(services, b"scores").sha256, 6)})
    record(row.id, claimed.epoch, "compensate", {"c.safetensors": (artifact(services, b"network").sha256, 7)})
    services.attempts.finish(row.id, claimed.epoch, {})
    return row


def next_job(services: Services, first: JobRow, **asked: Any) -> Claimed:
    """The claim of a further job on the same model."""
    services.jobs.submit(TENANT, spec(str(first.model_id), **asked))
    return claim(services)


def steps(claimed: Claimed) -> list[str]:
    """The steps whose results lie ready."""
    return [file.step for file in claimed.checkpoints]


def test_another_target_of_the_same_model_starts_behind_the_scores(services: Services) -> None:
    """Only what no target touches is shared: the compensated network belongs to the first job."""
    first = scored(services)

    second = next_job(services, first, target="flops=80%", finetune={"steps": 7}, name="again")

    assert steps(second) == ["score"]
    kinds = {event.type: event.data for event in services.jobs.events(TENANT, second.job_id, after=0, limit=50)[0]}
    assert kinds["statistics"] == {"reused": ["score"]}


@pytest.mark.parametrize(
    "asked",
    [
        {"seed": 1},
        {"method": "magnitude"},
        {"options": {"calibration_samples": 64}},
        {"exclude": ["head*"]},
        {"export": {"min_keep": 0.2}},
        {"method": "taylor"},
    ],
)
def test_whoever_asks_something_else_computes_anew(services: Services, asked: dict[str, Any]) -> None:
    """Seed, method, its options, and which channels may go all change what is found."""
    first = scored(services)

    assert steps(next_job(services, first, **asked)) == []


def test_other_weights_are_another_network(services: Services) -> None:
    """Nothing is shared between models."""
    scored(services)

    job(services, content=b"other network")

    assert steps(claim(services)) == []


def test_an_attempts_own_record_comes_first(services: Services) -> None:
    """A job that recorded the step itself resumes from its own."""
    first = scored(services)
    second = next_job(services, first)
    own = artifact(services, b"own scores").sha256
    services.attempts.record_checkpoint(second.job_id, second.epoch, "score", {"score.safetensors": (own, 10)})
    services.attempts.release(second.job_id, second.epoch, "shutdown")

    again = claim(services)

    assert [(file.step, file.sha256) for file in again.checkpoints] == [("score", own)]


def test_statistics_go_when_nobody_used_them_for_a_week(services: Services, clock: FakeClock) -> None:
    """Each use counts anew; their content is collected with them."""
    first = scored(services)
    clock.advance(days=5)
    assert steps(next_job(services, first)) == ["score"]
    clock.advance(days=5)

    assert services.garbage.forget_statistics() == 0
    clock.advance(days=3)
    assert services.garbage.forget_statistics() == 1

    assert steps(next_job(services, first)) == []
