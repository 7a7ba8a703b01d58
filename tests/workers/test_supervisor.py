"""From claim to outcome with real children: every way in which an attempt can end, on both databases."""

import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from app.db.session import Database
from app.domain.job import JobState
from app.services.assembly import Services
from tests.builders import TENANT, analysed_model, spec, upload_dataset, upload_model
from tests.waiting import alive, descendants, running, wait_for
from tests.workers.conftest import ON_SQLITE, quick, supervisor_of
from workers.supervisor import Supervisor


def submitted(services: Services, *steps: tuple[str, object], content: bytes = b"network") -> str:
    """A prune job whose attempts follow a script, on an analysed model."""
    model = upload_model(services, content)
    if model.state != "ready":
        model = analysed_model(services, content)
    return services.jobs.submit(TENANT, spec(model.id, metadata={"script": json.dumps(steps)})).id


def run_all(supervisor: Supervisor) -> None:
    """Run jobs until none waits."""
    while supervisor.run_one():
        pass


def kinds(services: Services, job_id: str) -> list[str]:
    """The types of a job's events."""
    return [event.type for event in services.jobs.events(TENANT, job_id, limit=100)[0]]


def content_of(services: Services, job_id: str) -> bytes:
    """The bytes of a job's artifact."""
    (artifact,) = services.jobs.artifacts(TENANT, job_id)
    return b"".join(services.store.open(artifact.sha256))


def in_phase(services: Services, job_id: str, phase: str) -> bool:
    """Whether the job row shows this phase."""
    return services.jobs.get(TENANT, job_id).phase == phase


def children() -> list[psutil.Process]:
    """Attempts that this test process started and that still live."""
    return running("stand_in", descendants(os.getpid()))


@contextmanager
def working(supervisor: Supervisor) -> Iterator[threading.Thread]:
    """The supervisor at work in a thread of its own, until no job waits."""
    thread = threading.Thread(target=run_all, args=(supervisor,))
    thread.start()
    try:
        yield thread
    finally:
        thread.join(30)
        assert not thread.is_alive()


def test_a_job_runs_from_queue_to_artifact(services, supervisor) -> None:
    """Bytes, digest, progress, sandbox and state are there when the state says so, and the folder is gone."""
    job_id = submitted(services, ("phase", "load"), ("step", "score"), ("phase", "finetune"), ("sleep", 0.6))
    run_all(supervisor)
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.SUCCEEDED, 1.0, 1) == (row.state, row.fraction, row.attempt)
    assert content_of(services, job_id).startswith(b"network")
    assert services.jobs.artifacts(TENANT, job_id)[0].sha256 == row.result["artifacts"][0]["sha256"]
    assert row.sandbox["no_new_privileges"] == "active"
    assert ["queued", "running"] == kinds(services, job_id)[:2]
    assert {"sandbox", "checkpoint", "progress"} <= set(kinds(services, job_id))
    assert "succeeded" == kinds(services, job_id)[-1]
    assert [] == list(services.settings.resolved_work_dir.iterdir())
    assert [] == children()


def test_uploads_are_analysed_by_the_same_core(services, supervisor) -> None:
    """A model and a dataset become ready with what the engine says about them."""
    model, dataset = upload_model(services), upload_dataset(services, b"123456")
    run_all(supervisor)

    assert ("ready", {"num_bytes": 7}) == (
        services.inputs.model(TENANT, model.id).state,
        services.inputs.model(TENANT, model.id).analysis,
    )
    assert {"kind": "labelled", "num_samples": 6} == services.inputs.dataset(TENANT, dataset.id).description


@ON_SQLITE
def test_what_the_engine_refuses_fails_the_job_with_its_problem(services, supervisor) -> None:
    """The four parts of the engine's message reach the job row; nothing is tried again."""
    job_id = submitted(services, ("phase", "group"), ("refuse", None))
    run_all(supervisor)
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.FAILED, 1) == (row.state, row.attempt)
    assert ("nothing-to-prune", 422, "group", False) == tuple(
        row.problem[key] for key in ("type", "status", "phase", "retryable")
    )
    assert ("node_7", 0, "1 or more", "Use another.") == tuple(
        row.problem[key] for key in ("where", "actual", "allowed", "advice")
    )


def test_a_job_that_kills_its_process_is_tried_exactly_max_attempts_times(services, supervisor, tmp_path) -> None:
    """Poison does not loop: two attempts, then failed with the signal and the peak memory of the last one."""
    job_id = submitted(services, ("phase", "score"), ("crash", "SIGSEGV"))
    run_all(supervisor)
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.FAILED, 2) == (row.state, row.attempt)
    assert 2 == kinds(services, job_id).count("running")
    assert ("worker-lost", "SIGSEGV", "score") == (
        row.problem["type"],
        row.problem["died"]["signal"],
        row.problem["phase"],
    )
    assert row.problem["died"]["peak_rss_bytes"] > 2**20
    assert "SIGSEGV" in row.problem["detail"]


def test_a_killed_attempt_resumes_and_gives_the_bytes_of_an_undisturbed_one(services, tmp_path) -> None:
    """The first attempt is killed after its first step; the second recalls that step and computes the rest."""
    steps = [("step", "score"), ("step", "finetune")]
    undisturbed = submitted(services, *steps)
    run_all(supervisor_of(services))
    # The child may write only below its folder, so the mark of the first attempt is its checkpoint folder's content.
    killed = submitted(services, steps[0], ("once_per_job", "SIGKILL"), steps[1])
    run_all(supervisor_of(services))
    row = services.jobs.get(TENANT, killed)

    assert (JobState.SUCCEEDED, 2) == (row.state, row.attempt)
    assert "SIGKILL" == row.last_problem["died"]["signal"]
    assert "ran out of memory" in row.last_problem["detail"]
    assert content_of(services, undisturbed) == content_of(services, killed)


def test_a_damaged_checkpoint_is_computed_again_with_a_warning(services) -> None:
    """A bit that flipped in the store costs time; the artifact is the same and the log says what happened."""
    steps = [("step", "compensate"), ("step", "finetune")]  # scores would be shared by the jobs
    undisturbed = submitted(services, *steps)
    run_all(supervisor_of(services))
    damaged = submitted(services, steps[0], ("once_per_job", "SIGKILL"), steps[1])
    supervisor = supervisor_of(services)
    supervisor.run_one()
    files = {file.step: file for file in services.attempts.checkpoints(damaged)}
    path = services.store.path(files["compensate"].sha256)
    path.chmod(0o600)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    run_all(supervisor)

    assert content_of(services, undisturbed) == content_of(services, damaged)
    assert "warning" in kinds(services, damaged)


@ON_SQLITE
@pytest.mark.parametrize("phase", ["load", "score", "compensate", "finetune", "measure"])
def test_a_cancel_is_seen_in_every_phase_and_leaves_no_process(services, supervisor, phase) -> None:
    """Long before it would end by itself it is gone, though it ignores requests and had a descendant."""
    job_id = submitted(services, ("ignore", None), ("spawn", None), ("phase", phase), ("wait", 60))
    with working(supervisor):
        wait_for(lambda: in_phase(services, job_id, phase))
        family = descendants(children()[0].pid)
        services.jobs.cancel(TENANT, job_id)
        wait_for(lambda: services.jobs.version(TENANT, job_id)[1] is JobState.CANCELLED)
    assert [] == children()
    assert [] == alive(family)
    assert [] == list(services.settings.resolved_work_dir.iterdir())
    assert [] == services.jobs.artifacts(TENANT, job_id)


@ON_SQLITE
def test_a_memory_bomb_fails_its_job_and_the_next_one_runs(services, supervisor) -> None:
    """8 GiB under a limit of 600 MiB: out-of-memory, and the worker goes on."""
    bomb = submitted(services, ("phase", "load"), ("eat", 8 * 2**30))
    after = submitted(services, ("phase", "load"), content=b"another")
    run_all(supervisor)

    assert "out-of-memory" == services.jobs.get(TENANT, bomb).problem["type"]
    assert JobState.SUCCEEDED is services.jobs.version(TENANT, after)[1]


@ON_SQLITE
def test_memory_is_watched_where_the_kernel_does_not_limit_it(database, store, tmp_path, database_url) -> None:
    """Several processes that each stay below the limit may not pass it together; the supervisor adds them up."""
    few = quick(tmp_path, database_url, child_memory_bytes=300 * 2**20)
    services = Services.of(few, database=database, store=store, bell=supervisor_bell())
    job_id = submitted(services, ("phase", "load"), ("crowd", 6), ("wait", 60))
    run_all(supervisor_of(services))
    problem = services.jobs.get(TENANT, job_id).problem

    assert "out-of-memory" == problem["type"]
    assert problem["died"]["peak_rss_bytes"] > 300 * 2**20
    assert (f"{problem['died']['peak_rss_bytes']:,} bytes", "314,572,800 bytes") == (
        problem["actual"],
        problem["allowed"],
    )
    assert "finetune.batch_size" in problem["advice"]
    assert [] == children()


def supervisor_bell():
    """A bell that nobody hears."""
    from app.broker import SilentBell

    return SilentBell()


@ON_SQLITE
def test_an_attempt_past_its_deadline_is_stopped_and_fails(database, store, tmp_path, database_url) -> None:
    """The job says how long it may take; nothing is tried again, since it would only take as long."""
    hasty = quick(tmp_path, database_url, job_timeout=1)
    services = Services.of(hasty, database=database, store=store, bell=supervisor_bell())
    job_id = submitted(services, ("phase", "score"), ("wait", 60))
    run_all(supervisor_of(services))
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.FAILED, "job-timeout", 1) == (row.state, row.problem["type"], row.attempt)
    assert [] == children()


def test_a_worker_that_stops_gives_its_job_back_with_its_checkpoints(services) -> None:
    """Stopping costs the job no attempt; the next worker goes on from the checkpoint."""
    stop = threading.Event()
    job_id = submitted(services, ("step", "score"), ("phase", "finetune"), ("unless_recalled", 60))
    with working(supervisor_of(services, stopping=stop.is_set)) as thread:
        wait_for(lambda: in_phase(services, job_id, "finetune"))
        wait_for(lambda: services.attempts.checkpoints(job_id))
        stop.set()
        wait_for(lambda: not thread.is_alive())

        assert JobState.QUEUED is services.jobs.version(TENANT, job_id)[1]
        assert [] == children()
    run_all(supervisor_of(services))
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.SUCCEEDED, 0) == (row.state, row.losses)


def taken_back(services: Services) -> bool:
    """Let every lease run out and sweep; a heartbeat may come in between."""
    with services.database.unit_of_work() as session:
        past = services.database.now(session) - timedelta(seconds=1)
        session.execute(text("UPDATE jobs SET lease_until = :past WHERE lease_until IS NOT NULL"), {"past": past})
    return services.attempts.sweep_leases() == 1


def test_a_job_that_was_taken_away_is_dropped_at_once(services, supervisor) -> None:
    """When another worker holds the job, this one kills its child and writes nothing more."""
    job_id = submitted(services, ("phase", "score"), ("unless_recalled", 60), ("step", "x"))
    with working(supervisor):
        wait_for(lambda: in_phase(services, job_id, "score"))
        wait_for(lambda: taken_back(services))
        other = services.attempts.claim("wrk_other", ["cpu"])
        wait_for(lambda: not children())

        assert other.epoch == 2
    assert JobState.RUNNING is services.jobs.version(TENANT, job_id)[1]
    assert "wrk_other" == services.jobs.get(TENANT, job_id).lease_owner


@contextmanager
def away(database: Database) -> Iterator[None]:
    """The database answers nobody: another connection holds what every write needs."""
    with database.engine.connect() as connection:
        if database.dialect == "sqlite":
            connection.rollback()
            raw = connection.connection.driver_connection
            raw.execute("BEGIN IMMEDIATE")
            yield
            raw.execute("ROLLBACK")
        else:
            connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            yield
            connection.rollback()


def test_a_short_outage_of_the_database_costs_no_attempt(database, store, tmp_path, database_url) -> None:
    """The child goes on and ends while the database is away; its result is written when it is back."""
    patient = quick(tmp_path, database_url, lease_seconds=120)
    services = Services.of(patient, database=database, store=store, bell=supervisor_bell())
    job_id = submitted(services, ("phase", "finetune"), ("wait", 1.0))
    with working(supervisor_of(services)):
        wait_for(lambda: in_phase(services, job_id, "finetune"))
        with away(services.database):
            wait_for(lambda: not children())
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.SUCCEEDED, 1) == (row.state, row.attempt)


def test_an_outage_beyond_the_lease_ends_the_attempt_and_not_the_job(services, supervisor) -> None:
    """Past its lease a worker must assume that it lost the job: its child is gone before anybody else may start."""
    job_id = submitted(services, ("phase", "finetune"), ("unless_recalled", 60), ("step", "x"))
    with working(supervisor):
        wait_for(lambda: in_phase(services, job_id, "finetune"))
        with away(services.database):
            wait_for(lambda: not children())
    assert JobState.RUNNING is services.jobs.version(TENANT, job_id)[1]
    time.sleep(0.5)
    wait_for(lambda: services.attempts.sweep_leases() == 1)

    assert JobState.QUEUED is services.jobs.version(TENANT, job_id)[1]


@ON_SQLITE
def test_a_full_store_is_a_problem_that_may_be_tried_again(services, supervisor) -> None:
    """Files of 1 MiB at most stand for a full disk: the job fails with storage-full and no half artifact is visible."""
    job_id = submitted(services, ("phase", "export"), ("artifact", 3 * 2**20))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, before[1]))
    try:
        run_all(supervisor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    row = services.jobs.get(TENANT, job_id)

    assert (JobState.FAILED, "storage-full", True) == (row.state, row.problem["type"], row.problem["retryable"])
    assert [] == services.jobs.artifacts(TENANT, job_id)
    assert [] == list(services.settings.resolved_work_dir.iterdir())


@ON_SQLITE
@pytest.mark.parametrize("trick", ["link", "pipe", "folder", "outside"])
def test_an_artifact_that_is_no_plain_file_is_refused(services, supervisor, trick) -> None:
    """A child that an upload took over cannot make the supervisor read another file for it."""
    job_id = submitted(services, ("trick", trick))
    run_all(supervisor)

    assert "internal-error" == services.jobs.get(TENANT, job_id).problem["type"]
    assert [] == services.jobs.artifacts(TENANT, job_id)


@ON_SQLITE
def test_a_child_that_breaks_the_protocol_is_ended(services, supervisor) -> None:
    """What is not a line of the protocol is not interpreted."""
    job_id = submitted(services, ("garble", "not json\n"), ("wait", 60))
    run_all(supervisor)

    assert "internal-error" == services.jobs.get(TENANT, job_id).problem["type"]
    assert [] == children()


@ON_SQLITE
def test_a_missing_input_fails_the_job_and_not_the_worker(services, supervisor) -> None:
    """Content that vanished from the store is said so in the job."""
    job_id = submitted(services, ("phase", "load"))
    for blob in list(services.store.blobs()):
        services.store.path(blob.digest).unlink()
    run_all(supervisor)

    assert "content-missing" == services.jobs.get(TENANT, job_id).problem["type"]


def test_a_job_that_cannot_be_read_does_not_block_the_queue(services, supervisor) -> None:
    """A stored request that this version does not understand fails alone; the next job runs."""
    unreadable = submitted(services, ("phase", "load"))
    after = submitted(services, ("phase", "load"), content=b"another")
    with services.database.unit_of_work() as session:
        session.execute(text("UPDATE jobs SET spec = '{}' WHERE id = :id"), {"id": unreadable})
    run_all(supervisor)

    assert "internal-error" == services.jobs.get(TENANT, unreadable).problem["type"]
    assert JobState.SUCCEEDED is services.jobs.version(TENANT, after)[1]


def test_a_worker_says_that_it_is_there(services, supervisor) -> None:
    """The loop itself writes the row, so a worker that hangs falls silent."""
    supervisor.run_one()
    (row,) = services.workers.present(timedelta(seconds=10))

    assert ("wrk_test", ["cpu"], "silent", os.getpid()) == (row.id, row.queues, row.bell, row.pid)


@ON_SQLITE
def test_a_job_folder_holds_copies_that_cannot_change_the_store(services, supervisor) -> None:
    """A child that writes over its input changes its own copy only."""
    job_id = submitted(services, ("overwrite", "network.onnx"))
    run_all(supervisor)

    assert JobState.SUCCEEDED is services.jobs.version(TENANT, job_id)[1]
    model = services.inputs.model(TENANT, services.jobs.get(TENANT, job_id).model_id)
    assert b"network" == b"".join(services.store.open(model.sha256))
    assert Path(services.settings.resolved_work_dir).is_dir()
