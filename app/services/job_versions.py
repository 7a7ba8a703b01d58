"""Versions of jobs, read as cheaply as they can be: what an unchanged job's poll is answered from."""

from collections.abc import Collection, Mapping

from sqlalchemy import select, tuple_

from app.db.session import Database, translated
from app.db.tables import JobRow
from app.domain.job import JobKind

Key = tuple[str, str]  # tenant, job id


def read_versions(database: Database, keys: Collection[Key]) -> Mapping[Key, tuple[int, str]]:
    """Version and state of each of these jobs that exists, in one query of named columns.

    It goes round the session: one statement needs no transaction, and on PostgreSQL beginning and ending one would be
    two more trips to the server than the poll itself.

    Raises:
        DatabaseUnavailable: the database does not answer in time.
    """
    columns = (JobRow.tenant, JobRow.id, JobRow.version, JobRow.state)
    wanted = tuple_(JobRow.tenant, JobRow.id).in_(list(keys))
    query = select(*columns).where(wanted, JobRow.kind == JobKind.PRUNE)
    with translated(), database.engine.connect() as connection:
        if database.dialect == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT")
        return {(tenant, name): (version, state) for tenant, name, version, state in connection.execute(query)}
