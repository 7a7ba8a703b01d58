"""Fixtures of the service: the same tests run on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.migrate import migrate
from app.db.session import Database, bind, open_engine
from app.db.tables import Base
from app.services.assembly import Services
from app.settings import Settings
from app.storage.local import LocalStore
from tests.builders import FakeClock, RecordingBell, settings_with
from tests.postgres import NoPostgres, Server, start


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
def postgres_url(postgres: Server) -> str:
    """The one database with the newest schema that tests of this process use in turn."""
    return postgres.create_migrated()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty SQLite database with the newest schema, as bytes to copy."""
    path = tmp_path_factory.mktemp("template") / "template.sqlite3"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database with the newest schema."""
    if request.param == "sqlite":
        path = tmp_path / "espalier.sqlite3"
        path.write_bytes(request.getfixturevalue("sqlite_template"))
        yield f"sqlite:///{path}"
        return
    url: str = request.getfixturevalue("postgres_url")
    yield url
    engine = open_engine(url)
    with engine.begin() as connection:  # emptying ten tables is quicker than making a database
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(table.delete())
    engine.dispose()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database with the newest schema."""
    opened = bind(open_engine(database_url, pool_size=20, max_overflow=40))
    yield opened
    opened.dispose()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty store."""
    return LocalStore(tmp_path / "store")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that only moves when told to."""
    return FakeClock()


@pytest.fixture
def bell() -> RecordingBell:
    """A bell that notes what it was told, and can be broken."""
    return RecordingBell()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Defaults, with everything in a temporary directory."""
    return settings_with(data_dir=tmp_path, database_url=database_url)


@pytest.fixture
def services(
    settings: Settings, database: Database, store: LocalStore, bell: RecordingBell, clock: FakeClock
) -> Services:
    """Every service on an empty database, with a clock and a bell in the test's hands."""
    return Services.of(settings, database=database, store=store, bell=bell, clock=clock)
