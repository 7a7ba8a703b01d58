"""What workers do for jobs that need a latency: questions asked once, tables of layers, limits of waiting."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.batch import BatchItem, BatchSpec
from app.domain.device import DeviceSpec, Poll
from app.domain.report import MeasuredKind, MeasurementReport
from app.errors import LeaseLost, ValidationFailed
from app.services.assembly import Services
from app.services.claims import Claimed
from app.services.timings import Conditions
from app.storage.blobs import put
from tests.builders import TENANT, FakeClock, claim, job, measurement

HERE = Conditions(threads=1, runtime_version="1.31.1")
HOUR = timedelta(hours=1)


def layer(services: Services, key: str, ms: float = 1.0, **changes: Any) -> MeasurementReport:
    """A layer of this host that took so long."""
    values = {"kind": "layer", "key": key, "p50_ms": ms, "host": {"cpu": "test", "os": "Linux"}, **changes}
    return measurement(put(services.store, [key.encode()]).digest, **values)


def working(services: Services, content: bytes = b"network") -> Claimed:
    """A job that an attempt holds."""
    job(services, content=content)
    return claim(services)


def question(services: Services, *names: str) -> BatchSpec:
    """Layers whose bytes are stored."""
    blobs = {name: put(services.store, [name.encode()]) for name in names}
    items = tuple(
        BatchItem(name=name, kind=MeasuredKind.LAYER, key=name, sha256=blob.digest, size_bytes=blob.size_bytes)
        for name, blob in blobs.items()
    )
    return BatchSpec(items=items, repeats=6)


def test_layers_of_earlier_jobs_are_known_to_later_ones(services: Services, clock: FakeClock) -> None:
    """The newest of each key; what was timed since the job began is left out, so that every attempt asks the same."""
    first = working(services)
    services.timings.keep(first.job_id, first.epoch, [layer(services, "a", 9.0), layer(services, "b", 2.0)])
    clock.advance(seconds=1)
    services.timings.keep(first.job_id, first.epoch, [layer(services, "a", 1.0)])
    assert services.timings.table(TENANT, "dev_local", HERE, job_id=first.job_id) == {}
    clock.advance(seconds=1)
    second = working(services, b"another")
    services.timings.keep(second.job_id, second.epoch, [layer(services, "a", 5.0)])

    assert services.timings.table(TENANT, "dev_local", HERE, job_id=second.job_id) == {"a": 1.0, "b": 2.0}
    assert services.timings.table("other", "dev_local", HERE, job_id=second.job_id) == {}


@pytest.mark.parametrize(
    "changes",
    [{"threads": 2}, {"runtime_version": "1.0"}, {"provider": "other"}, {"kind": "network"}, {"device": "dev_x"}],
)
def test_a_row_under_other_conditions_is_another_row(
    services: Services, clock: FakeClock, changes: dict[str, Any]
) -> None:
    """Threads, version of the runtime, provider and device tell tables apart; whole networks are no rows."""
    first = working(services)
    services.timings.keep(first.job_id, first.epoch, [layer(services, "a", **changes)])
    clock.advance(seconds=1)
    second = working(services, b"another")

    assert services.timings.table(TENANT, "dev_local", HERE, job_id=second.job_id) == {}


def test_processor_time_stands_in_where_other_programs_were_busy(services: Services, clock: FakeClock) -> None:
    """The engine reads measurements in the same way; and a worker's rows are of its own processor."""
    busy = {"cpu": "test", "os": "Linux", "on_cpu_share": 0.5, "on_cpu_p50_ms": 0.75}
    first = working(services)
    services.timings.keep(first.job_id, first.epoch, [layer(services, "a", 3.0, host=busy)])
    clock.advance(seconds=1)
    second = working(services, b"another")
    same, other = (Conditions(threads=1, runtime_version="1.31.1", cpu=cpu) for cpu in ("test", "another"))

    assert services.timings.table(TENANT, "dev_local", same, job_id=second.job_id) == {"a": 0.75}
    assert services.timings.table(TENANT, "dev_local", other, job_id=second.job_id) == {}


def test_what_a_lost_attempt_timed_is_not_recorded(services: Services) -> None:
    """The record is fenced like every write of a worker."""
    claimed = working(services)
    with pytest.raises(LeaseLost):
        services.timings.keep(claimed.job_id, claimed.epoch - 1, [layer(services, "a")])


def test_a_question_of_a_job_is_one_request(services: Services) -> None:
    """Asked again by another attempt it is the same; another job's, or another question, is its own."""
    device = services.devices.register(TENANT, DeviceSpec(name="board")).device.id
    first, second = working(services), working(services, b"another")
    asked = question(services, "a", "b")
    ids = [
        services.timings.ask(TENANT, device, asked, job_id=job_id, question=text)
        for job_id, text in ((first.job_id, "q"), (first.job_id, "q"), (first.job_id, "p"), (second.job_id, "q"))
    ]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_waiting_ends_when_the_device_was_silent_for_too_long(services: Services, clock: FakeClock) -> None:
    """The limit counts from when the device was asked, or heard of last; then its question is cancelled."""
    made = services.devices.register(TENANT, DeviceSpec(name="board"))
    row = services.devices.authenticate(made.token)
    claimed = working(services)
    request = services.timings.ask(TENANT, row.id, question(services, "a"), job_id=claimed.job_id, question="q")
    clock.advance(minutes=50)
    services.device_work.seen(row, Poll(agent="agentone"))
    clock.advance(minutes=59)
    waiting = services.timings.look(TENANT, row.id, request, wait=HOUR)
    clock.advance(minutes=1)
    late = services.timings.look(TENANT, row.id, request, wait=HOUR)
    services.timings.give_up(TENANT, row.id, request)

    assert (waiting.ended, waiting.overdue, waiting.now - (waiting.seen_at or waiting.now)) == (
        False,
        False,
        timedelta(minutes=59),
    )
    assert late.overdue
    assert services.timings.look(TENANT, row.id, request, wait=HOUR).ended


def test_a_revoked_device_is_asked_nothing(services: Services) -> None:
    """The job learns it at once."""
    device = services.devices.register(TENANT, DeviceSpec(name="board")).device.id
    claimed = working(services)
    services.devices.revoke(TENANT, device)
    with pytest.raises(ValidationFailed):
        services.timings.ask(TENANT, device, question(services, "a"), job_id=claimed.job_id, question="q")


def test_a_job_that_ends_cancels_what_it_asked(services: Services) -> None:
    """Cancelled, failed or done: nobody waits for the answer."""
    device = services.devices.register(TENANT, DeviceSpec(name="board")).device.id
    claimed = working(services)
    request = services.timings.ask(TENANT, device, question(services, "a"), job_id=claimed.job_id, question="q")
    services.attempts.fail(claimed.job_id, claimed.epoch, {"type": "device-gone"}, retryable=False)

    assert services.devices.request(TENANT, device, request).state == "cancelled"


def test_how_a_device_times_is_what_its_agent_reports(services: Services) -> None:
    """Threads of the job, else its own, else one; without a word of its agent the runtime is unknown."""
    made = services.devices.register(TENANT, DeviceSpec(name="board"))
    row = services.devices.authenticate(made.token)
    unknown = services.timings.conditions(TENANT, row.id, threads=None)
    said = {"threads": 4, "runtime_version": "1.2", "provider": "XnnpackExecutionProvider"}
    services.device_work.seen(row, Poll(agent="agentone", attributes=said))
    known, told = (services.timings.conditions(TENANT, row.id, threads=threads) for threads in (None, 2))

    assert unknown == Conditions(threads=1, runtime_version=None)
    assert known == Conditions(threads=4, runtime_version="1.2", provider="XnnpackExecutionProvider")
    assert told.threads == 2
