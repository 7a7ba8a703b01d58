"""Devices and their agents' work, on both databases, with a clock in the test's hands."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.db.tables import DeviceRow, MeasurementRow
from app.domain.device import (
    LOCAL,
    DeviceSpec,
    DeviceState,
    FailureReport,
    LatencyReport,
    MeasurementSpec,
    Poll,
    RequestState,
    read,
)
from app.errors import (
    DeviceLeaseLost,
    DeviceRevoked,
    MeasurementRefused,
    NotFound,
    Unauthorized,
    ValidationFailed,
)
from app.services.assembly import Services
from app.services.device_work import Lease
from tests.builders import TENANT, FakeClock, artifact, claim, job, upload_model

CONTENT = b"a network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
POLL = Poll(agent="agentone", attributes={"cpu": "test", "threads": 2})
OTHER = Poll(agent="agenttwo")
RESULT = {
    "before": {"macs": 2, "flops": 4, "params": 2, "size_bytes": 2, "peak_activation_bytes": 2},
    "after": {"macs": 1, "flops": 2, "params": 1, "size_bytes": 1, "peak_activation_bytes": 1},
    "target_met": True,
    "stopped_by": "target",
}


def registered(services: Services, name: str = "board", tenant: str = TENANT) -> DeviceRow:
    """A device, as its token names it."""
    return services.devices.authenticate(services.devices.register(tenant, DeviceSpec(name=name)).token)


def asked(services: Services, device: DeviceRow, **changes: Any) -> str:
    """A measurement of a model that waits for the device; gives the request's id."""
    model = upload_model(services, CONTENT)
    return services.devices.ask(TENANT, device.id, MeasurementSpec(model=model.id, **changes)).id


def leased(services: Services, device: DeviceRow, poll: Poll = POLL) -> Lease:
    """The lease that the agent is given, which must be there."""
    lease = services.device_work.lease(device, poll)
    assert lease is not None
    return lease


def report(lease: Lease, **changes: Any) -> LatencyReport:
    """What an agent answers under this lease: 2 ms in the middle."""
    values: dict[str, Any] = {
        "lease": lease.id,
        "sha256": lease.sha256,
        "runtime": "onnxruntime",
        "runtime_version": "1.31.1",
        "provider": lease.provider,
        "threads": lease.threads,
        "batch": lease.batch,
        "warmup": lease.warmup,
        "samples_ms": [3.0, 1.0, 2.0],
        "load_ms": 5.0,
        "host": {"cpu": "test", "os": "Linux"},
    }
    return LatencyReport.model_validate({**values, **changes})


def test_a_token_is_kept_as_its_digest_only(services: Services) -> None:
    """The token opens the device, and no row holds it."""
    made = services.devices.register(TENANT, DeviceSpec(name="board"))

    with services.database.read_only() as session:
        row = session.scalars(select(DeviceRow)).one()
    assert row.token_sha256 == hashlib.sha256(made.token.encode()).hexdigest()
    assert made.token not in str(vars(row))
    assert services.devices.authenticate(made.token).id == made.device.id


@pytest.mark.parametrize("token", ["", "espd_", "espd_wrong", "Bearer", "esp_key"])
def test_a_wrong_token_is_refused(services: Services, token: str) -> None:
    """What is no device's token opens nothing."""
    registered(services)

    with pytest.raises(Unauthorized, match="not that of a device"):
        services.devices.authenticate(token)


def test_a_revoked_token_says_so_and_cancels_what_was_asked(services: Services) -> None:
    """After the revocation the agent is told why, its request ends, and its lease counts no more."""
    made = services.devices.register(TENANT, DeviceSpec(name="board"))
    device = services.devices.authenticate(made.token)
    request = asked(services, device)
    lease = leased(services, device)
    services.devices.revoke(TENANT, device.id)
    services.devices.revoke(TENANT, device.id)

    with pytest.raises(DeviceRevoked, match="was revoked"):
        services.devices.authenticate(made.token)
    assert services.devices.get(TENANT, device.id).state == DeviceState.REVOKED
    assert services.devices.request(TENANT, device.id, request).state == RequestState.CANCELLED
    with pytest.raises(DeviceLeaseLost):
        services.device_work.record(device, report(lease))
    with pytest.raises(ValidationFailed, match="measures nothing any more"):
        asked(services, device)


def test_presence_follows_the_last_call(services: Services, clock: FakeClock) -> None:
    """A device is new, then online, stale after 90 s of silence, gone after a day: the settings' defaults."""
    device = registered(services)
    seen = [services.devices.get(TENANT, device.id).state]
    services.device_work.seen(device, POLL)
    for silence in (90, 1, 24 * 3600 - 91, 1):
        clock.advance(seconds=silence)
        seen.append(services.devices.get(TENANT, device.id).state)

    assert seen == ["new", "online", "stale", "stale", "gone"]
    assert services.devices.get(TENANT, device.id).attributes == POLL.attributes


def test_the_workers_own_processor_is_the_first_device(services: Services, clock: FakeClock) -> None:
    """dev_local is as present as the worker seen last, comes first, and cannot be revoked."""
    device = registered(services)
    assert services.devices.get(TENANT, LOCAL).state == DeviceState.NEW
    services.workers.seen("wrk", queues=["cpu"], bell="silent", job_id=None, system={"torch": "2"})
    first, more = services.devices.page(TENANT, limit=1)
    rest, _ = services.devices.page(TENANT, limit=1, after=LOCAL)

    assert ([found.id for found in first], more) == ([LOCAL], True)
    assert [found.id for found in rest] == [device.id]
    assert first[0].state == DeviceState.ONLINE
    clock.advance(seconds=31)
    assert services.devices.get(TENANT, LOCAL).state == DeviceState.STALE
    with pytest.raises(ValidationFailed, match="no token"):
        services.devices.revoke(TENANT, LOCAL)


def test_the_workers_processor_is_asked_as_any_device(services: Services) -> None:
    """A request to dev_local waits for a worker, which leases it as an agent would; of another tenant's model too."""
    mine, theirs = upload_model(services, CONTENT), upload_model(services, b"another", tenant="other")
    asked = [
        services.devices.ask(TENANT, LOCAL, MeasurementSpec(model=mine.id)),
        services.devices.ask("other", LOCAL, MeasurementSpec(model=theirs.id)),
    ]
    worker = DeviceRow(id=LOCAL, tenant=TENANT, name="local", token_sha256="")
    leases = [leased(services, worker, Poll(agent=f"workerno{number}")) for number in (1, 2)]
    for lease in leases:
        services.device_work.fail(worker, lease.id, FailureReport(reason="load", detail="no network"))

    assert [lease.sha256 for lease in leases] == [mine.sha256, theirs.sha256]
    assert [services.devices.request(row.tenant, LOCAL, row.id).state for row in asked] == ["failed", "failed"]
    with pytest.raises(NotFound):
        services.devices.request(TENANT, LOCAL, asked[1].id)


def test_a_lease_names_everything_that_is_to_be_measured(services: Services, clock: FakeClock) -> None:
    """Digest, size and settings; threads are the device's own where none were asked."""
    device = registered(services)
    asked(services, device, batch=4, repeats=30)
    lease = leased(services, device)

    assert lease == Lease(
        id=lease.id,
        sha256=SHA256,
        size_bytes=len(CONTENT),
        threads=2,
        batch=4,
        provider="CPUExecutionProvider",
        warmup=10,
        repeats=30,
        profile=False,
        until=clock.moment + timedelta(seconds=60),
    )


def test_a_measurement_is_recorded_once(services: Services) -> None:
    """A report that is sent again, also by racing agents, is answered with the same measurement."""
    device = registered(services)
    request = asked(services, device)
    sent = report(leased(services, device))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: services.device_work.record(device, sent), range(8)))

    assert sum(answer.created for answer in answers) == 1
    assert len({answer.row.id for answer in answers}) == 1
    with services.database.read_only() as session:
        kept = session.scalars(select(MeasurementRow)).one()
    # By hand, nearest rank of 1, 2, 3.
    assert (kept.p50_ms, kept.p90_ms, kept.p99_ms, kept.mean_ms) == (2.0, 3.0, 3.0, 2.0)
    assert (kept.device, kept.samples_ms, kept.host["os"]) == (device.id, [3.0, 1.0, 2.0], "Linux")
    ended = services.devices.request(TENANT, device.id, request)
    assert (ended.state, ended.measurement_id, ended.model_id) == ("measured", kept.id, kept.model_id)
    assert services.device_work.lease(device, POLL) is None


def test_an_artifact_is_measured_for_itself(services: Services) -> None:
    """A measurement of an artifact names it; a report is no network."""
    row = job(services)
    made = [artifact(services), artifact(services, b"{}", kind="report", name="report.json")]
    claimed = claim(services)
    services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=made)
    by_kind = {each.kind: each.id for each in services.jobs.artifacts(TENANT, row.id)}
    device = registered(services)
    services.devices.ask(TENANT, device.id, MeasurementSpec(artifact=by_kind["onnx"]))
    kept = services.device_work.record(device, report(leased(services, device))).row

    assert (kept.artifact_id, kept.model_id) == (by_kind["onnx"], None)
    with pytest.raises(ValidationFailed, match="only ONNX"):
        services.devices.ask(TENANT, device.id, MeasurementSpec(artifact=by_kind["report"]))


def test_an_agent_that_died_is_given_its_lease_again(services: Services) -> None:
    """The same agent asks while it holds a lease: it has lost it, and goes on under the same id."""
    device = registered(services)
    asked(services, device)

    assert leased(services, device).id == leased(services, device).id
    assert services.device_work.lease(device, OTHER) is None


def test_a_lease_that_ran_out_goes_to_the_next_agent(services: Services, clock: FakeClock) -> None:
    """After 60 s of silence another agent gets the work under a new lease; the old one counts no more."""
    device = registered(services)
    asked(services, device)
    old = leased(services, device)
    clock.advance(seconds=61)
    new = leased(services, device, OTHER)

    assert new.id != old.id
    with pytest.raises(DeviceLeaseLost, match=old.id):
        services.device_work.record(device, report(old))
    with pytest.raises(DeviceLeaseLost):
        services.device_work.renew(device, old.id)
    assert services.device_work.record(device, report(new)).created


def test_a_late_report_counts_where_nobody_else_has_the_work(services: Services, clock: FakeClock) -> None:
    """A device that was cut off while it measured has not measured in vain."""
    device = registered(services)
    asked(services, device)
    lease = leased(services, device)
    clock.advance(hours=3)

    assert services.device_work.record(device, report(lease)).created


def test_renewing_keeps_a_lease(services: Services, clock: FakeClock) -> None:
    """Whoever renews in time is not overtaken."""
    device = registered(services)
    asked(services, device)
    lease = leased(services, device)
    clock.advance(seconds=50)

    assert services.device_work.renew(device, lease.id) == clock.moment + timedelta(seconds=60)
    clock.advance(seconds=50)
    assert services.device_work.lease(device, OTHER) is None


@pytest.mark.parametrize("silence", [1, 61])
def test_a_network_that_kills_its_device_is_given_up(services: Services, clock: FakeClock, silence: int) -> None:
    """After five leases without an answer the request fails, however soon the agent comes back each time."""
    device = registered(services)
    request, behind = asked(services, device), asked(services, device, batch=2)
    for _ in range(5):
        assert leased(services, device).batch == 1
        clock.advance(seconds=silence)

    assert leased(services, device).batch == 2
    ended = services.devices.request(TENANT, device.id, request)
    assert ended.state == RequestState.FAILED
    assert ended.problem is not None
    assert "lost with this network 5 times" in str(ended.problem["detail"])
    assert services.devices.request(TENANT, device.id, behind).state == RequestState.LEASED


def test_what_is_not_measured_in_its_time_fails(services: Services, clock: FakeClock) -> None:
    """A device that never comes does not keep a request waiting for ever."""
    device = registered(services)
    request = asked(services, device)
    clock.advance(hours=24)

    assert services.device_work.give_up_overdue() == 1
    assert services.device_work.give_up_overdue() == 0
    ended = services.devices.request(TENANT, device.id, request)
    assert (ended.state, (ended.problem or {})["type"]) == ("failed", "device-away")


def test_a_failure_reaches_the_user_in_the_runtimes_words(services: Services) -> None:
    """The device's own words are the problem of the request; sent again, they change nothing."""
    device = registered(services)
    request = asked(services, device)
    lease = leased(services, device)
    words = FailureReport(reason="load", detail="[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Frobnicate(1)")
    services.device_work.fail(device, lease.id, words)
    services.device_work.fail(device, lease.id, FailureReport(reason="run", detail="later"))

    ended = services.devices.request(TENANT, device.id, request)
    assert (ended.state, (ended.problem or {})["reason"]) == ("failed", "load")
    assert (ended.problem or {})["detail"] == words.detail
    with pytest.raises(DeviceLeaseLost):
        services.device_work.record(device, report(lease))


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"sha256": "0" * 64}, "/sha256"),
        ({"threads": 7}, "/threads"),
        ({"provider": "CUDAExecutionProvider"}, "/provider"),
        ({"samples_ms": [1e6] * 10}, "/samples_ms"),
    ],
)
def test_what_was_not_leased_or_cannot_be_is_refused(
    services: Services, clock: FakeClock, changes: dict[str, Any], pointer: str
) -> None:
    """Other bytes, other settings, or samples that need more time than there was; the lease stays."""
    device = registered(services)
    asked(services, device, threads=1)
    lease = leased(services, device)
    clock.advance(seconds=10)

    with pytest.raises(MeasurementRefused) as refused:
        services.device_work.record(device, report(lease, **changes))
    assert [error.pointer for error in refused.value.errors] == [pointer]
    assert services.device_work.record(device, report(lease)).created


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"samples_ms": [-1.0]}, "/samples_ms/0"),
        ({"samples_ms": [1.0, 0.0]}, "/samples_ms/1"),
        ({"samples_ms": [float("inf")]}, "/samples_ms/0"),
        ({"samples_ms": [float("nan")]}, "/samples_ms/0"),
        ({"samples_ms": [1e12]}, "/samples_ms/0"),
        ({"samples_ms": []}, "/samples_ms"),
        ({"load_ms": -5.0}, "/load_ms"),
        ({"host": {}}, "/host"),
        ({"host": {"cpu": "x", "os": "y", "heat": float("inf")}}, "/host"),
        ({"host": {"cpu": "", "os": "Linux"}}, "/host"),
        ({"p50_ms": 1.0}, "/p50_ms"),
    ],
)
def test_samples_that_no_clock_gives_are_refused(changes: dict[str, Any], pointer: str) -> None:
    """Negative, zero, infinite or absurd samples, no samples, and a latency without its host."""
    lease = {"lease": "lse_1", "sha256": SHA256, "runtime": "r", "runtime_version": "1", "provider": "p"}
    counts = {"threads": 1, "batch": 1, "warmup": 0}
    rest = {"samples_ms": [1.0], "load_ms": 1.0, "host": {"cpu": "x", "os": "y"}}

    with pytest.raises(ValidationFailed) as refused:
        read(LatencyReport, {**lease, **counts, **rest, **changes})
    assert refused.value.errors[0].pointer == pointer


def test_a_device_sees_nothing_of_another(services: Services) -> None:
    """Another device's lease, and another tenant's model, are not there."""
    mine, theirs = registered(services, "mine"), registered(services, "theirs", tenant="other")
    asked(services, mine)
    lease = leased(services, mine)

    assert services.device_work.lease(theirs, POLL) is None
    for call in (services.device_work.content, services.device_work.renew):
        with pytest.raises(DeviceLeaseLost):
            call(theirs, lease.id)
    with pytest.raises(DeviceLeaseLost):
        services.device_work.record(theirs, report(lease))
    with pytest.raises(NotFound):
        services.devices.ask("other", theirs.id, MeasurementSpec(model=upload_model(services, CONTENT).id))
    with pytest.raises(NotFound):
        services.devices.get("other", mine.id)


def test_a_clock_that_goes_back_loses_no_measurement(services: Services, clock: FakeClock) -> None:
    """The server's own clock may be set back between lease and report."""
    device = registered(services)
    asked(services, device)
    lease = leased(services, device)
    clock.advance(hours=-1)

    assert services.device_work.record(device, report(lease, samples_ms=[5000.0])).created


def test_a_cancelled_request_takes_no_answer(services: Services) -> None:
    """Cancelled is final; cancelling again gives the same."""
    device = registered(services)
    request = asked(services, device)
    lease = leased(services, device)

    assert services.devices.cancel(TENANT, device.id, request).state == RequestState.CANCELLED
    assert services.devices.cancel(TENANT, device.id, request).state == RequestState.CANCELLED
    with pytest.raises(DeviceLeaseLost):
        services.device_work.record(device, report(lease))


def test_what_waits_to_be_measured_is_not_collected(services: Services, clock: FakeClock) -> None:
    """The bytes of a deleted model stay until its measurement has ended."""
    device = registered(services)
    request = asked(services, device)
    row = services.devices.request(TENANT, device.id, request)
    services.inputs.delete_model(TENANT, row.model_id or "")
    clock.advance(days=400)
    services.garbage.collect()

    assert services.store.stat(row.sha256) is not None
    services.devices.cancel(TENANT, device.id, request)
    services.garbage.collect()
    assert services.store.stat(row.sha256) is None
