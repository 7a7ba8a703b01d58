"""The same promises with each of the three bells: a broker by URL, the embedded one, and none at all."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.broker import open_bell
from app.domain.device import DeviceSpec
from app.domain.job import JobState
from app.services.assembly import Services
from app.settings import Settings
from app.storage.local import LocalStore
from app.valkey import ValkeyMissing, binary
from tests.builders import TENANT, spec, upload_model
from tests.networks import CHAIN, onnx_bytes
from tests.waiting import descendants, runs, wait_for
from tests.workers.conftest import ON_SQLITE, quick
from tests.workers.processes import attempts, housekeeping, valkey_on_port, valkey_on_socket, worker

pytestmark = ON_SQLITE

try:
    binary()
except ValkeyMissing:
    pytest.skip("the embedded Valkey is not installed for this machine", allow_module_level=True)


EACH_BELL = pytest.mark.parametrize("bell", ["redis_url", "embedded", "polling"])


def one_now_the_rest_later(now: str) -> pytest.MarkDecorator:
    """Every bell, but only one of them in the default tier."""
    bells = ["redis_url", "embedded", "polling"]
    slow = pytest.mark.slow
    return pytest.mark.parametrize("bell", [bell if bell == now else pytest.param(bell, marks=slow) for bell in bells])


@pytest.fixture
def settings(bell: str, tmp_path: Path, database_url: str) -> Iterator[Settings]:
    """Settings with one of the bells; embedded and configured ones are real servers."""
    plain = quick(tmp_path, database_url, device_patience=0.5)
    if bell == "polling":
        yield plain
    elif bell == "embedded":
        with valkey_on_socket(tmp_path / "valkey") as (server, _):
            yield plain.model_copy(update={"redis_url": SecretStr(server.url)})
    else:
        with valkey_on_port(tmp_path / "broker") as url:
            yield plain.model_copy(update={"redis_url": SecretStr(url)})


@pytest.fixture
def services(settings: Settings, database, store: LocalStore) -> Services:
    """The web process's services, with the bell of the settings."""
    return Services.of(
        settings, database=database, store=LocalStore(settings.resolved_store_dir), bell=open_bell(settings)
    )


def submitted(services: Services, *steps: tuple[str, object]) -> str:
    """A job that follows a script, behind the analysis of its model."""
    model = upload_model(services, json.dumps(steps).encode())
    return services.jobs.submit(TENANT, spec(model.id, metadata={"script": json.dumps(steps)})).id


def state(services: Services, job_id: str) -> JobState:
    """A job's state."""
    return services.jobs.version(TENANT, job_id)[1]


def set_aside(services: Services, job_id: str) -> bool:
    """Whether a job waits again after an attempt."""
    seen = [event.type for event in services.jobs.events(TENANT, job_id, limit=100)[0]]
    return len(seen) > 1 and "queued" in seen[1:]


@EACH_BELL
def test_jobs_run_a_cancel_is_obeyed_and_a_stop_gives_the_job_back(services, settings, tmp_path) -> None:
    """One worker's life: two jobs, one cancelled in the middle, one given back when the worker is told to stop."""
    first = submitted(services, ("phase", "load"))
    with worker(settings, log=tmp_path / "worker.log") as running:
        wait_for(lambda: state(services, first) is JobState.SUCCEEDED)
        second = submitted(services, ("ignore", None), ("phase", "score"), ("wait", 60))
        wait_for(lambda: services.jobs.get(TENANT, second).phase == "score")
        services.jobs.cancel(TENANT, second)
        wait_for(lambda: state(services, second) is JobState.CANCELLED)
        assert [] == attempts(running.pid)
        third = submitted(services, ("step", "score"), ("phase", "finetune"), ("unless_recalled", 60))
        wait_for(lambda: services.jobs.get(TENANT, third).phase == "finetune")
        wait_for(lambda: services.attempts.checkpoints(third))
        running.send_signal(signal.SIGTERM)
        running.wait(60)

        assert [] == descendants(running.pid)
        assert JobState.QUEUED is state(services, third)
        assert 0 == services.jobs.get(TENANT, third).losses
    with worker(settings):
        wait_for(lambda: state(services, third) is JobState.SUCCEEDED)


@one_now_the_rest_later("embedded")
def test_a_killed_worker_takes_its_attempt_along_and_another_goes_on(services, settings, tmp_path) -> None:
    """SIGKILL of every process of a worker: the sweeper requeues the job, and the next worker resumes it."""
    job_id = submitted(services, ("step", "score"), ("phase", "finetune"), ("unless_recalled", 60))
    with worker(settings, log=tmp_path / "worker.log") as running, housekeeping(settings):
        wait_for(lambda: services.jobs.get(TENANT, job_id).phase == "finetune")
        wait_for(lambda: services.attempts.checkpoints(job_id))
        child = attempts(running.pid)[0]
        running.kill()
        wait_for(lambda: not runs(child))
        with worker(settings):
            wait_for(lambda: state(services, job_id) is JobState.SUCCEEDED)
    row = services.jobs.get(TENANT, job_id)

    assert (2, 1) == (row.attempt, row.losses)


@one_now_the_rest_later("redis_url")
def test_a_job_whose_bell_was_lost_is_found_by_looking(services, settings, tmp_path) -> None:
    """A worker that is up looks by itself: a job that nobody rang for does not wait for ever."""
    with worker(settings, log=tmp_path / "worker.log"):
        wait_for(lambda: len(services.workers.present(settings.worker_stale_seconds)) == 1)
        silent = Services.of(settings, database=services.database, store=services.store, bell=Deaf())
        job_id = submitted(silent, ("phase", "load"))
        wait_for(lambda: state(services, job_id) is JobState.SUCCEEDED)


@one_now_the_rest_later("redis_url")
def test_a_worker_whose_job_waits_for_a_device_runs_the_next(services, settings, tmp_path) -> None:
    """Its only slot is free while the device is away; the answer brings the job back without anybody ringing."""
    content = onnx_bytes(CHAIN)
    with worker(settings, log=tmp_path / "worker.log"):
        device = services.devices.register(TENANT, DeviceSpec(name="away"))
        asks = json.dumps([("step", "score"), ("time", device.device.id)])
        model = upload_model(services, content)
        target = f"latency=50%@{device.device.id}"
        waiting = services.jobs.submit(TENANT, spec(model.id, target=target, metadata={"script": asks})).id
        wait_for(lambda: set_aside(services, waiting))
        other = submitted(services, ("phase", "load"))
        wait_for(lambda: state(services, other) is JobState.SUCCEEDED)
        request = services.devices.requests(TENANT, device.device.id, limit=1)[0][0]
        services.devices.cancel(TENANT, device.device.id, request.id)
        wait_for(lambda: state(services, waiting) is JobState.FAILED)
    row = services.jobs.get(TENANT, waiting)

    assert (row.attempt, row.problem["type"]) == (2, "measurement-failed")


class Deaf:
    """A bell that says it rang, and did not."""

    name = "deaf"

    def ring(self, queue: str) -> bool:
        """Lose the bell."""
        return bool(queue)

    def answers(self) -> bool:
        """It is there."""
        return True
