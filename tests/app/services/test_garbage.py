"""What goes, and above all what stays."""

from datetime import UTC, datetime, timedelta

import pytest

from app.db.session import Database
from app.errors import NotFound
from app.services.assembly import Services
from app.storage.blobs import put
from app.storage.memory import MemoryStore
from tests.builders import TENANT, FakeClock, RecordingBell, artifact, claim, job, settings_with, upload_dataset


@pytest.fixture
def services(database: Database, database_url: str, clock: FakeClock, bell: RecordingBell) -> Services:
    """Services whose store shares the test's clock."""
    store = MemoryStore(clock=lambda: clock.moment)
    return Services.of(settings_with(database_url=database_url), database=database, store=store, bell=bell, clock=clock)


def test_old_content_without_a_row_goes(services: Services, clock: FakeClock) -> None:
    """What a crash between put and commit left is collected after the grace period, not before."""
    put(services.store, [b"orphan"])
    clock.advance(hours=23)

    assert services.garbage.collect() == 0

    clock.advance(hours=2)

    assert services.garbage.collect() == len(b"orphan")
    assert list(services.store.blobs()) == []


def test_named_content_stays(services: Services, clock: FakeClock) -> None:
    """Networks, datasets, artifacts and checkpoints keep their content at any age."""
    done = job(services, content=b"network of done")
    upload_dataset(services)
    data = claim(services)
    services.attempts.finish(data.job_id, data.epoch, {})
    first = claim(services)
    services.attempts.finish(done.id, first.epoch, {}, [artifact(services)])
    running = job(services, content=b"network of running")
    second = claim(services)
    saved = artifact(services, b"state")
    services.attempts.record_checkpoint(running.id, second.epoch, "step", {"f": (saved.sha256, 5)})
    clock.advance(days=10)

    assert services.garbage.unreferenced() == []

    services.attempts.finish(running.id, second.epoch, {})

    assert [blob.digest for blob in services.garbage.unreferenced()] == [saved.sha256]


def test_deleted_inputs_free_their_content(services: Services, clock: FakeClock) -> None:
    """Unless another tenant has the same."""
    mine, theirs = upload_dataset(services), upload_dataset(services, tenant="other")
    clock.advance(days=2)
    services.inputs.delete_dataset(TENANT, mine.id)

    assert services.garbage.collect() == 0

    services.inputs.delete_dataset("other", theirs.id)

    assert services.garbage.collect() == len(b"dataset")


def test_finished_jobs_expire_with_their_artifacts(services: Services, clock: FakeClock) -> None:
    """After the retention period job, events, artifacts and measurements are gone; waiting jobs stay."""
    done = job(services, content=b"a")
    claimed = claim(services)
    services.attempts.finish(done.id, claimed.epoch, {}, [artifact(services)])
    waiting = job(services, content=b"b")
    clock.advance(days=29)

    assert services.garbage.expire_jobs() == 0

    clock.advance(days=2)

    assert services.garbage.expire_jobs() == 3  # the job and the analyses of both networks

    with pytest.raises(NotFound):
        services.jobs.get(TENANT, done.id)
    assert services.jobs.get(TENANT, waiting.id).state == "queued"
    assert services.garbage.collect() == len(b"pruned")


def test_the_real_clock_counts_without_another(database: Database, database_url: str) -> None:
    """Services that are not given a clock go by the database's."""
    plain = Services.of(
        settings_with(database_url=database_url), database=database, store=MemoryStore(), bell=RecordingBell()
    )
    row = upload_dataset(plain)

    assert abs(row.created_at - datetime.now(UTC)) < timedelta(seconds=10)
