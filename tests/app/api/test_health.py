"""Health tells the truth: what does not work is named, and only what matters makes the service unready."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from app.db.session import bind, open_engine
from app.services.assembly import Services
from tests.app.api.served import Host, Served
from tests.builders import FakeClock, RecordingBell, claim, job, settings_with, upload_model


def checks(served: Served) -> tuple[int, str | int, dict[str, str]]:
    """Status code, overall word, and the word of each check."""
    answer = served.http.get("/readyz")
    body: dict[str, Any] = answer.json()
    return answer.status_code, body["status"], {name: check["status"] for name, check in body["checks"].items()}


def note_worker(served: Served) -> None:
    served.services.workers.seen("w1", queues=["cpu"], bell="silent", job_id=None, system={})


def test_the_process_says_that_it_lives(served: Served) -> None:
    """/livez asks nobody else."""
    assert served.http.get("/livez").json() == {"status": "alive"}


def test_everything_well_is_ready(served: Served, clock: FakeClock) -> None:
    """Database, store, schema, bell and a worker that was seen: ready."""
    clock.moment = _now(served)
    note_worker(served)

    assert checks(served) == (
        200,
        "ready",
        {"database": "ok", "migrations": "ok", "store": "ok", "broker": "ok", "workers": "ok"},
    )


def test_a_silent_broker_and_absent_workers_degrade(served: Served, bell: RecordingBell) -> None:
    """The service is still ready: the outbox keeps messages, jobs wait."""
    bell.broken = True
    status, overall, found = checks(served)

    assert (status, overall) == (200, "degraded")
    assert (found["broker"], found["workers"]) == ("degraded", "degraded")


def test_a_worker_that_fell_silent_is_not_counted(served: Served, clock: FakeClock) -> None:
    """A worker last seen before the limit, with a job waiting for it: degraded, and the waiting job is told."""
    clock.moment = _now(served)
    clock.advance(seconds=-31)
    note_worker(served)
    job(served.services)

    body = served.http.get("/readyz").json()

    assert body["checks"]["workers"] == {"status": "degraded", "detail": "nobody looks for work; 1 jobs wait"}


def test_a_full_store_makes_unready(host: Host, served: Served, tmp_path: Path) -> None:
    """Less free space than uploads need: 503."""
    settings = settings_with(data_dir=tmp_path, min_free_bytes=2**60)
    with host.serving(replace(served.services, settings=settings)) as full:
        status, overall, found = checks(full)

    assert (status, overall, found["store"]) == (503, 503, "failed")


@pytest.fixture
def another_schema(served: Served) -> Iterator[None]:
    """A database that was not migrated to this version; databases are shared between tests, so it is put back."""

    def rename(before: str, after: str) -> None:
        with served.services.database.unit_of_work() as session:
            changed = text("UPDATE alembic_version SET version_num = :after WHERE version_num = :before")
            session.execute(changed, {"before": before, "after": after})

    with served.services.database.read_only() as session:
        version = session.scalar(text("SELECT version_num FROM alembic_version"))
    rename(version, "old")
    yield
    rename("old", version)


@pytest.mark.usefixtures("another_schema")
def test_another_schema_makes_unready(served: Served) -> None:
    """Another revision than this version's: 503, naming the command."""
    answer = served.http.get("/readyz")

    assert answer.status_code == 503
    assert "alembic upgrade head" in answer.json()["checks"]["migrations"]["detail"]


def test_a_database_that_is_away_answers_503_everywhere(host: Host, served: Served) -> None:
    """Not ready, and every request that needs the database is told to come again."""
    away = bind(open_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    kept = served.services
    services = Services.of(kept.settings, database=away, store=kept.store, bell=kept.bell)
    with host.serving(services) as broken:
        status, overall, found = checks(broken)
        listed = broken.http.get("/v1/jobs")
        polled = broken.http.get("/v1/jobs/job_01k9z3v3n3q3v3n3q3v3n3q3v3", headers={"If-None-Match": '"1"'})
        taken = broken.http.post("/v1/models", content=b"\x08\x07network", headers={"Idempotency-Key": "k"})

    assert (status, overall, found["database"], found["store"]) == (503, 503, "failed", "ok")
    for answer in (listed, polled, taken):
        assert (answer.status_code, answer.json()["type"]) == (503, "database-unavailable")
        assert int(answer.headers["Retry-After"]) > 0


def test_metrics_are_counted_in_the_database(served: Served) -> None:
    """Jobs by state, waiting jobs and stored bytes, as Prometheus reads them."""
    job(served.services)
    upload_model(served.services, b"another model")
    claim(served.services)

    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(served.http.get("/metrics").text)
        for sample in family.samples
    }

    assert found["espalier_jobs", "prune", "queued"] == 1
    assert found["espalier_jobs", "analyse_model", "running"] == 1
    assert found["espalier_queue_depth", "cpu"] == 1
    assert found["espalier_stored_bytes", "models"] == len(b"network") + len(b"another model")
    assert found["espalier_worker_losses_total",] == 0


def _now(served: Served) -> Any:
    with served.services.database.read_only() as session:
        return served.services.database.now(session)
