"""Versions of jobs, read as cheaply as they can be: what an unchanged job's poll is answered from."""

from collections.abc import Collection, Mapping

from sqlalchemy import select, tuple_

from app.db.session import Database
from app.db.tables import JobRow
from app.domain.job import JobKind

Key = tuple[str, str]  # tenant, job id


def read_versions(database: Database, keys: Collection[Key]) -> Mapping[Key, tuple[int, str]]:
    """Version and state of each of these jobs that exists, in one query of named columns."""
    columns = (JobRow.tenant, JobRow.id, JobRow.version, JobRow.state)
    wanted = tuple_(JobRow.tenant, JobRow.id).in_(list(keys))
    with database.read_only() as session:
        found = session.execute(select(*columns).where(wanted, JobRow.kind == JobKind.PRUNE))
        return {(tenant, identifier): (version, state) for tenant, identifier, version, state in found}
