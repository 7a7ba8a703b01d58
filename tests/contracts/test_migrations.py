"""One history of the schema, on both databases."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from app.db.migrate import alembic_config, is_current, migrate
from app.db.session import open_engine
from app.db.tables import Base
from tests.postgres import NoPostgres, Server, start


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    try:
        started = start()
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL starts here: {error}")
    yield started
    started.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    started: Server = request.getfixturevalue("server")
    url = started.create()
    yield url
    started.drop(url)


def test_upgrade_downgrade_upgrade(empty_url: str) -> None:
    """Every revision can be taken back and applied again."""
    engine = open_engine(empty_url)
    config = alembic_config(engine)
    command.upgrade(config, "head")
    command.downgrade(config, "base")

    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}

    command.upgrade(config, "head")
    command.check(config)

    assert set(inspect(engine).get_table_names()) == {"alembic_version", *Base.metadata.tables}
    engine.dispose()


def test_schema_equals_the_tables(empty_url: str) -> None:
    """Alembic finds no difference between the migrated schema and the tables in the code."""
    migrate(empty_url)
    engine = open_engine(empty_url)
    command.check(alembic_config(engine))  # raises if there is one
    engine.dispose()


def test_migrate_says_when_a_database_is_current(empty_url: str) -> None:
    """A new database is not current, a migrated one is, and migrating again changes nothing."""
    engine = open_engine(empty_url)

    assert not is_current(engine)

    migrate(empty_url)
    migrate(empty_url)

    assert is_current(engine)
    engine.dispose()


def test_processes_may_start_at_once(empty_url: str) -> None:
    """Three migrations of one empty database at the same time all end well."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: _migrate_alone(empty_url), range(3)))
    engine = open_engine(empty_url)

    assert is_current(engine)
    engine.dispose()


def _migrate_alone(url: str) -> None:
    # Alembic keeps its context per process; a process each is how services start.
    import subprocess
    import sys

    subprocess.run(
        [sys.executable, "-c", "import sys; from app.db.migrate import migrate; migrate(sys.argv[1])", url],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        timeout=120,
    )


def test_every_table_names_its_tenant() -> None:
    """No row is without an owner."""
    without = [name for name, table in Base.metadata.tables.items() if "tenant" not in table.columns]

    assert without == []


def test_revisions_are_numbered_in_one_line(tmp_path: Path) -> None:
    """Revisions are 0001, 0002, ... so that their order can be read from a listing."""
    engine = open_engine(f"sqlite:///{tmp_path / 'none.sqlite3'}")
    found = [script.revision for script in ScriptDirectory.from_config(alembic_config(engine)).walk_revisions()]
    engine.dispose()

    assert sorted(found) == [f"{number:04d}" for number in range(1, len(found) + 1)]
