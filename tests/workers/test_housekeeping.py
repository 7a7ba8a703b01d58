"""What happens though nobody asks for it, on both databases."""

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from app.domain.job import JobState
from app.services.assembly import Services
from app.storage.blobs import put
from tests.builders import TENANT, analysed_model, claim, spec
from tests.waiting import wait_for
from workers.folders import JobFolder, remove_abandoned
from workers.housekeeping import Chore, chores, keep_house


def queued(services: Services) -> str:
    """A job that waits."""
    return services.jobs.submit(TENANT, spec(analysed_model(services).id)).id


def tick_all(services: Services) -> None:
    """Every chore once."""
    for chore in chores(services):
        chore.tick(0.0)


def test_a_bell_that_could_not_be_rung_is_rung_again(services) -> None:
    """A broker that was away at the submission hears of the job later."""
    services.bell.broken = True
    queued(services)
    services.bell.broken = False
    services.bell.rung.clear()
    with services.database.unit_of_work() as session:
        due = services.database.now(session) - timedelta(seconds=1)
        session.execute(text("UPDATE outbox SET due_at = :due"), {"due": due})
    tick_all(services)

    assert ["cpu"] == services.bell.rung


def test_a_job_whose_lease_ran_out_goes_back_to_its_queue(services) -> None:
    """A worker that is not heard from loses its job; the job's log says whose."""
    job_id = queued(services)
    claim(services, "wrk_lost")
    with services.database.unit_of_work() as session:
        past = services.database.now(session) - timedelta(seconds=1)
        session.execute(text("UPDATE jobs SET lease_until = :past WHERE lease_until IS NOT NULL"), {"past": past})
    tick_all(services)

    assert JobState.QUEUED is services.jobs.version(TENANT, job_id)[1]
    assert "wrk_lost" in services.jobs.get(TENANT, job_id).last_problem["detail"]


def test_only_old_and_unnamed_content_is_collected(services) -> None:
    """The model's bytes stay, a fresh orphan stays, an orphan beyond the grace period goes."""
    model = analysed_model(services)
    fresh, old = put(services.store, [b"fresh"]), put(services.store, [b"old"])
    past = (datetime.now(UTC) - timedelta(hours=48)).timestamp()
    for digest in (old.digest, model.sha256):
        os.utime(services.store.path(digest), (past, past))
    tick_all(services)

    assert {model.sha256, fresh.digest} == {blob.digest for blob in services.store.blobs()}


def test_folders_of_dead_supervisors_go_and_those_of_living_ones_stay(tmp_path) -> None:
    """A lock tells them apart, and the young ones are left alone, since a lock comes after its folder."""
    living, dead = JobFolder.make(tmp_path, "living.1"), JobFolder.make(tmp_path, "dead.1")
    os.close(dead.lock)
    (dead.path / "out" / "half").write_bytes(b"x")
    now = datetime.now(UTC).timestamp()

    assert 0 == remove_abandoned(tmp_path, now=now, older_than=60)
    assert 1 == remove_abandoned(tmp_path, now=now + 61, older_than=60)
    assert ["living.1"] == [path.name for path in tmp_path.iterdir()]
    living.remove()
    assert 0 == remove_abandoned(tmp_path / "absent", now=now, older_than=0)


def test_a_chore_keeps_its_interval() -> None:
    """Due at 0, 10 and 20 s: three times in 25 s, whatever the rhythm of the looks."""
    done = []
    chore = Chore(name="x", interval=timedelta(seconds=10), work=lambda: done.append(1) or 0)
    for second in range(25):
        chore.tick(float(second))

    assert 3 == len(done)


def test_a_chore_that_fails_is_tried_again_and_stops_no_other(tmp_path) -> None:
    """A disk that fails for a moment is not the end of housekeeping."""
    tries = []

    def fail() -> int:
        tries.append(1)
        raise OSError(5, "Input/output error")

    chore = Chore(name="x", interval=timedelta(seconds=10), work=fail)
    chore.tick(0.0)
    chore.tick(11.0)

    assert 2 == len(tries)


def test_housekeeping_stops_when_it_is_told(services) -> None:
    """The loop looks at its stop at least once a second."""
    stop = threading.Event()
    thread = threading.Thread(target=keep_house, args=(services, stop))
    thread.start()
    wait_for(lambda: not services.outbox.pending())
    stop.set()
    thread.join(3)

    assert not thread.is_alive()
    assert Path(services.settings.data_dir).is_dir()
