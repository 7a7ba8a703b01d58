"""What workers may do with jobs, and what they may not do any more."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.db.session import Database
from app.domain.job import JobKind, JobState, Phase
from app.domain.record import Which
from app.errors import BlobCorrupt, BlobMissing, LeaseLost
from app.ids import Digest
from app.services.assembly import Services
from app.services.claims import Progress
from app.services.results import NewArtifact
from app.settings import Settings
from tests.builders import (
    ANALYSIS,
    TENANT,
    FakeClock,
    RecordingBell,
    analysed_model,
    artifact,
    claim,
    job,
    measurement,
    spec,
    upload_dataset,
    upload_model,
)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger().setLevel(logging.ERROR)


def state(services: Services, job_id: str) -> JobState:
    return services.jobs.version(TENANT, job_id)[1]


def kinds(services: Services, job_id: str) -> list[str]:
    return [event.type for event in services.jobs.events(TENANT, job_id, limit=100)[0]]


def test_a_claimed_job_is_running(services: Services, clock: FakeClock) -> None:
    """A claim raises attempt and epoch, starts the lease, and gives what the attempt needs."""
    row = job(services)

    claimed = claim(services, "worker-7")

    assert (claimed.job_id, claimed.attempt, claimed.epoch, claimed.losses) == (row.id, 1, 1, 0)
    assert claimed.network is not None
    assert claimed.network.size_bytes == len(b"network")
    assert claimed.lease_until == clock.moment + services.settings.lease_seconds
    assert state(services, row.id) is JobState.RUNNING
    assert services.jobs.get(TENANT, row.id).lease_owner == "worker-7"


def test_nothing_waits_nothing_is_claimed(services: Services) -> None:
    """Without a queued job in its queues, a worker gets nothing."""
    job(services)

    assert services.attempts.claim("worker", ["gpu-24g"]) is None

    claim(services)

    assert services.attempts.claim("worker", ["cpu"]) is None


def test_300_jobs_for_8_claimers_are_claimed_once_each(services: Services) -> None:
    """However many workers claim at once, each job goes to exactly one of them."""
    model = analysed_model(services)
    submitted = {services.jobs.submit(TENANT, spec(model.id)).id for _ in range(300)}
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait()
        found = []
        while (claimed := services.attempts.claim(f"worker-{number}", ["cpu"])) is not None:
            found.append(claimed.job_id)
        return found

    with ThreadPoolExecutor(8) as pool:
        claimed = [job_id for found in pool.map(work, range(8)) for job_id in found]

    assert len(claimed) == 300
    assert set(claimed) == submitted


def test_analyses_go_first_then_age(services: Services) -> None:
    """Somebody waits for an analysis, so it passes jobs that were there before; jobs keep their order."""
    model = analysed_model(services)
    first, second = (services.jobs.submit(TENANT, spec(model.id)).id for _ in range(2))
    upload_dataset(services)

    assert claim(services).kind is JobKind.ANALYSE_DATASET
    assert [claim(services).job_id, claim(services).job_id] == [first, second]


def test_a_tenant_with_less_running_goes_first(services: Services) -> None:
    """A tenant who floods the queue does not hold up another one's first job."""
    flood, other = analysed_model(services), analysed_model(services, tenant="other")
    flooding = [services.jobs.submit(TENANT, spec(flood.id)).id for _ in range(3)]
    waiting = services.jobs.submit("other", spec(other.id)).id

    assert claim(services).job_id == flooding[0]
    assert claim(services).job_id == waiting
    assert claim(services).job_id == flooding[1]


def test_a_heartbeat_extends_the_lease(services: Services, clock: FakeClock) -> None:
    """A job that is heard from in time is never taken back."""
    row = job(services)
    claimed = claim(services)
    for _ in range(5):
        clock.advance(seconds=40)

        assert services.attempts.heartbeat(row.id, claimed.epoch) is False
        assert services.attempts.sweep_leases() == 0


def test_a_silent_worker_loses_its_job(services: Services, clock: FakeClock, bell: RecordingBell) -> None:
    """A lease that ran out puts the job back into its queue and rings; the next claim has a higher epoch."""
    row = job(services)
    first = claim(services)
    clock.advance(seconds=46)
    bell.rung.clear()

    assert services.attempts.sweep_leases() == 1
    assert state(services, row.id) is JobState.QUEUED
    assert bell.rung == ["cpu"]

    second = claim(services)

    assert (second.job_id, second.epoch, second.attempt, second.losses) == (row.id, first.epoch + 1, 2, 1)
    assert second.last_problem is not None
    assert second.last_problem["type"] == "worker-lost"


def test_a_worker_that_wakes_up_late_can_write_nothing(services: Services, clock: FakeClock) -> None:
    """Every verb of an attempt that lost its lease is refused, and leaves no trace in the job."""
    row = job(services)
    stale = claim(services)
    clock.advance(seconds=46)
    services.attempts.sweep_leases()
    claim(services)
    before = services.jobs.get(TENANT, row.id)
    made = artifact(services)
    progress = Progress(phase=Phase.FINETUNE, fraction=0.5)
    held = (row.id, stale.epoch)
    attempts = services.attempts
    for write in (
        lambda: attempts.heartbeat(*held),
        lambda: attempts.progress(*held, progress),
        lambda: attempts.describe_sandbox(*held, {}),
        lambda: attempts.record_checkpoint(*held, "step", {}),
        lambda: attempts.finish(*held, {}, [made]),
        lambda: attempts.fail(*held, {}, retryable=False),
        lambda: attempts.release(*held, "shutdown"),
        lambda: attempts.acknowledge_cancel(*held),
    ):
        with pytest.raises(LeaseLost, match=f"no longer held by epoch {stale.epoch}"):
            write()

    assert services.jobs.get(TENANT, row.id).version == before.version
    assert services.jobs.artifacts(TENANT, row.id) == []


def test_a_poison_job_ends(services: Services, clock: FakeClock) -> None:
    """A job whose worker dies each time runs max_attempts times, then fails and says how the last one died."""
    row = job(services)
    for _ in range(services.settings.max_attempts):
        claim(services)
        clock.advance(seconds=46)
        services.attempts.sweep_leases()
    ended = services.jobs.get(TENANT, row.id)

    assert services.attempts.claim("worker", ["cpu"]) is None
    assert (ended.state, ended.attempt, ended.losses) == ("failed", 3, 3)
    assert ended.problem is not None
    assert (ended.problem["type"], ended.problem["retryable"], ended.problem["attempt"]) == ("worker-lost", True, 3)
    assert "All 3 attempts ended like this." in str(ended.problem["detail"])


def test_a_child_that_died_is_retried_with_its_story(services: Services) -> None:
    """What the supervisor says about a dead child reaches the next attempt, and the failure after the last one."""
    row = job(services)
    death = {"type": "worker-lost", "detail": "Killed by SIGKILL.", "signal": "SIGKILL", "peak_rss_bytes": 123}
    for attempt in (1, 2):
        claimed = claim(services)

        assert services.attempts.fail(row.id, claimed.epoch, death, retryable=True) is JobState.QUEUED

        last = services.jobs.get(TENANT, row.id).last_problem
        assert last is not None
        assert (last["signal"], last["attempt"]) == ("SIGKILL", attempt)
    claimed = claim(services)

    assert services.attempts.fail(row.id, claimed.epoch, death, retryable=True) is JobState.FAILED

    problem = services.jobs.get(TENANT, row.id).problem
    assert problem is not None
    assert (problem["signal"], problem["peak_rss_bytes"]) == ("SIGKILL", 123)


def test_a_plain_failure_is_not_retried(services: Services) -> None:
    """A problem that another attempt would meet again ends the job at once, with phase and attempt."""
    row = job(services)
    claimed = claim(services)
    services.attempts.progress(row.id, claimed.epoch, Progress(phase=Phase.LOAD, fraction=0.1))
    problem = {"type": "unsupported-operator", "detail": "No such operator."}

    assert services.attempts.fail(row.id, claimed.epoch, problem, retryable=False) is JobState.FAILED

    stored = services.jobs.get(TENANT, row.id).problem
    assert stored == {**problem, "phase": "load", "attempt": 1, "retryable": False}


def test_giving_a_job_back_costs_no_attempt(services: Services) -> None:
    """A worker that is stopped again and again does not use up the job's attempts."""
    row = job(services)
    for _ in range(5):
        claimed = claim(services)

        assert services.attempts.release(row.id, claimed.epoch, "shutdown") is JobState.QUEUED

    ended = services.jobs.get(TENANT, row.id)
    assert (ended.attempt, ended.losses) == (5, 0)


def test_a_running_job_is_cancelled_in_two_steps(services: Services) -> None:
    """Cancelling shows at once, workers learn of it by heartbeat and progress, and their acknowledgement ends it."""
    row = job(services)
    claimed = claim(services)

    assert services.jobs.cancel(TENANT, row.id).state == JobState.CANCELLING
    assert services.jobs.cancel(TENANT, row.id).state == JobState.CANCELLING
    assert services.attempts.heartbeat(row.id, claimed.epoch) is True
    assert services.attempts.progress(row.id, claimed.epoch, Progress(phase=Phase.CUT, fraction=0.4)) is True
    assert services.attempts.acknowledge_cancel(row.id, claimed.epoch) is JobState.CANCELLED
    assert state(services, row.id) is JobState.CANCELLED
    assert kinds(services, row.id) == ["queued", "running", "cancelling", "progress", "cancelled"]


@pytest.mark.parametrize("answer", ["finish", "fail", "release", "die"])
def test_whatever_a_cancelled_attempt_answers_it_ends_as_cancelled(
    services: Services, clock: FakeClock, answer: str
) -> None:
    """A result, a failure, a release and a death that come after a cancel all end as cancelled, without artifacts."""
    row = job(services)
    claimed = claim(services)
    services.jobs.cancel(TENANT, row.id)
    held = (row.id, claimed.epoch)
    if answer == "finish":
        services.attempts.finish(*held, {"before": {}}, [artifact(services)])
    elif answer == "fail":
        services.attempts.fail(*held, {"type": "worker-lost"}, retryable=True)
    elif answer == "release":
        services.attempts.release(*held, "shutdown")
    else:
        clock.advance(seconds=46)
        services.attempts.sweep_leases()
    ended = services.jobs.get(TENANT, row.id)

    assert ended.state == JobState.CANCELLED
    assert (ended.result, ended.problem, services.jobs.artifacts(TENANT, row.id)) == (None, None, [])


def test_cancel_is_acknowledged_only_where_it_was_asked_for(services: Services) -> None:
    """An attempt cannot cancel a job on its own."""
    row = job(services)
    claimed = claim(services)
    with pytest.raises(LeaseLost, match="was not cancelled"):
        services.attempts.acknowledge_cancel(row.id, claimed.epoch)


def test_a_finished_job_shows_everything_at_once(services: Services) -> None:
    """Result, artifacts and measurements appear with the state; measurements find the bytes that were timed."""
    row = job(services)
    claimed = claim(services)
    made = artifact(services)
    assert claimed.network is not None
    timed = [measurement(made.sha256), measurement(claimed.network.sha256, p50_ms=4.0)]

    assert services.attempts.finish(row.id, claimed.epoch, {"target_met": True}, [made], timed) is JobState.SUCCEEDED

    ended, (kept,) = services.jobs.get(TENANT, row.id), services.jobs.artifacts(TENANT, row.id)
    assert ended.result is not None
    assert ended.result["artifacts"] == [
        {"id": kept.id, "kind": "onnx", "name": "net-pruned.onnx", "sha256": made.sha256, "size_bytes": 6}
    ]
    assert (ended.fraction, ended.lease_owner, ended.problem) == (1.0, None, None)
    assert ended.finished_at is not None
    (after,), _ = services.measurements.page(TENANT, Which(artifact=kept.id), limit=10)
    (before,), _ = services.measurements.page(TENANT, Which(model=row.model_id), limit=10)
    assert (after.p50_ms, before.p50_ms, before.samples_ms) == (2.0, 4.0, [2.0, 1.0, 3.0])


def test_no_success_without_its_bytes(services: Services) -> None:
    """An artifact whose bytes are not in the store, or not whole, cannot be announced."""
    row = job(services)
    claimed = claim(services)
    absent = NewArtifact(kind="onnx", name="x", sha256=Digest("0" * 64), size_bytes=1, summary={})
    with pytest.raises(BlobMissing):
        services.attempts.finish(row.id, claimed.epoch, {}, [absent])
    made = artifact(services)
    path = services.store.path(made.sha256)  # type: ignore[attr-defined]
    path.chmod(0o600)
    path.write_bytes(b"prunee")
    with pytest.raises(BlobCorrupt):
        services.attempts.finish(row.id, claimed.epoch, {}, [made])

    assert state(services, row.id) is JobState.RUNNING


def test_two_finishes_make_one_success(services: Services) -> None:
    """Eight threads that finish the same attempt leave one success, one event, one artifact."""
    row = job(services)
    claimed = claim(services)
    made = artifact(services)
    start = threading.Barrier(8)

    def finish(_: int) -> bool:
        start.wait()
        try:
            services.attempts.finish(row.id, claimed.epoch, {}, [made])
        except LeaseLost:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = sum(pool.map(finish, range(8)))

    assert won == 1
    assert kinds(services, row.id).count("succeeded") == 1
    assert len(services.jobs.artifacts(TENANT, row.id)) == 1


def test_checkpoints_outlive_an_attempt_and_go_with_the_job(services: Services) -> None:
    """The newest files of each step reach the next attempt; when the job ends they are forgotten."""
    row = job(services)
    first = claim(services)
    old, new = artifact(services, b"old"), artifact(services, b"newer")
    record = services.attempts.record_checkpoint
    record(row.id, first.epoch, "finetune", {"a.safetensors": (old.sha256, 3)})
    record(row.id, first.epoch, "finetune", {"a.safetensors": (new.sha256, 5)})
    record(row.id, first.epoch, "score", {"b.safetensors": (old.sha256, 3)})
    services.attempts.release(row.id, first.epoch, "shutdown")

    second = claim(services)

    assert {(file.step, file.name): file.sha256 for file in second.checkpoints} == {
        ("finetune", "a.safetensors"): new.sha256,
        ("score", "b.safetensors"): old.sha256,
    }

    services.attempts.finish(row.id, second.epoch, {})

    assert services.attempts.checkpoints(row.id) == ()


def test_progress_is_kept_to_the_interval(services: Services, clock: FakeClock) -> None:
    """Reports within a second of the last one are dropped, unless they enter a phase; the version follows the rest."""
    row = job(services)
    claimed = claim(services)

    def report(phase: Phase, fraction: float) -> None:
        services.attempts.progress(row.id, claimed.epoch, Progress(phase=phase, fraction=fraction))

    report(Phase.SCORE, 0.1)
    before = services.jobs.get(TENANT, row.id).version
    report(Phase.SCORE, 0.2)

    assert services.jobs.get(TENANT, row.id).version == before

    report(Phase.ALLOCATE, 0.3)
    clock.advance(seconds=1)
    report(Phase.ALLOCATE, 0.4)
    shown = services.jobs.get(TENANT, row.id)

    assert (shown.phase, shown.fraction, shown.version) == ("allocate", 0.4, before + 2)


def test_an_analysis_makes_its_model_ready(services: Services) -> None:
    """The analysis is kept as served; the cost model stays private and only plans read it."""
    model = analysed_model(services)

    assert (model.state, model.analysis) == ("ready", ANALYSIS)


def test_a_failed_analysis_rejects_its_input(services: Services) -> None:
    """A model or dataset that cannot be analysed is rejected with the reason."""
    model, dataset = upload_model(services), upload_dataset(services)
    for _ in range(2):
        claimed = claim(services)
        problem = {"type": "invalid-model", "detail": "Not ONNX."}
        services.attempts.fail(claimed.job_id, claimed.epoch, problem, retryable=False)
    rejected = (services.inputs.model(TENANT, model.id), services.inputs.dataset(TENANT, dataset.id))

    assert [row.state for row in rejected] == ["rejected", "rejected"]
    assert [(row.problem or {})["type"] for row in rejected] == ["invalid-model", "invalid-model"]


def test_a_deleted_model_fails_its_waiting_job(services: Services) -> None:
    """A job whose model was deleted ends as failed when it would start, and says so; later jobs still run."""
    row = job(services)
    other = job(services, content=b"another network")
    services.inputs.delete_model(TENANT, row.model_id or "")

    assert claim(services).job_id == other.id

    ended = services.jobs.get(TENANT, row.id)
    assert ended.problem is not None
    assert (ended.state, ended.problem["type"], ended.problem["phase"]) == ("failed", "model-deleted", "inspect")


def test_an_analysis_of_what_was_deleted_never_starts(services: Services) -> None:
    """A model or dataset that is deleted while it waits for its analysis occupies no worker."""
    services.inputs.delete_model(TENANT, upload_model(services).id)
    services.inputs.delete_dataset(TENANT, upload_dataset(services).id)

    assert services.attempts.claim("worker", ["cpu"]) is None


def test_a_deleted_dataset_fails_its_waiting_job(services: Services) -> None:
    """The failure names the dataset, not the model."""
    model, dataset = analysed_model(services), upload_dataset(services)
    row = services.jobs.submit(TENANT, spec(model.id, dataset=dataset.id))
    services.inputs.delete_dataset(TENANT, dataset.id)

    assert services.attempts.claim("worker", ["cpu"]) is None

    problem = services.jobs.get(TENANT, row.id).problem
    assert problem is not None
    assert (problem["type"], dataset.id in str(problem["detail"])) == ("dataset-deleted", True)


def test_warnings_are_events(services: Services) -> None:
    """What went wrong without ending the attempt is in the job's log."""
    row = job(services)
    claimed = claim(services)
    services.attempts.warn(row.id, claimed.epoch, {"code": "checkpoint-lost"})

    assert kinds(services, row.id) == ["queued", "running", "warning"]


def test_a_model_deleted_during_its_analysis_stays_deleted(services: Services) -> None:
    """The analysis of a deleted model ends quietly."""
    model = upload_model(services)
    claimed = claim(services)
    services.inputs.delete_model(TENANT, model.id)

    assert services.attempts.finish(claimed.job_id, claimed.epoch, {"macs": 1}) is JobState.SUCCEEDED
    assert services.inputs.models(TENANT, limit=10) == ([], False)


def test_a_job_is_refused_at_the_claim_by_what_the_analysis_found(services: Services) -> None:
    """A job that was accepted before the analysis fails in `inspect` with what the submission would have said."""
    model = upload_model(services)
    row = services.jobs.submit(TENANT, spec(model.id, target="macs=20%"))
    analysis = claim(services)
    cost_model = {"widths": [1], "group_ids": ["g"], "macs": [[7, []]], "params": [], "size_bytes": [], "peak": []}
    services.attempts.finish(analysis.job_id, analysis.epoch, {"cost_model": cost_model})

    assert services.attempts.claim("worker", ["cpu"]) is None

    problem = services.jobs.get(TENANT, row.id).problem
    assert problem is not None
    assert (problem["type"], problem["smallest_reachable"], problem["phase"]) == ("target-unreachable", 7.0, "inspect")


def test_the_sandbox_is_recorded(services: Services) -> None:
    """Which layers were around the attempt is kept with the job."""
    row = job(services)
    claimed = claim(services)
    services.attempts.describe_sandbox(row.id, claimed.epoch, {"memory": "rlimit", "network": "namespace"})

    assert services.jobs.get(TENANT, row.id).sandbox == {"memory": "rlimit", "network": "namespace"}


def test_events_have_no_gaps_under_contention(services: Services, database: Database, settings: Settings) -> None:
    """Writers that race for one job number its events 1, 2, 3, ... without gaps."""
    patient = settings.model_copy(update={"progress_seconds": settings.progress_seconds * 0})
    eager = Services.of(
        patient, database=database, store=services.store, bell=services.bell, clock=services.attempts.clock
    )
    row = job(services)
    claimed = claim(services)

    def report(number: int) -> None:
        eager.attempts.progress(row.id, claimed.epoch, Progress(phase=Phase.SCORE, fraction=number / 100))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(60)))
    found, more, _ = services.jobs.events(TENANT, row.id, limit=100)

    assert [event.seq for event in found] == list(range(1, 63))
    assert not more
