"""Queries about the record of measurements."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from app.db.tables import ArtifactRow, MeasurementRow, NetworkRow
from app.domain.record import Which

_AT_ONCE: Final = 500  # values of one IN; SQLite allows 32,766


def page(session: Session, tenant: str, which: Which, *, limit: int, after: str | None) -> Sequence[MeasurementRow]:
    """Give the measurements that are meant, newest first, behind the one named `after`."""
    row = MeasurementRow
    query = select(row).where(row.tenant == tenant, *_conditions(which))
    if after is not None:
        query = query.where(row.id < after)
    return session.scalars(query.order_by(row.id.desc()).limit(limit)).all()


def known(session: Session, tenant: str, digests: Sequence[str]) -> set[str]:
    """Give those of the digests under which the tenant has a record."""
    row, found = MeasurementRow, set[str]()
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        found |= set(
            session.scalars(select(row.record_sha256).where(row.tenant == tenant, row.record_sha256.in_(some)))
        )
    return found


def networks_of(session: Session, tenant: str, digests: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
    """Give the tenant's own artifact or model of each content digest, as far as there are any."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        made = select(ArtifactRow.sha256, ArtifactRow.id).where(
            ArtifactRow.tenant == tenant, ArtifactRow.sha256.in_(some), ArtifactRow.kind == "onnx"
        )
        found |= {digest: (artifact_id, None) for digest, artifact_id in session.execute(made)}
        uploaded = select(NetworkRow.sha256, NetworkRow.id).where(
            NetworkRow.tenant == tenant, NetworkRow.sha256.in_(some)
        )
        found |= {digest: (None, model_id) for digest, model_id in session.execute(uploaded)}
    return found


def _conditions(which: Which) -> list[ColumnElement[bool]]:
    row = MeasurementRow
    columns = {
        "artifact": row.artifact_id,
        "model": row.model_id,
        "job": row.job_id,
        **{name: getattr(row, name) for name in ("sha256", "device", "key", "runtime", "runtime_version", "provider")},
        **{name: getattr(row, name) for name in ("threads", "batch", "kind")},
    }
    wanted = {name: getattr(which, name) for name in columns}
    found = [column == wanted[name] for name, column in columns.items() if wanted[name] is not None]
    if which.since is not None:
        found.append(row.created_at >= which.since)
    if which.until is not None:
        found.append(row.created_at < which.until)
    if which.imported is not None:
        found.append(row.source.is_not(None) if which.imported else row.source.is_(None))
    return found
