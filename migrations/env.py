"""Alembic's environment: the same history on SQLite and PostgreSQL."""

from alembic import context
from sqlalchemy import Connection, Engine, text

from app.db import tables
from app.db.session import open_engine
from app.settings import Settings

# Two processes that start at once must not both create the tables; any number does, as long as it is always this one.
ADVISORY_LOCK = 0x65737061


def _engine() -> Engine:
    given = context.config.attributes.get("engine")
    if isinstance(given, Engine):
        return given
    settings = Settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return open_engine(settings.resolved_database_url)


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    context.configure(
        connection=connection,
        target_metadata=tables.NetworkRow.metadata,
        render_as_batch=True,  # SQLite changes a table by copying it
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=False,
        transactional_ddl=True,  # also on SQLite, whose BEGIN IMMEDIATE doubles as the lock
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    msg = "Migrations run against a database, not as a script."
    raise SystemExit(msg)
with _engine().execution_options(espalier_writes=True).connect() as opened, opened.begin():
    _run(opened)
