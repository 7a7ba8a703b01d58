"""Transactions that hold up under concurrency, and a database that is away, busy or full."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from app.db.session import Database, bind, open_database, open_engine
from app.db.tables import WorkerRow
from app.errors import DatabaseUnavailable, StorageFull
from tests.builders import settings_with
from tests.postgres import Server

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def worker(**changes: object) -> WorkerRow:
    values = {"queues": [], "host": "h", "pid": 0, "bell": "silent", "system": {}, "started_at": NOW, "seen_at": NOW}
    return WorkerRow(**{"id": "w", **values, **changes})


def test_an_ended_block_is_committed(database: Database) -> None:
    """What a unit of work wrote is there afterwards, and its rows can still be read."""
    with database.unit_of_work() as session:
        session.add(row := worker())
    with database.read_only() as session:
        found = session.get_one(WorkerRow, "w")

    assert (row.host, found.host, found.tenant) == ("h", "h", "default")


def test_a_broken_block_is_not(database: Database) -> None:
    """An error inside takes everything back, and is passed on."""

    def broken() -> None:
        with database.unit_of_work() as session:
            session.add(worker())
            session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    with database.read_only() as session:
        assert session.get(WorkerRow, "w") is None


def test_reading_changes_nothing(database: Database) -> None:
    """What a read_only block writes is refused or taken back."""
    with database.unit_of_work() as session:
        session.add(worker())

    def write() -> None:
        with database.read_only() as session:
            session.execute(update(WorkerRow).values(host="changed"))

    if database.dialect == "postgresql":
        with pytest.raises(Exception, match="read-only transaction"):
            write()
    else:
        write()
    with database.read_only() as session:
        assert session.get_one(WorkerRow, "w").host == "h"


def test_readers_that_write_lose_no_update(database: Database) -> None:
    """Six threads that read, add one and write 40 times each count to 240: on SQLite because a unit of work locks when
    it begins, on PostgreSQL because the row is locked when it is read."""
    with database.unit_of_work() as session:
        session.add(worker())

    def count(_: int) -> None:
        for _ in range(40):
            with database.unit_of_work() as session:
                row = session.scalars(select(WorkerRow).with_for_update()).one()
                row.pid += 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    with database.read_only() as session:
        assert session.get_one(WorkerRow, "w").pid == 240


def test_constraints_are_not_outages(database: Database) -> None:
    """A violated constraint stays what it is."""
    with pytest.raises(IntegrityError), database.unit_of_work() as session:
        session.execute(
            text("INSERT INTO outbox (job_id, queue, created_at, due_at, attempts) VALUES ('x','q',:n,:n,0)"),
            {"n": "2026-01-01"},
        )


def test_moments_keep_their_meaning(database: Database) -> None:
    """A moment given in another zone is read back as the same moment in UTC, to the microsecond."""
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with database.unit_of_work() as session:
        session.add(worker(seen_at=moment))
    with database.read_only() as session:
        found = session.get_one(WorkerRow, "w").seen_at

    assert found == moment
    assert found.tzinfo is not None
    assert found.utcoffset() == timedelta(0)


def test_moments_without_a_zone_are_refused(database: Database) -> None:
    """A naive datetime is a mistake of ours."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(StatementError, match="without a zone"), database.unit_of_work() as session:
        session.add(worker(seen_at=naive))


def test_the_databases_time_is_now(database: Database) -> None:
    """It is aware, and moves on within a transaction."""
    with database.read_only() as session:
        first = database.now(session)
        second = database.now(session)

    assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)
    assert second > first


def test_a_busy_sqlite_is_unavailable(tmp_path: Path) -> None:
    """Whoever waits too long for the writer is told to come back, with a time."""
    url = f"sqlite:///{tmp_path / 'busy.sqlite3'}"
    holder = sqlite3.connect(tmp_path / "busy.sqlite3", isolation_level=None)
    database = bind(open_engine(url, timeout=timedelta(milliseconds=50)))
    with database.unit_of_work() as session:
        session.execute(text("CREATE TABLE t (x)"))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="database is locked") as refusal, database.unit_of_work() as session:
        session.execute(text("SELECT 1"))
    holder.close()
    database.dispose()

    assert (refusal.value.status, refusal.value.retryable) == (503, True)
    assert refusal.value.retry_after == timedelta(seconds=2)


def test_writers_of_one_process_take_turns(tmp_path: Path) -> None:
    """A thread whose turn does not come in time is told so, without asking SQLite at all."""
    database = bind(open_engine(f"sqlite:///{tmp_path / 'turns.sqlite3'}"), timeout=timedelta(milliseconds=50))

    def write() -> None:
        with database.unit_of_work():
            pass

    with ThreadPoolExecutor(1) as pool:
        with database.unit_of_work(), pytest.raises(DatabaseUnavailable, match="writing for too long"):
            pool.submit(write).result()
        pool.submit(write).result()
    database.dispose()


def test_a_full_database_is_full(tmp_path: Path) -> None:
    """A write that finds no room answers 507, and nothing of it is kept."""
    database = bind(open_engine(f"sqlite:///{tmp_path / 'full.sqlite3'}"))
    with database.unit_of_work() as session:
        session.execute(text("CREATE TABLE t (x)"))
        session.execute(text("PRAGMA max_page_count=8"))

    def fill(session: Session) -> None:
        session.execute(text("INSERT INTO t VALUES (zeroblob(1000000))"))

    with pytest.raises(StorageFull, match="no room left"), database.unit_of_work() as session:
        session.execute(text("PRAGMA max_page_count=8"))
        fill(session)
    with database.read_only() as session:
        assert session.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
    database.dispose()


def test_an_exhausted_pool_is_unavailable(database_url: str) -> None:
    """A request that gets no connection in time is refused rather than left hanging."""
    database = bind(open_engine(database_url, timeout=timedelta(milliseconds=50), pool_size=1, max_overflow=0))
    with database.read_only() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="became free in time"), database.read_only() as second:
            second.execute(text("SELECT 1"))
    database.dispose()


def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """No server behind the URL: the answer comes at once and names no secrets."""
    url = f"postgresql://user:hunter2@/nothing?host={tmp_path}"
    database = bind(open_engine(url, timeout=timedelta(seconds=1)))
    with pytest.raises(DatabaseUnavailable) as refusal, database.read_only() as session:
        session.execute(text("SELECT 1"))

    assert "hunter2" not in str(refusal.value)


def test_broken_connections_are_replaced(postgres: Server, postgres_url: str) -> None:
    """After a restart of the server, pooled connections are tested before they are used."""
    database = bind(open_engine(postgres_url))
    with database.read_only() as session:
        session.execute(text("SELECT 1"))
    postgres.kill_connections(postgres_url)
    with database.read_only() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    database.dispose()


def test_a_connection_that_breaks_midway_is_unavailable(postgres: Server, postgres_url: str) -> None:
    """The unit of work that was cut off reports it, commits nothing, and the next one works."""
    database = bind(open_engine(postgres_url))
    started, cut = threading.Event(), threading.Event()

    def work() -> None:
        with database.unit_of_work() as session:
            session.add(worker(id="midway"))
            session.flush()
            started.set()
            cut.wait(10)
            session.execute(text("SELECT 1"))

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        started.wait(10)
        postgres.kill_connections(postgres_url)
        cut.set()
        with pytest.raises(DatabaseUnavailable):
            running.result()
    with database.read_only() as session:
        assert session.get(WorkerRow, "midway") is None
    database.dispose()


def test_other_databases_are_refused(tmp_path: Path) -> None:
    """The supported ones are named."""
    with pytest.raises(ValueError, match="supported are sqlite and postgresql"):
        open_engine("mysql://localhost/x")

    opened = open_database(settings_with(data_dir=tmp_path / "new"))

    assert (opened.dialect, (tmp_path / "new").is_dir()) == ("sqlite", True)
