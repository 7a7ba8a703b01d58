"""What users do with jobs, and what they are refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db import inputs
from app.db.tables import DatasetRow
from app.domain.device import DeviceSpec, Poll
from app.domain.job import InputState, JobState
from app.errors import (
    DatasetMismatch,
    DatasetRejected,
    DeviceGone,
    IdempotencyConflict,
    ModelNotReady,
    ModelRejected,
    NotFound,
    ServiceError,
    TargetUnreachable,
    TargetUnsupported,
    ValidationFailed,
)
from app.services.assembly import Services
from app.services.idempotency import Replay, Ticket
from tests.builders import (
    TENANT,
    FakeClock,
    RecordingBell,
    analysed_model,
    artifact,
    claim,
    job,
    spec,
    upload_dataset,
    upload_model,
)


def settle_dataset(services: Services, row_id: str, state: InputState, **values: object) -> None:
    with services.database.unit_of_work() as session:
        inputs.settle(session, DatasetRow, TENANT, row_id, state=state, **values)


def test_an_accepted_job_waits_and_the_bell_rings(services: Services, bell: RecordingBell, clock: FakeClock) -> None:
    """A submission leaves a queued job, its first event, no outstanding message, and one ring."""
    model = analysed_model(services)
    bell.rung.clear()

    row = services.jobs.submit(TENANT, spec(model.id, name="mine", seed=3))

    assert (row.state, row.version, row.created_at, row.name) == ("queued", 1, clock.moment, "mine")
    assert row.spec["seed"] == 3
    assert bell.rung == ["cpu"]
    events, more, ended = services.jobs.events(TENANT, row.id, limit=10)
    assert [(event.seq, event.type) for event in events] == [(1, "queued")]
    assert (more, ended) == (False, False)


def test_a_broken_bell_refuses_no_job(services: Services, bell: RecordingBell, clock: FakeClock) -> None:
    """Without a bell the job is accepted; the sweeper rings for it later."""
    model = analysed_model(services)
    bell.broken = True
    row = services.jobs.submit(TENANT, spec(model.id))
    clock.advance(seconds=3)

    assert services.outbox.resend() == 0

    bell.broken, bell.rung = False, []
    clock.advance(seconds=60)

    assert services.outbox.resend() == 1
    assert bell.rung == ["cpu"]
    assert claim(services).job_id == row.id


def test_a_model_that_is_still_analysed_is_accepted(services: Services) -> None:
    """What is not known yet is not refused; the claim looks again."""
    model = upload_model(services)

    assert services.jobs.submit(TENANT, spec(model.id, target="macs=1%")).state == "queued"


@pytest.mark.parametrize("target", ["macs=27%", "params=5%", {"metric": "flops", "value": 279}])
def test_an_unreachable_target_is_refused_at_the_door(services: Services, target: object) -> None:
    """The floor of the analysed model decides; nothing is queued."""
    model = analysed_model(services)
    with pytest.raises(TargetUnreachable, match="the smallest reachable is"):
        services.jobs.submit(TENANT, spec(model.id, target=target))

    assert services.jobs.page(TENANT, limit=10) == ([], False)


def test_the_smallest_kept_share_counts(services: Services) -> None:
    """What is unreachable with the default floor is reachable with a lower one, and the other way round."""
    model = analysed_model(services)
    services.jobs.submit(TENANT, spec(model.id, target="macs=28%"))
    with pytest.raises(TargetUnreachable):
        services.jobs.submit(TENANT, spec(model.id, target="macs=28%", export={"min_keep": 0.5}))


def test_each_entry_of_targets_is_checked(services: Services) -> None:
    """The refusal points at the entry."""
    model = analysed_model(services)
    with pytest.raises(TargetUnreachable) as refusal:
        services.jobs.submit(TENANT, spec(model.id, target=None, targets=["macs=50%", "macs=5%"]))

    assert refusal.value.errors[0].pointer == "/targets/1"


def test_a_latency_target_is_accepted(services: Services) -> None:
    """On `dev_local`, or on a device whose agent has not called yet: the job waits for it."""
    model = analysed_model(services)
    device = services.devices.register(TENANT, DeviceSpec(name="board")).device
    plain = services.jobs.submit(TENANT, spec(model.id, target="latency=50%,flops=60%"))
    named = services.jobs.submit(TENANT, spec(model.id, target=f"latency=8ms@{device.id}"))

    assert [plain.state, named.state] == ["queued", "queued"]


def test_a_latency_target_needs_a_device_of_this_tenant(services: Services, clock: FakeClock) -> None:
    """Unknown, another tenant's, revoked and long silent devices are refused, each with its pointer."""
    model = analysed_model(services)
    foreign = services.devices.register("other", DeviceSpec(name="board")).device.id
    made = services.devices.register(TENANT, DeviceSpec(name="board"))
    row = services.devices.authenticate(made.token)
    for asked, pointer in (
        ({"target": "latency=8ms@dev_none"}, "/target"),
        ({"target": f"latency=8ms@{foreign}"}, "/target"),
        ({"target": "latency=8ms", "device": "dev_none"}, "/device"),
        ({"target": None, "targets": ["flops=50%", "latency=8ms@dev_none"]}, "/targets/1"),
        ({"measure_on": ["dev_local", "dev_none"]}, "/measure_on/1"),
    ):
        with pytest.raises(NotFound) as refusal:
            services.jobs.submit(TENANT, spec(model.id, **asked))
        assert refusal.value.errors[0].pointer == pointer
    services.device_work.seen(row, Poll(agent="agentone"))
    clock.advance(hours=23)
    services.jobs.submit(TENANT, spec(model.id, target=f"latency=8ms@{row.id}"))  # stale: it may come back
    clock.advance(hours=2)
    with pytest.raises(DeviceGone, match="Start its agent"):
        services.jobs.submit(TENANT, spec(model.id, target=f"latency=8ms@{row.id}"))
    services.devices.revoke(TENANT, row.id)
    with pytest.raises(ValidationFailed, match="was revoked"):
        services.jobs.submit(TENANT, spec(model.id, target=f"latency=8ms@{row.id}"))


def test_methods_that_cannot_aim_at_a_latency_say_so(services: Services) -> None:
    """The refusal names those that can; measuring on a device is no target, and open to all."""
    model = analysed_model(services)
    with pytest.raises(TargetUnsupported, match="auto, easiedge, lcp, magnitude, random"):
        services.jobs.submit(TENANT, spec(model.id, target="latency=8ms", method="dynhp"))
    services.jobs.submit(TENANT, spec(model.id, measure_on=["dev_local"], method="dynhp"))


def test_an_estimate_says_that_a_latency_must_be_measured(services: Services) -> None:
    """The other targets are predicted; what the device takes is not made up."""
    found = services.jobs.estimate(TENANT, spec(analysed_model(services).id, target="latency=50%,macs=50%"))

    assert [entry["device"] for entry in found["latencies"]] == ["dev_local"]  # type: ignore[attr-defined]
    assert found["latencies"][0]["reachable"] is None  # type: ignore[index]
    assert found["predictions"][0]["after"]["macs"] <= 250  # type: ignore[index]
    assert found["refusals"] == []


def test_a_rejected_model_is_refused_with_its_reason(services: Services) -> None:
    """What the analysis said is said again, by submit and by estimate."""
    model = upload_model(services)
    claimed = claim(services)
    problem = {"type": "external-data", "detail": "Weights lie in another file."}
    services.attempts.fail(claimed.job_id, claimed.epoch, problem, retryable=False)
    for ask in (services.jobs.submit, services.jobs.estimate):
        with pytest.raises(ModelRejected, match="Weights lie in another file") as refusal:
            ask(TENANT, spec(model.id))

        assert refusal.value.extra["cause"]["type"] == "external-data"  # type: ignore[index]


def test_a_rejected_dataset_is_refused_with_its_reason(services: Services) -> None:
    """The same for data."""
    model, dataset = analysed_model(services), upload_dataset(services)
    settle_dataset(services, dataset.id, InputState.REJECTED, problem={"type": "x", "detail": "A zip bomb."})
    with pytest.raises(DatasetRejected, match="A zip bomb"):
        services.jobs.submit(TENANT, spec(model.id, dataset=dataset.id))


@pytest.mark.parametrize(("num_classes", "fits"), [(10, True), (2, True), (None, True), (11, False)])
def test_more_classes_than_the_model_knows_do_not_fit(services: Services, num_classes: int | None, fits: bool) -> None:
    """The builders' model tells ten classes apart."""
    model, dataset = analysed_model(services), upload_dataset(services)
    settle_dataset(services, dataset.id, InputState.READY, description={"num_classes": num_classes})
    if fits:
        services.jobs.submit(TENANT, spec(model.id, dataset=dataset.id))
        return
    with pytest.raises(DatasetMismatch, match="11 classes; the model's output tells 10 apart"):
        services.jobs.submit(TENANT, spec(model.id, dataset=dataset.id))


def test_inputs_of_others_do_not_exist(services: Services) -> None:
    """Another tenant's model and dataset are not found, and the pointer says which."""
    model, foreign = analysed_model(services), analysed_model(services, tenant="other")
    data = upload_dataset(services, tenant="other")
    for wrong, pointer in ((spec(foreign.id), "/model"), (spec(model.id, dataset=data.id), "/dataset")):
        with pytest.raises(NotFound) as refusal:
            services.jobs.submit(TENANT, wrong)

        assert refusal.value.errors[0].pointer == pointer


def test_jobs_of_others_do_not_exist(services: Services) -> None:
    """Every verb answers a foreign id as it answers one that never was."""
    row = job(services)
    made = artifact(services)
    claimed = claim(services)
    services.attempts.finish(row.id, claimed.epoch, {}, [made])
    kept = services.jobs.artifacts(TENANT, row.id)[0]
    for verb in (services.jobs.get, services.jobs.version, services.jobs.cancel, services.jobs.artifacts):
        with pytest.raises(NotFound, match="There is no job"):
            verb("other", row.id)
    with pytest.raises(NotFound):
        services.jobs.events("other", row.id, limit=1)
    with pytest.raises(NotFound, match="There is no artifact"):
        services.jobs.artifact("other", kept.id)

    assert services.jobs.page("other", limit=10) == ([], False)
    assert services.jobs.artifact(TENANT, kept.id).sha256 == made.sha256


def test_analyses_are_not_jobs_of_users(services: Services) -> None:
    """The internal kinds are in no list and under no id."""
    upload_model(services)
    claimed = claim(services)
    with pytest.raises(NotFound):
        services.jobs.get(TENANT, claimed.job_id)

    assert services.jobs.page(TENANT, limit=10) == ([], False)


def test_a_waiting_job_is_cancelled_at_once(services: Services) -> None:
    """It never runs; cancelling again changes nothing, not even the version."""
    row = job(services)
    cancelled = services.jobs.cancel(TENANT, row.id)
    again = services.jobs.cancel(TENANT, row.id)

    assert (cancelled.state, again.state, again.version) == ("cancelled", "cancelled", cancelled.version)
    assert cancelled.finished_at is not None
    assert services.attempts.claim("worker", ["cpu"]) is None


def test_a_finished_job_is_not_cancelled(services: Services) -> None:
    """A job that has ended is given unchanged."""
    row = job(services)
    claimed = claim(services)
    services.attempts.finish(row.id, claimed.epoch, {})

    assert services.jobs.cancel(TENANT, row.id).state == JobState.SUCCEEDED


def test_pages_follow_each_other(services: Services) -> None:
    """Newest first, by cursor, without gaps or repetitions; a limit beyond the cap is capped."""
    model = analysed_model(services)
    made = [services.jobs.submit(TENANT, spec(model.id)).id for _ in range(5)]
    services.jobs.cancel(TENANT, made[0])
    first, more = services.jobs.page(TENANT, limit=3)
    rest, end = services.jobs.page(TENANT, limit=10_000, after=first[-1].id)
    cancelled, _ = services.jobs.page(TENANT, states=[JobState.CANCELLED], limit=10)

    assert [row.id for row in [*first, *rest]] == made[::-1]
    assert (more, end) == (True, False)
    assert [row.id for row in cancelled] == [made[0]]


def test_events_are_read_on_from_a_number(services: Services) -> None:
    """`after` skips what was seen; the last page of an ended job says that there will be no more."""
    row = job(services)
    claimed = claim(services)
    services.attempts.finish(row.id, claimed.epoch, {})
    page, more, _ = services.jobs.events(TENANT, row.id, limit=2)
    rest, _, ended = services.jobs.events(TENANT, row.id, after=page[-1].seq, limit=2)

    assert ([event.type for event in page], more) == (["queued", "running"], True)
    assert ([event.type for event in rest], ended) == (["succeeded"], True)


def test_the_version_follows_the_row(services: Services) -> None:
    """The cheap version is that of the whole row, and changes with every change that a poll would show."""
    row = job(services)
    versions = [services.jobs.version(TENANT, row.id)]
    claim(services)
    versions.append(services.jobs.version(TENANT, row.id))

    assert versions == [(1, JobState.QUEUED), (2, JobState.RUNNING)]
    assert services.jobs.get(TENANT, row.id).version == 2


def test_an_estimate_runs_nothing(services: Services) -> None:
    """Groups, range and prediction of an analysed model; refusals are told, not raised."""
    model = analysed_model(services)
    plan = services.jobs.estimate(TENANT, spec(model.id))
    refused = services.jobs.estimate(TENANT, spec(model.id, target="macs=1%"))

    # Half of 500 MACs: 100 + 40 k <= 250 gives k = 3.
    assert plan["predictions"][0]["groups"] == [{"id": "g0", "before": 10, "after": 3}]  # type: ignore[index]
    assert plan["refusals"] == []
    assert [problem["type"] for problem in refused["refusals"]] == ["target-unreachable"]  # type: ignore[attr-defined]
    assert services.jobs.page(TENANT, limit=10) == ([], False)


def test_an_estimate_needs_an_analysis(services: Services) -> None:
    """A model that is still analysed cannot be planned with."""
    with pytest.raises(ModelNotReady, match="still being analysed"):
        services.jobs.estimate(TENANT, spec(upload_model(services).id))


def test_50_submissions_with_one_key_make_one_job(services: Services) -> None:
    """One does the work; the others get its job, or are told that it still runs."""
    model = analysed_model(services)
    start = threading.Barrier(50)

    def post(_: int) -> str | None:
        start.wait()
        try:
            ticket = services.idempotency.begin(TENANT, "key", "f" * 64)
            if isinstance(ticket, Replay):
                return ticket.resource_id
            row = services.jobs.submit(TENANT, spec(model.id), ticket=ticket)
        except IdempotencyConflict:
            return None
        services.idempotency.complete(ticket, status=202, headers={}, body="{}", resource_id=row.id)
        return row.id

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(post, range(50)))
    rows, _ = services.jobs.page(TENANT, limit=100)

    assert len(rows) == 1
    assert answers - {None} == {rows[0].id}


def test_a_refused_submission_writes_nothing(services: Services) -> None:
    """A ticket that was taken over aborts the whole transaction: no job, no event, no message."""
    model = analysed_model(services)
    stolen = Ticket(tenant=TENANT, key="never begun", owner="req_x")
    with pytest.raises(IdempotencyConflict):
        services.jobs.submit(TENANT, spec(model.id), ticket=stolen)

    assert services.jobs.page(TENANT, limit=10) == ([], False)
    assert services.attempts.claim("worker", ["cpu"]) is None


def test_refusals_are_service_errors(services: Services) -> None:
    """Each refusal renders as a problem with a type, a status and a detail."""
    with pytest.raises(ServiceError) as refusal:
        services.jobs.get(TENANT, "job_nowhere")

    assert refusal.value.problem() == {
        "type": "not-found",
        "title": "Not found",
        "status": 404,
        "detail": "There is no job job_nowhere.",
        "errors": [],
        "retryable": False,
    }
