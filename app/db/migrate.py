"""Bring a database to the schema that this version of the code expects."""

from importlib.util import find_spec
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from app.db.session import open_engine, translated


def alembic_config(engine: Engine) -> Config:
    """Give Alembic's configuration for an engine that is already open, wherever the package is installed."""
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        msg = "The package `migrations` is not installed beside `app`."
        raise RuntimeError(msg)
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    config.attributes["engine"] = engine
    return config


def migrate(database_url: str) -> None:
    """Upgrade the database to the newest revision; nothing happens where it is already there.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with translated():
        engine = open_engine(database_url)
        try:
            if not is_current(engine):
                command.upgrade(alembic_config(engine), "head")
        finally:
            engine.dispose()


def is_current(engine: Engine) -> bool:
    """Whether the database is at the newest revision; readiness asks this."""
    head = ScriptDirectory.from_config(alembic_config(engine)).get_current_head()
    with engine.connect() as connection:
        return _revision(connection) == head


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
