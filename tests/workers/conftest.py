"""Fixtures of the job core: real databases, a real store, real children; short leases."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.migrate import migrate
from app.db.session import Database, bind, open_engine
from app.services.assembly import Services
from app.settings import Settings
from app.storage.local import LocalStore
from tests.builders import RecordingBell, settings_with
from tests.postgres import NoPostgres, Server, start
from tests.workers.folders import COMMAND
from workers.presence import Presence
from workers.supervisor import Supervisor


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this test process."""
    try:
        server = start()
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL starts here: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty SQLite database with the newest schema, as bytes to copy."""
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(autouse=True)
def own_turns(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of this test process take turns among themselves, not with others of this host."""
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.getbasetemp()))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database with the newest schema."""
    if request.param == "sqlite":
        path = tmp_path / "espalier.sqlite3"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        yield f"sqlite:///{path}"
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.create_migrated()
    yield url
    server.drop(url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """The database of the settings, with their patience."""
    opened = bind(open_engine(settings.resolved_database_url, timeout=settings.database_timeout))
    yield opened
    opened.dispose()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty store."""
    return LocalStore(tmp_path / "store")


def quick(folder: Path, url: str, **changes: object) -> Settings:
    """Settings in which everything that takes time takes little of it."""
    values = {
        "data_dir": folder,
        "database_url": url,
        "lease_seconds": 3,
        "heartbeat_seconds": 0.5,
        "cancel_poll_seconds": 0.2,
        "progress_seconds": 0.2,
        "cancel_grace_seconds": 0.3,
        "poll_seconds": 0.2,
        "outbox_seconds": 0.3,
        "sweep_seconds": 0.3,
        "database_timeout": 0.5,
        "max_attempts": 2,
        "child_threads": 1,
        "child_memory_bytes": 600 * 2**20,
    }
    return settings_with(**{**values, **changes})


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Short leases, everything in a temporary directory."""
    return quick(tmp_path, database_url)


@pytest.fixture
def services(settings: Settings, database: Database, store: LocalStore) -> Services:
    """Every service, on the database's own clock."""
    return Services.of(settings, database=database, store=store, bell=RecordingBell())


def supervisor_of(services: Services, **changes: object) -> Supervisor:
    """A supervisor whose attempts run the stand-in engine."""
    values = {
        "services": services,
        "presence": Presence(services=services, worker_id="wrk_test", bell="silent"),
        "stopping": lambda: False,
        "command": COMMAND,
        "environment": dict(os.environ),
    }
    return Supervisor(**{**values, **changes})


ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database is not the subject


@pytest.fixture
def supervisor(services: Services) -> Supervisor:
    """A supervisor whose attempts run the stand-in engine."""
    return supervisor_of(services)
