"""The roll of workers."""

from datetime import timedelta

from app.services.assembly import Services
from tests.builders import FakeClock


def seen(services: Services, worker_id: str, job_id: str | None = None) -> None:
    services.workers.seen(worker_id, queues=["cpu"], bell="silent", job_id=job_id, system={"torch": "2.13"})


def test_workers_that_look_are_present(services: Services, clock: FakeClock) -> None:
    """Whoever was seen lately is there, with what it does; whoever fell silent is not."""
    seen(services, "a")
    clock.advance(seconds=20)
    seen(services, "b", "job_1")
    clock.advance(seconds=20)
    seen(services, "b", "job_2")

    (present,) = services.workers.present(timedelta(seconds=30))

    assert (present.id, present.job_id, present.started_at < present.seen_at) == ("b", "job_2", True)


def test_workers_that_stop_are_gone(services: Services, clock: FakeClock) -> None:
    """A worker that says goodbye leaves at once, a dead one when it is old."""
    seen(services, "a")
    seen(services, "b")
    services.workers.gone("a")

    assert [row.id for row in services.workers.present(timedelta(days=1))] == ["b"]

    clock.advance(hours=1)

    assert services.workers.forget(timedelta(minutes=1)) == 1
    assert services.workers.present(timedelta(days=1)) == []
