"""Promises about faults, kept by killing for real: processes, brokers, whole trees, at chosen and at random moments."""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import SecretStr

from app.broker import open_bell
from app.db.migrate import migrate
from app.db.session import bind, open_engine
from app.domain.job import TERMINAL, JobState
from app.services.assembly import Services
from app.settings import Settings
from app.storage.local import LocalStore
from app.valkey import ValkeyMissing, binary
from tests.builders import TENANT, spec, upload_dataset, upload_model
from tests.networks import onnx_bytes
from tests.postgres import NoPostgres, start
from tests.waiting import descendants, wait_for
from tests.workers.conftest import quick
from tests.workers.processes import attempts, housekeeping, process, valkey_on_socket, worker

try:
    binary()
    EMBEDDED = True
except ValkeyMissing:
    EMBEDDED = False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Short leases on a migrated SQLite database; workers poll."""
    made = quick(tmp_path, "")
    migrate(made.resolved_database_url)
    return made


def services_of(settings: Settings) -> Services:
    """The web process's services."""
    database = bind(open_engine(settings.resolved_database_url))
    return Services.of(
        settings, database=database, store=LocalStore(settings.resolved_store_dir), bell=open_bell(settings)
    )


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """The web process's services."""
    made = services_of(settings)
    yield made
    made.close()


def submitted(services: Services, *steps: tuple[str, object], content: bytes = b"network") -> str:
    """A job that follows a script."""
    model = upload_model(services, content)
    return services.jobs.submit(TENANT, spec(model.id, metadata={"script": json.dumps(steps)})).id


def state(services: Services, job_id: str) -> JobState:
    """A job's state."""
    return services.jobs.version(TENANT, job_id)[1]


def kinds(services: Services, job_id: str) -> list[str]:
    """The types of a job's events."""
    return [event.type for event in services.jobs.events(TENANT, job_id, limit=100)[0]]


def content_of(services: Services, job_id: str) -> bytes:
    """The bytes of a job's ONNX artifact."""
    (artifact,) = [each for each in services.jobs.artifacts(TENANT, job_id) if each.kind == "onnx"]
    return b"".join(services.store.open(artifact.sha256))


def asleep(pid: int, services: Services) -> list[psutil.Process]:
    """Suspend a worker and its children, but not while it holds SQLite's lock: nobody could write until it woke."""
    while True:
        stopped = [psutil.Process(pid), *descendants(pid)]
        for each in stopped:
            each.suspend()
        try:
            with services.database.engine.connect() as connection:
                connection.rollback()
                connection.connection.driver_connection.execute("BEGIN IMMEDIATE").connection.rollback()
        except sqlite3.OperationalError:
            for each in stopped:
                each.resume()
        else:
            return stopped


def test_a_worker_that_slept_past_its_lease_writes_nothing(services, settings) -> None:
    """SIGSTOP, another worker finishes the job, SIGCONT: one success, and the sleeper goes on with other work."""
    job_id = submitted(services, ("step", "score"), ("phase", "finetune"), ("unless_recalled", 4))
    with worker(settings) as sleeper, housekeeping(settings):
        wait_for(lambda: services.jobs.get(TENANT, job_id).phase == "finetune")
        wait_for(lambda: services.attempts.checkpoints(job_id))
        stopped = asleep(sleeper.pid, services)
        with worker(settings):
            wait_for(lambda: state(services, job_id) is JobState.SUCCEEDED)
            version = services.jobs.version(TENANT, job_id)
        for each in stopped:
            with suppress(psutil.Error):
                each.resume()
        wait_for(lambda: not attempts(sleeper.pid))
        second = submitted(services, ("phase", "load"), content=b"another")
        wait_for(lambda: state(services, second) is JobState.SUCCEEDED)

    assert version == services.jobs.version(TENANT, job_id)
    assert 1 == kinds(services, job_id).count("succeeded")
    assert 1 == len(services.jobs.artifacts(TENANT, job_id))


def test_a_killed_attempt_is_noticed_at_once(services, settings) -> None:
    """kill -9 of the child alone: the same worker takes the next attempt, with nobody there to sweep its lease."""
    job_id = submitted(services, ("step", "score"), ("phase", "finetune"), ("unless_recalled", 60))
    with worker(settings) as running:
        wait_for(lambda: services.jobs.get(TENANT, job_id).phase == "finetune")
        wait_for(lambda: services.attempts.checkpoints(job_id))
        attempts(running.pid)[0].kill()
        wait_for(lambda: services.jobs.get(TENANT, job_id).losses == 1)
        wait_for(lambda: state(services, job_id) is JobState.SUCCEEDED)

    assert "SIGKILL" == services.jobs.get(TENANT, job_id).last_problem["died"]["signal"]


@pytest.mark.skipif(not EMBEDDED, reason="the embedded Valkey is not installed for this machine")
def test_a_killed_doorbell_loses_no_job(settings, tmp_path) -> None:
    """Jobs submitted while the broker is dead are accepted and run; the one that was running is not disturbed."""
    with ExitStack() as stack:
        server, broker = stack.enter_context(valkey_on_socket(tmp_path / "valkey"))
        belled = settings.model_copy(update={"redis_url": SecretStr(server.url)})
        services = services_of(belled)
        stack.callback(services.close)
        stack.enter_context(worker(belled, log=tmp_path / "worker.log"))
        stack.enter_context(housekeeping(belled))
        running = submitted(services, ("phase", "finetune"), ("wait", 2))
        wait_for(lambda: services.jobs.get(TENANT, running).phase == "finetune")
        broker.kill()
        broker.wait()
        waiting = submitted(services, ("phase", "load"), content=b"another")
        for job_id in (running, waiting):
            wait_for(lambda job_id=job_id: state(services, job_id) is JobState.SUCCEEDED)

        assert 1 == services.jobs.get(TENANT, running).attempt


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED, reason="the embedded Valkey is not installed for this machine")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_every_accepted_job_ends_whatever_is_killed(tmp_path, seed, dialect) -> None:
    """Workers, attempts, housekeeping and broker die at random moments; thirty jobs, thirty ends, nothing by hand."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        url = ""
        if dialect == "postgresql":
            try:
                postgres = start()
            except NoPostgres as error:
                pytest.skip(f"no PostgreSQL starts here: {error}")
            stack.callback(postgres.stop)
            url = postgres.create()
        made = quick(tmp_path, url, max_attempts=50)
        migrate(made.resolved_database_url)
        server, _ = stack.enter_context(valkey_on_socket(tmp_path / "valkey"))
        belled = made.model_copy(update={"redis_url": SecretStr(server.url)})
        services = services_of(belled)
        stack.callback(services.close)
        parts = [worker(belled), worker(made), housekeeping(belled)]
        running = [part.__enter__() for part in parts]
        jobs = [
            submitted(services, ("step", "a"), ("phase", "score"), ("wait", 0.3), ("step", "b"), content=b"%d" % number)
            for number in range(30)
        ]
        until = time.monotonic() + 240
        while any(state(services, job_id) not in TERMINAL for job_id in jobs) and time.monotonic() < until:
            time.sleep(chance.uniform(0.5, 3.0))
            victim = chance.choice(["attempt", "worker", "poller", "house"])
            if victim == "attempt":
                for each in attempts():
                    with suppress(psutil.Error):
                        each.kill()
                continue
            number = ["worker", "poller", "house"].index(victim)
            running[number].kill()
            parts[number].__exit__(None, None, None)
            parts[number] = [worker, worker, housekeeping][number](made if number == 1 else belled)
            running[number] = parts[number].__enter__()
        for part in parts:
            part.__exit__(None, None, None)

        assert {JobState.SUCCEEDED} == {state(services, job_id) for job_id in jobs}
        for job_id in jobs:
            assert 1 == kinds(services, job_id).count("succeeded")
            assert 1 == len(services.jobs.artifacts(TENANT, job_id))
        assert [] == attempts()


def digits(folder: Path) -> bytes:
    """A labelled dataset that fits the residual test network: drawn, not real, since only bytes are compared."""
    chance = np.random.default_rng(0)
    path = folder / "data.npz"
    x = chance.normal(size=(96, 3, 8, 8)).astype(np.float32)
    np.savez(path, x=x, y=chance.integers(0, 5, size=96), x_val=x[:16], y_val=chance.integers(0, 5, size=16))
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["score", "compensate", "finetune", "verify"])
def test_the_real_engine_killed_in_a_phase_gives_the_same_bytes(services, settings, tmp_path, phase) -> None:
    """kill -9 of the real attempt in a phase, resumed from its checkpoints: byte-identical to an undisturbed run."""
    model, data = upload_model(services, onnx_bytes("residual")), upload_dataset(services, digits(tmp_path))
    options = {"dataset": data.id, "finetune": {"steps": 60}, "options": {"calibration_samples": 64}}
    patient = settings.model_copy(update={"child_memory_bytes": 8 * 2**30})
    undisturbed = services.jobs.submit(TENANT, spec(model.id, **options)).id
    with process(patient, "-m", "workers.poll", log=tmp_path / "worker.log") as running:
        wait_for(lambda: state(services, undisturbed) in TERMINAL, 240)
        assert JobState.SUCCEEDED is state(services, undisturbed), services.jobs.get(TENANT, undisturbed).problem
        killed = services.jobs.submit(TENANT, spec(model.id, **options)).id
        wait_for(lambda: _killed(services, killed, phase, running.pid), 240)
        wait_for(lambda: state(services, killed) in TERMINAL, 240)
    row = services.jobs.get(TENANT, killed)

    assert (JobState.SUCCEEDED, 2) == (row.state, row.attempt)
    assert content_of(services, undisturbed) == content_of(services, killed)


def _killed(services: Services, job_id: str, phase: str, worker_pid: int) -> bool:
    """Kill the job's attempt once it is in the phase, or past it; says whether it did."""
    row = services.jobs.get(TENANT, job_id)
    order = ["score", "allocate", "cut", "compensate", "finetune", "export", "verify", "measure"]
    if row.phase not in order or order.index(row.phase) < order.index(phase):
        return state(services, job_id) in TERMINAL
    for child in descendants(worker_pid):
        with suppress(psutil.Error):
            os.kill(child.pid, signal.SIGKILL)
    return True
