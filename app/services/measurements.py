"""The record of measurements: read by many questions, carried from service to service without doubles."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import devices as device_queries
from app.db import measurements as queries
from app.db.session import Clock, Database
from app.db.tables import MeasurementRow
from app.domain.device import LOCAL
from app.domain.record import DERIVED, FOREIGN_LOCAL, MAX_IMPORTED, Imported, Which, record_digest
from app.domain.timing import quantile
from app.errors import FieldError, NotFound, ValidationFailed, json_pointer
from app.ids import new_id
from app.settings import Settings

_ERRORS_TOLD = 20
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What an import did: the ids of new measurements, and how many were there before."""

    ids: tuple[str, ...]
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The verbs of the record."""

    database: Database
    settings: Settings
    clock: Clock

    def page(
        self, tenant: str, which: Which, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[MeasurementRow], bool]:
        """Give the measurements that are meant, newest first, and whether there are more."""
        size = max(1, min(limit, self.settings.page_limit))
        with self.database.read_only() as session:
            rows = queries.page(session, tenant, which, limit=size + 1, after=after)
        return rows[:size], len(rows) > size

    def take_in(
        self, tenant: str, records: Sequence[object], *, name: str | None = None, device: str | None = None
    ) -> Import:
        """Add measurements of an export, each marked with where it is from; what is in the record stays single.

        All of them or none. `device` is the tenant's device on which they count as measured; without it they keep the
        name that the device has where they come from.

        Raises:
            ValidationFailed: a record is not one of an export, or a latency without its host; `errors` points at each.
            NotFound: the tenant has no such device.
        """
        read = _read(records)
        try:
            return self._add(tenant, read, name, device)
        except IntegrityError:  # the same export came in twice in the same moment: now it is known
            return self._add(tenant, read, name, device)

    def _add(self, tenant: str, read: Sequence[Imported], name: str | None, device: str | None) -> Import:
        digests = [record_digest(record.model_dump(mode="json")) for record in read]
        with self.database.unit_of_work() as session:
            _require_device(session, tenant, device)
            now = self.clock(session)
            known = queries.known(session, tenant, digests)
            own = queries.networks_of(session, tenant, sorted({record.sha256 for record in read}))
            fresh = {digest: one for digest, one in zip(digests, read, strict=True) if digest not in known}
            rows = []
            # Oldest first, so that ids rise with the time of measuring, as lists expect.
            for one in sorted(fresh.values(), key=lambda record: (record.created_at, record.id)):
                artifact_id, model_id = own.get(one.sha256, (None, None))
                row = _row(one, tenant, device=device, source=_source(one, name, now))
                row.artifact_id, row.model_id = artifact_id, model_id
                rows.append(row)
            session.add_all(rows)
        _log.info("measurements.imported", new=len(rows), known=len(read) - len(rows))
        return Import(ids=tuple(row.id for row in rows), known=len(read) - len(rows))


def _read(records: Sequence[object]) -> list[Imported]:
    if len(records) > MAX_IMPORTED:
        raise ValidationFailed(f"There are {len(records)} measurements; allowed are {MAX_IMPORTED} at once.")
    read, wrong = list[Imported](), list[FieldError]()
    for number, given in enumerate(records):
        try:
            read.append(Imported.model_validate(_without_derived(given)))
        except ValidationError as error:
            wrong += [
                FieldError(pointer=json_pointer((number, *found["loc"])), message=found["msg"])
                for found in error.errors(include_url=False, include_input=False)
            ]
        if len(wrong) >= _ERRORS_TOLD:
            break
    if wrong:
        first = wrong[0]
        raise ValidationFailed(f"Nothing was imported: {first.pointer} {first.message}", errors=wrong[:_ERRORS_TOLD])
    return read


def _without_derived(given: object) -> object:
    return {key: value for key, value in given.items() if key not in DERIVED} if isinstance(given, dict) else given


def _require_device(session: Session, tenant: str, device: str | None) -> None:
    if device not in {None, LOCAL} and device_queries.find(session, tenant, str(device)) is None:
        raise NotFound(f"There is no device {str(device)[:40]}.")


def _source(record: Imported, name: str | None, now: datetime) -> dict[str, Any]:
    """Where a record is from: the service that measured it, however many have passed it on."""
    if record.source is not None:
        return record.source
    ids = record.model_dump(include={"id", "artifact", "model", "job", "device"})
    return {**ids, "name": name, "imported_at": now.isoformat()}


def _row(record: Imported, tenant: str, *, device: str | None, source: dict[str, Any]) -> MeasurementRow:
    kept = record.model_dump(mode="json", exclude={"id", "artifact", "model", "job", "device", "source", "created_at"})
    foreign = FOREIGN_LOCAL if record.device == LOCAL else record.device
    samples = record.samples_ms
    return MeasurementRow(
        **kept,
        id=new_id("msr"),
        tenant=tenant,
        device=device or foreign,
        source=source,
        p50_ms=quantile(samples, 0.5),
        p90_ms=quantile(samples, 0.9),
        p99_ms=quantile(samples, 0.99),
        mean_ms=sum(samples) / len(samples),
        created_at=record.created_at,
    )
