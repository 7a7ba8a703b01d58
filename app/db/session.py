"""The engine, and the two ways to use it: read_only() and unit_of_work().

On SQLite a unit of work begins with BEGIN IMMEDIATE. The driver's own default begins with the first write, so two
readers that both go on to write either lose an update or fail at once with "database is locked", whatever the busy
timeout is. Six threads that each read and then write one row 40 times lost 199 of 240 updates that way, and none this
way. PostgreSQL's READ COMMITTED needs guarded updates instead; app/db/jobs.py guards every one, for both.
"""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import DatabaseUnavailable, StorageFull
from app.settings import Settings

Clock = Callable[[Session], datetime]  # the time by which leases and keys are judged
_WRITES: Final = "espalier_writes"  # execution option of connections that serve a unit of work
_RETRY_AFTER: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Database:
    """One database: hands out sessions, says what time it is there."""

    engine: Engine
    _readers: sessionmaker[Session]
    _writers: sessionmaker[Session]
    # SQLite lets one writer in and has the others poll, so a thread can be passed over until its time is up. Threads of
    # one process therefore queue for their turn here; the polling is left between processes.
    _turn: "threading.Lock | None"
    _patience: timedelta

    @contextmanager
    def read_only(self) -> Iterator[Session]:
        """Give a session for reading; whatever it changes is rolled back.

        Raises:
            DatabaseUnavailable: the database does not answer in time.
        """
        # Closing takes back what was not committed, and leaves the rows that were read usable; rollback() would not.
        with translated(), self._readers() as session:
            yield session

    @contextmanager
    def unit_of_work(self) -> Iterator[Session]:
        """Give a session whose changes are committed if the block ends well, and rolled back otherwise.

        Raises:
            DatabaseUnavailable: the database does not answer in time; nothing was committed, unless the connection
                broke during the commit itself.
            StorageFull: the database has no room left; nothing was committed.
        """
        with self._in_turn(), translated(), self._writers() as session, session.begin():
            yield session

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=self._patience.total_seconds()):
            detail = "The database is busy: other requests have been writing for too long."
            raise DatabaseUnavailable(detail, advice="Try again shortly.", retry_after=_RETRY_AFTER)
        try:
            yield
        finally:
            self._turn.release()

    def now(self, session: Session) -> datetime:
        """Give the database's time: leases of workers on several hosts must be judged by one clock."""
        if self.dialect == "sqlite":
            return datetime.now(UTC)  # a file's database has its host's clock
        moment = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        return as_utc(moment)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def as_utc(moment: object) -> datetime:
    """Give a driver's timestamp as an aware datetime in UTC."""
    if not isinstance(moment, datetime):
        msg = f"The database gave {moment!r} for a timestamp."
        raise TypeError(msg)
    return moment.astimezone(UTC)


def open_database(settings: Settings) -> Database:
    """Give the database of the settings; nothing is connected yet.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL.
    """
    url = settings.resolved_database_url
    if make_url(url).get_backend_name() == "sqlite":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_engine(
        url,
        timeout=settings.database_timeout,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_pool_overflow,
    )
    return bind(engine, timeout=settings.database_timeout)


def bind(engine: Engine, *, timeout: timedelta = timedelta(seconds=5)) -> Database:
    """Give the Database around an engine of open_engine(); writers wait no longer than `timeout` for their turn."""
    readers = engine.execution_options(postgresql_readonly=True) if engine.dialect.name == "postgresql" else engine
    writers = engine.execution_options(**{_WRITES: True})
    options: dict[str, Any] = {"expire_on_commit": False}
    turn = threading.Lock() if engine.dialect.name == "sqlite" else None
    return Database(engine, sessionmaker(readers, **options), sessionmaker(writers, **options), turn, timeout)


def open_engine(
    url: str, *, timeout: timedelta = timedelta(seconds=5), pool_size: int = 5, max_overflow: int = 10
) -> Engine:
    """Give an engine with the pool, timeouts and events that this service needs on either database.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL.
    """
    parsed = make_url(url)
    pool: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": max_overflow,
        "pool_timeout": timeout.total_seconds(),
        "pool_pre_ping": True,
    }
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": timeout.total_seconds()}, **pool)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        milliseconds = int(timeout.total_seconds() * 1000)
        limits = {
            "lock_timeout": milliseconds,
            "statement_timeout": 6 * milliseconds,
            "idle_in_transaction_session_timeout": 12 * milliseconds,  # a stopped worker may not hold rows for ever
        }
        arguments = {
            "connect_timeout": max(2, int(timeout.total_seconds())),
            "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        }
        return create_engine(parsed.set(drivername="postgresql+psycopg"), connect_args=arguments, **pool)
    msg = f"The database URL is of {backend!r}; supported are sqlite and postgresql."
    raise ValueError(msg)


def _prepare_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
    """Durable across a kill, readers beside one writer, foreign keys; the driver begins no transactions itself."""
    del record
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "journal_size_limit=67108864"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what a database does when it is away, busy or full into the service's own errors."""
    try:
        yield
    except PoolTimeout as error:
        detail = "No database connection became free in time."
        raise DatabaseUnavailable(detail, advice="Try again shortly.", retry_after=_RETRY_AFTER) from error
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(error) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise _unavailable(error) from error


def _unavailable(error: DBAPIError) -> StorageFull | DatabaseUnavailable:
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    full = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if full or getattr(error.orig, "sqlstate", None) == "53100":
        return StorageFull(
            f"The database has no room left ({errno.errorcode[errno.ENOSPC]}).", retry_after=_RETRY_AFTER
        )
    return DatabaseUnavailable(
        f"The database does not answer ({reason}).", advice="Try again shortly.", retry_after=_RETRY_AFTER
    )
