"""What users do with models and datasets once they are uploaded: look and delete."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.db import inputs as queries
from app.db.inputs import Row
from app.db.session import Database
from app.db.tables import DatasetRow, NetworkRow
from app.errors import NotFound
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The verbs. Every one asks for the tenant; another tenant's input is NotFound."""

    database: Database
    settings: Settings

    def model(self, tenant: str, model_id: str) -> NetworkRow:
        """Give a model.

        Raises:
            NotFound: the tenant has no such model.
        """
        return self._get(NetworkRow, tenant, model_id)

    def dataset(self, tenant: str, dataset_id: str) -> DatasetRow:
        """Give a dataset.

        Raises:
            NotFound: the tenant has no such dataset.
        """
        return self._get(DatasetRow, tenant, dataset_id)

    def models(self, tenant: str, *, limit: int, after: str | None = None) -> tuple[Sequence[NetworkRow], bool]:
        """Give models, newest first, and whether there are more; a high limit is capped."""
        return self._page(NetworkRow, tenant, limit, after)

    def datasets(self, tenant: str, *, limit: int, after: str | None = None) -> tuple[Sequence[DatasetRow], bool]:
        """Give datasets, newest first, and whether there are more; a high limit is capped."""
        return self._page(DatasetRow, tenant, limit, after)

    def delete_model(self, tenant: str, model_id: str) -> None:
        """Delete a model. Jobs that wait for it will fail, saying so; those that run go on with their own copy.

        Raises:
            NotFound: the tenant has no such model.
        """
        self._delete(NetworkRow, tenant, model_id)

    def delete_dataset(self, tenant: str, dataset_id: str) -> None:
        """Delete a dataset; for jobs it is as with a model.

        Raises:
            NotFound: the tenant has no such dataset.
        """
        self._delete(DatasetRow, tenant, dataset_id)

    def _get(self, kind: type[Row], tenant: str, row_id: str) -> Row:
        with self.database.read_only() as session:
            row = queries.find(session, kind, tenant, row_id)
        if row is None:
            raise _not_found(kind, row_id)
        return row

    def _page(self, kind: type[Row], tenant: str, limit: int, after: str | None) -> tuple[Sequence[Row], bool]:
        size = max(1, min(limit, self.settings.page_limit))
        with self.database.read_only() as session:
            rows = queries.page(session, kind, tenant, limit=size + 1, after=after)
        return rows[:size], len(rows) > size

    def _delete(self, kind: type[Row], tenant: str, row_id: str) -> None:
        with self.database.unit_of_work() as session:
            if not queries.remove(session, kind, tenant, row_id):
                raise _not_found(kind, row_id)


def _not_found(kind: type[Row], row_id: str) -> NotFound:
    return NotFound(f"There is no {'model' if kind is NetworkRow else 'dataset'} {row_id[:40]}.")
