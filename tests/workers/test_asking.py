"""Jobs that need a device's answer: a real agent, a real supervisor, a stand-in engine; on both databases."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from app.domain.device import LOCAL, MeasurementSpec
from app.domain.record import Which
from app.services.assembly import Services
from app.settings import Settings
from tests.builders import TENANT, analysed_model, spec, upload_model
from tests.networks import CHAIN, onnx_bytes
from tests.waiting import wait_for
from tests.workers.conftest import ON_SQLITE, quick, supervisor_of
from tests.workers.processes import housekeeping, process, worker
from tests.workers.test_edge_agent import FOREIGN, Bench, served
from tests.workers.test_supervisor import content_of, working
from workers.supervisor import serving

NETWORK = onnx_bytes(CHAIN)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Short leases and polls; jobs wait for a device for a minute."""
    changes = {"device_lease": 5, "device_wait": 60, "max_wait_seconds": 20, "database_timeout": 5}
    return quick(tmp_path, database_url, child_memory_bytes=2 * 2**30, **changes)


@pytest.fixture
def bench(services: Services, tmp_path: Path) -> Bench:
    """A registered device."""
    return Bench(services, tmp_path)


def submitted(
    services: Services, device: str, *more: tuple[str, object], content: bytes = NETWORK, **changes: Any
) -> str:
    """A job whose engine asks a device for a latency."""
    model = upload_model(services, content)
    model = analysed_model(services, content) if model.state != "ready" else model
    steps = [("phase", "score"), ("step", "score"), ("time", device), *more]
    asked = {"target": f"latency=50%@{device}", "metadata": {"script": json.dumps(steps)}, **changes}
    return services.jobs.submit(TENANT, spec(model.id, **asked)).id


def state(services: Services, job_id: str) -> str:
    return services.jobs.get(TENANT, job_id).state


def message(services: Services, job_id: str) -> str:
    return services.jobs.get(TENANT, job_id).message or ""


def asked_of(services: Services, device: str) -> list[Any]:
    """Every request that the device was ever given."""
    return list(services.devices.requests(TENANT, device, limit=100)[0])


def timed_here(services: Services) -> list[Any]:
    """Every measurement of this host."""
    return list(services.measurements.page(TENANT, Which(device=LOCAL), limit=100)[0])


def test_a_job_waits_visibly_until_its_device_is_there(services: Services, bench: Bench) -> None:
    """No agent: the job says whom it waits for and until when; the agent comes, the job goes on and ends."""
    job_id = submitted(services, bench.device)
    with working(supervisor_of(services)):
        wait_for(lambda: "gives up at" in message(services, job_id))
        said = message(services, job_id)
        with served(services) as url, bench.agent(url):
            wait_for(lambda: state(services, job_id) == "succeeded")

    assert said.startswith(f"waiting for {bench.device}: never seen; gives up at 20")
    assert content_of(services, job_id).endswith(b'["original", "row0"]')
    (request,) = asked_of(services, bench.device)
    assert (request.state, request.job_id) == ("measured", job_id)
    rows = {row.kind: row for row in bench.measured()}
    assert (rows["layer"].key, rows["layer"].job_id) == ("a layer", job_id)
    assert rows["network"].model_id == services.jobs.get(TENANT, job_id).model_id


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_killed_worker_asks_nothing_twice(services: Services, bench: Bench) -> None:
    """kill -9 while it waits: the next worker finds the question asked, and the job ends after one request."""
    job_id = submitted(services, bench.device)
    with housekeeping(services.settings):
        with worker(services.settings) as first:
            wait_for(lambda: "gives up at" in message(services, job_id))
            os.kill(first.pid, signal.SIGKILL)
        with served(services) as url, bench.agent(url):
            wait_for(lambda: asked_of(services, bench.device)[0].state == "measured")
            with worker(services.settings):
                wait_for(lambda: state(services, job_id) == "succeeded")

    assert services.jobs.get(TENANT, job_id).attempt == 2
    assert len(asked_of(services, bench.device)) == 1
    assert sorted(row.kind for row in bench.measured()) == ["layer", "network"]


@ON_SQLITE
def test_a_device_that_stays_away_fails_the_job_by_name(services: Services, bench: Bench) -> None:
    """The limit is the job's own; what was asked is cancelled, so that nobody measures in vain later."""
    job_id = submitted(services, bench.device, measure={"wait_seconds": 1})
    with working(supervisor_of(services)):
        pass
    problem = services.jobs.get(TENANT, job_id).problem

    assert (problem["type"], problem["retryable"], problem["phase"]) == ("device-gone", False, "score")
    assert f"{bench.device} never called; the job waited 1 s for it" in problem["detail"]
    assert [request.state for request in asked_of(services, bench.device)] == ["cancelled"]


@pytest.mark.slow
@ON_SQLITE
def test_waiting_is_no_time_of_the_attempt(services: Services, bench: Bench, settings: Settings) -> None:
    """A job may wait for longer than it may work."""
    short = Services.of(
        settings.model_copy(update={"job_timeout": settings.lease_seconds / 2}),
        database=services.database,
        store=services.store,
        bell=services.bell,
    )
    job_id = submitted(short, bench.device, measure={"wait_seconds": 4})
    with working(supervisor_of(short)):
        pass

    assert short.jobs.get(TENANT, job_id).problem["type"] == "device-gone"


@ON_SQLITE
def test_a_job_that_waits_can_be_cancelled(services: Services, bench: Bench) -> None:
    """At once, and its question with it."""
    job_id = submitted(services, bench.device)
    with working(supervisor_of(services)):
        wait_for(lambda: "gives up at" in message(services, job_id))
        services.jobs.cancel(TENANT, job_id)
        wait_for(lambda: state(services, job_id) == "cancelled")

    assert [request.state for request in asked_of(services, bench.device)] == ["cancelled"]


@ON_SQLITE
def test_a_worker_that_stops_leaves_the_question(services: Services, bench: Bench) -> None:
    """The job goes back to its queue; the device may answer meanwhile."""
    job_id, stop = submitted(services, bench.device), threading.Event()
    with working(supervisor_of(services, stopping=stop.is_set)):
        wait_for(lambda: "gives up at" in message(services, job_id))
        stop.set()

    assert state(services, job_id) == "queued"
    assert [request.state for request in asked_of(services, bench.device)] == ["queued"]


@ON_SQLITE
def test_a_device_that_is_revoked_ends_the_wait(services: Services, bench: Bench) -> None:
    """Nobody will answer any more, and the job says why."""
    job_id = submitted(services, bench.device)
    with working(supervisor_of(services)):
        wait_for(lambda: "gives up at" in message(services, job_id))
        services.devices.revoke(TENANT, bench.device)
    problem = services.jobs.get(TENANT, job_id).problem

    assert problem["type"] == "measurement-failed"
    assert "was revoked before it measured" in problem["detail"]


@ON_SQLITE
def test_the_words_of_the_devices_runtime_reach_the_user(services: Services, bench: Bench) -> None:
    """A network that the device cannot load fails the job, with what its runtime said."""
    job_id = submitted(services, bench.device, content=FOREIGN)
    with served(services) as url, bench.agent(url), working(supervisor_of(services)):
        pass
    problem = services.jobs.get(TENANT, job_id).problem

    assert (problem["type"], problem["status"], problem["where"]) == ("measurement-failed", 422, bench.device)
    assert "Frobnicate" in problem["detail"]


@pytest.mark.slow
@ON_SQLITE
def test_layers_are_timed_once_for_all_jobs(services: Services, bench: Bench) -> None:
    """A second job finds the rows of the device's table, and asks for the rest only."""
    first, second = (submitted(services, bench.device) for _ in range(2))
    with served(services) as url, bench.agent(url), working(supervisor_of(services)):
        pass

    assert content_of(services, first).endswith(b'["original", "row0"]')
    assert content_of(services, second).endswith(b'["original"]')


@ON_SQLITE
def test_this_host_times_in_its_lane(services: Services) -> None:
    """`dev_local`: a process of its own, alone on this host, with its peak memory; recorded with the job, once."""
    job_id = submitted(services, LOCAL)
    with working(supervisor_of(services)):
        pass
    rows = timed_here(services)

    assert state(services, job_id) == "succeeded", services.jobs.get(TENANT, job_id).problem
    assert sorted((row.kind, row.key, row.job_id) for row in rows) == [
        ("layer", "a layer", job_id),
        ("network", None, job_id),
    ]
    assert all(row.host["alone"] is True for row in rows)
    assert all(10e6 < (row.peak_rss_bytes or 0) < 400e6 for row in rows)
    assert {row.model_id for row in rows} == {services.jobs.get(TENANT, job_id).model_id}


@pytest.mark.slow
@ON_SQLITE
def test_attempts_stand_still_while_another_is_timed(services: Services) -> None:
    """Two workers of one host: while the one times, the other's child does not compute."""
    busy = submitted(services, LOCAL, metadata={"script": json.dumps([("phase", "score"), ("sleep", 6)])})
    with working(supervisor_of(services)):
        wait_for(lambda: state(services, busy) == "running")
        with working(supervisor_of(services)):
            timed = submitted(services, LOCAL)
            wait_for(lambda: state(services, timed) == "succeeded")
    rows = timed_here(services)

    assert state(services, busy) == "succeeded"
    assert {(row.job_id, row.host["alone"]) for row in rows} == {(timed, True)}


@ON_SQLITE
def test_a_device_that_knows_its_threads_is_not_told(services: Services, bench: Bench) -> None:
    """Where the job does not say, the device's own count; where it says, that."""
    own = submitted(services, bench.device)
    told = submitted(services, bench.device, measure={"threads": 1, "batch": 3})
    with served(services) as url:
        agent = process(services.settings, *bench.command(url, "--threads", "2"), log=bench.log)
        with agent, working(supervisor_of(services)):
            pass

    assert {state(services, job) for job in (own, told)} == {"succeeded"}
    assert {(row.job_id, row.threads, row.batch) for row in bench.measured()} == {(own, 2, 1), (told, 1, 3)}


@ON_SQLITE
def test_a_device_that_is_not_the_jobs_is_not_asked(services: Services, bench: Bench) -> None:
    """Whatever an upload makes the child say, it reaches the devices that the user named and no other."""
    line = {"event": "measure", "request": "0" * 32, "device": bench.device, "items": [], "threads": 1, "batch": 1}
    script = json.dumps([("garble", json.dumps({**line, "shapes": {}}) + "\n"), ("wait", 5)])
    job_id = submitted(services, LOCAL, metadata={"script": script})
    with working(supervisor_of(services)):
        pass

    assert services.jobs.get(TENANT, job_id).problem["type"] == "internal-error"
    assert asked_of(services, bench.device) == []


@ON_SQLITE
def test_users_ask_this_host_as_any_device(services: Services) -> None:
    """A worker leases what is asked of `dev_local`: a network, several in turn, one that the runtime refuses."""
    model, foreign = upload_model(services, NETWORK), upload_model(services, FOREIGN)
    asked = [
        MeasurementSpec(model=model.id, repeats=7, warmup=1, profile=True),
        MeasurementSpec(networks=({"model": model.id}, {"model": foreign.id}), repeats=8),
        MeasurementSpec(model=foreign.id),
    ]
    ids = [services.devices.ask(TENANT, LOCAL, one).id for one in asked]
    stop = threading.Event()
    with serving(supervisor_of(services, stopping=stop.is_set)):
        wait_for(lambda: all(services.devices.request(TENANT, LOCAL, one).finished_at for one in ids))
        stop.set()
    found = [services.devices.request(TENANT, LOCAL, one) for one in ids]
    single = services.devices.measurement(TENANT, found[0].measurement_id)

    assert [one.state for one in found] == ["measured", "measured", "failed"], [one.problem for one in found]
    assert (len(single.samples_ms), single.warmup, single.model_id) == (7, 1, model.id)
    assert single.profile
    assert single.host["alone"] is True
    assert "Frobnicate" in found[2].problem["detail"]
