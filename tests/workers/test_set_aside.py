"""A job that waits for a silent device gives its worker back, and is taken up again when there is something to do."""

import itertools
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.device import Poll
from app.services.assembly import Services
from app.settings import Settings
from tests.builders import TENANT
from tests.waiting import wait_for
from tests.workers.conftest import ON_SQLITE, quick, supervisor_of
from tests.workers.processes import worker
from tests.workers.test_asking import NETWORK, asked_of, message, state, submitted
from tests.workers.test_edge_agent import Bench, served
from tests.workers.test_supervisor import content_of, kinds, run_all
from tests.workers.test_supervisor import submitted as plainly_submitted
from workers.device_question import DeviceQuestion
from workers.folders import JobFolder
from workers.question import Item, Question


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """A worker is kept for half a second."""
    changes = {"device_patience": 0.5, "device_wait": 60, "max_wait_seconds": 20, "database_timeout": 5}
    return quick(tmp_path, database_url, child_memory_bytes=2 * 2**30, **changes)


@pytest.fixture
def bench(services: Services, tmp_path: Path) -> Bench:
    """A registered device whose agent does not run."""
    return Bench(services, tmp_path)


def test_a_job_that_waits_lets_others_run(services: Services, bench: Bench) -> None:
    """One worker: the job says whom it waits for, the next one runs, and the answer brings the first one back."""
    waiting, other = submitted(services, bench.device), plainly_submitted(services, ("phase", "load"))
    supervisor = supervisor_of(services)
    run_all(supervisor)
    row = services.jobs.get(TENANT, waiting)

    assert (row.state, row.phase, row.attempt, row.losses) == ("queued", "measure", 1, 0)
    assert (row.message or "").startswith(f"waiting for {bench.device}: never seen; gives up at 20")
    assert state(services, other) == "succeeded"
    with served(services) as url:
        bench.once(url)
    run_all(supervisor)

    assert state(services, waiting) == "succeeded"
    assert services.jobs.get(TENANT, waiting).attempt == 2
    assert content_of(services, waiting).endswith(b'["original", "row0"]')
    assert [request.state for request in asked_of(services, bench.device)] == ["measured"]
    assert kinds(services, waiting).count("queued") == 2  # submitted, and set aside


@ON_SQLITE
def test_the_limit_of_a_job_that_was_set_aside_holds(services: Services, bench: Bench) -> None:
    """It is taken up once more when the limit has passed, and fails for it."""
    job_id = submitted(services, bench.device, measure={"wait_seconds": 2})
    supervisor = supervisor_of(services)
    run_all(supervisor)
    aside = state(services, job_id)
    wait_for(lambda: run_all(supervisor) or state(services, job_id) == "failed")
    row = services.jobs.get(TENANT, job_id)

    assert aside == "queued"
    assert (row.problem["type"], row.attempt, row.losses) == ("device-gone", 2, 1)
    assert [request.state for request in asked_of(services, bench.device)] == ["cancelled"]


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_job_that_was_set_aside_is_cancelled_at_once(services: Services, bench: Bench) -> None:
    """Without a worker; what it asked and what it kept goes with it, and nobody takes it up."""
    job_id = submitted(services, bench.device)
    supervisor = supervisor_of(services)
    run_all(supervisor)
    kept = services.attempts.checkpoints(job_id)
    services.jobs.cancel(TENANT, job_id)

    assert kept
    assert state(services, job_id) == "cancelled"
    assert services.attempts.checkpoints(job_id) == ()
    assert [request.state for request in asked_of(services, bench.device)] == ["cancelled"]
    assert supervisor.run_one() is False


@ON_SQLITE
def test_a_device_that_is_revoked_brings_its_job_back(services: Services, bench: Bench) -> None:
    """The job learns that nobody will answer, as it would have if it had kept its worker."""
    job_id = submitted(services, bench.device)
    supervisor = supervisor_of(services)
    run_all(supervisor)
    services.devices.revoke(TENANT, bench.device)
    run_all(supervisor)
    problem = services.jobs.get(TENANT, job_id).problem

    assert problem["type"] == "measurement-failed"
    assert "was revoked before it measured" in problem["detail"]


@ON_SQLITE
def test_a_device_that_measures_is_waited_for(services: Services, bench: Bench, tmp_path: Path) -> None:
    """Two hours later by the worker's clock: a silent device is not waited for, one at work is, however long."""
    submitted(services, bench.device)
    claimed = services.attempts.claim("wrk_test", services.settings.queue_names)
    folder = JobFolder.make(tmp_path / "jobs", "one")
    (folder.path / "asked").mkdir(exist_ok=True)
    (folder.path / "asked" / "0.onnx").write_bytes(NETWORK)
    now = itertools.count(0.0, 7200.0)
    item = Item(name="original", kind="network", key=None, file="0.onnx")
    question = DeviceQuestion(
        services=services,
        claimed=claimed,
        folder=folder,
        question=Question(request="0" * 32, device=bench.device, items=(item,), threads=None, batch=1, shapes={}),
        wait=timedelta(hours=9),
        clock=lambda: next(now),
    )
    patience, poll, device = timedelta(hours=1), Poll(agent="a" * 16), services.devices.authenticate(bench.token)
    said = []
    for _ in range(2):
        question.look()
        said.append(question.away(patience))
        services.device_work.seen(device, poll)
        services.device_work.lease(device, poll)

    assert said[0].waits_for.startswith(f"waiting for {bench.device}: never seen")
    assert said[1] is None


@pytest.mark.slow
@ON_SQLITE
def test_a_worker_that_dies_later_loses_nothing(services: Services, bench: Bench) -> None:
    """kill -9 of the worker that set the job aside: it holds nothing, and another one goes on."""
    job_id = submitted(services, bench.device)
    with worker(services.settings) as first:
        wait_for(lambda: state(services, job_id) == "queued" and "gives up at" in message(services, job_id))
        os.kill(first.pid, signal.SIGKILL)
    with served(services) as url:
        bench.once(url)
    with worker(services.settings):
        wait_for(lambda: state(services, job_id) == "succeeded")

    assert services.jobs.get(TENANT, job_id).losses == 0
