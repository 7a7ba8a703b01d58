"""Rows as the documents of the API; app/api/schemas.py describes them, and tests hold every answer to that."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from app.db.tables import (
    ArtifactRow,
    DatasetRow,
    JobEventRow,
    JobRow,
    MeasurementItemRow,
    MeasurementRequestRow,
    MeasurementRow,
    NetworkRow,
)
from app.domain.report import MeasurementReport
from app.domain.timing import median_interval, unstable
from app.services.device_work import Companion, Lease
from app.services.devices import Device

Json = dict[str, Any]

_DATASET_FIELDS = ("kind", "num_samples", "num_classes", "shape", "dtype", "splits")
_MEASUREMENT_FIELDS = tuple(MeasurementReport.model_fields)


def text(document: Json) -> str:
    """A document as it is sent: compact, in UTF-8."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def timestamp(moment: datetime | None) -> str | None:
    """A moment as RFC 3339 writes it, in UTC."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def page(documents: Sequence[Json], *, has_more: bool, key: str = "id") -> Json:
    """One page of a list."""
    return {"data": list(documents), "has_more": has_more, "last_id": documents[-1][key] if documents else None}


def _upload(row: NetworkRow | DatasetRow) -> Json:
    return {
        "id": row.id,
        "name": row.name,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "created_at": timestamp(row.created_at),
        "state": row.state,
        "problem": row.problem,
    }


def network(row: NetworkRow) -> Json:
    """The API's Model."""
    beside = {"sha256": row.external_data_sha256, "size_bytes": row.external_data_bytes}
    return {
        **_upload(row),
        "external_data": beside if row.external_data_sha256 else None,
        "analysis": row.analysis,
    }


def dataset(row: DatasetRow) -> Json:
    """The API's Dataset."""
    known = row.description or {}
    return {**_upload(row), **{field: known.get(field) for field in _DATASET_FIELDS}}


def job(row: JobRow) -> Json:
    """The API's Job."""
    spec = row.spec
    return {
        "id": row.id,
        "name": row.name,
        "metadata": spec.get("metadata"),
        "state": row.state,
        "method": spec.get("method"),
        "target": spec.get("target"),
        "targets": spec.get("targets"),
        "created_at": timestamp(row.created_at),
        "started_at": timestamp(row.started_at),
        "finished_at": timestamp(row.finished_at),
        "attempt": row.attempt,
        "progress": {
            "phase": row.phase,
            "fraction": float(row.fraction),
            "eta_seconds": row.eta_seconds,
            "message": row.message,
            "metrics": row.metrics or {},
        },
        "result": row.result,
        "problem": row.problem,
        "model": row.model_id,
        "dataset": row.dataset_id,
        "device": spec.get("device"),
        "links": {
            "self": f"/v1/jobs/{row.id}",
            "events": f"/v1/jobs/{row.id}/events",
            "artifacts": f"/v1/jobs/{row.id}/artifacts",
            "cancel": f"/v1/jobs/{row.id}/cancel",
        },
    }


def event(row: JobEventRow) -> Json:
    """The API's Event."""
    return {"seq": row.seq, "type": row.type, "data": row.data, "created_at": timestamp(row.created_at)}


def artifact(row: ArtifactRow) -> Json:
    """The API's Artifact."""
    return {
        "id": row.id,
        "job": row.job_id,
        "kind": row.kind,
        "name": row.name,
        "target": row.target,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "created_at": timestamp(row.created_at),
        "summary": row.summary,
        "links": {"self": f"/v1/artifacts/{row.id}", "content": f"/v1/artifacts/{row.id}/content"},
    }


def measurement(row: MeasurementRow) -> Json:
    """The API's Measurement; what its samples say of themselves is computed as it is given."""
    samples = cast("list[float]", row.samples_ms)
    return {
        "id": row.id,
        "artifact": row.artifact_id,
        "model": row.model_id,
        "job": row.job_id,
        **{field: getattr(row, field) for field in _MEASUREMENT_FIELDS},
        "p50_interval_ms": median_interval(samples),
        "unstable": list(unstable(samples, row.host)),
        "source": row.source,
        "created_at": timestamp(row.created_at),
    }


def device(found: Device) -> Json:
    """The API's Device."""
    return {
        "id": found.id,
        "name": found.name,
        "state": found.state.value,
        "attributes": found.attributes,
        "created_at": timestamp(found.created_at),
        "seen_at": timestamp(found.seen_at),
    }


def measurement_request(row: MeasurementRequestRow, items: Sequence[MeasurementItemRow] = ()) -> Json:
    """The API's MeasurementRequest, with its items where it is of several."""
    return {
        "id": row.id,
        "device": row.device_id,
        "artifact": row.artifact_id,
        "model": row.model_id,
        "sha256": row.sha256,
        "threads": row.threads,
        "batch": row.batch,
        "provider": row.provider,
        "warmup": row.warmup,
        "repeats": row.repeats,
        "profile": row.profile,
        "shapes": row.shapes,
        "job": row.job_id,
        "items": [_item(item) for item in items],
        "state": row.state,
        "attempts": row.attempts,
        "leased_until": timestamp(row.lease_until),
        "measurement": row.measurement_id,
        "problem": row.problem,
        "created_at": timestamp(row.created_at),
        "expires_at": timestamp(row.expires_at),
        "finished_at": timestamp(row.finished_at),
    }


def _item(row: MeasurementItemRow) -> Json:
    return {
        "name": row.name,
        "kind": row.kind,
        "key": row.key,
        "artifact": row.artifact_id,
        "model": row.model_id,
        "sha256": row.sha256,
        "measurement": row.measurement_id,
        "problem": row.problem,
    }


def lease(found: Lease, device_id: str) -> Json:
    """The API's Lease."""
    content = f"/v1/devices/{device_id}/leases/{found.id}/content"
    return {
        "id": found.id,
        "sha256": found.sha256,
        "size_bytes": found.size_bytes,
        "content": content,
        "threads": found.threads,
        "batch": found.batch,
        "provider": found.provider,
        "warmup": found.warmup,
        "repeats": found.repeats,
        "profile": found.profile,
        "shapes": found.shapes,
        "external_data": _companion(found.external_data, content, 0),
        "until": timestamp(found.until),
        "items": [
            {
                "name": item.name,
                "sha256": item.sha256,
                "size_bytes": item.size_bytes,
                "content": f"{content}?item={position}",
                "external_data": _companion(item.external_data, content, position),
            }
            for position, item in enumerate(found.items)
        ],
    }


def _companion(found: Companion | None, content: str, position: int) -> Json | None:
    if found is None:
        return None
    where = f"{content}?item={position}&part=external_data"
    return {"sha256": found.sha256, "size_bytes": found.size_bytes, "content": where}
