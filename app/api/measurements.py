"""/v1/measurements: how fast networks ran, with every sample and the host that ran them; exported and imported."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api import device_schemas, documents, measurement_files, schemas
from app.api.deps import ID, AgentDep, CallerDep, NoQueryDep, Parts, PartsDep, known_id, page_limit
from app.api.json_body import read_json
from app.api.openapi import answer, bare, by_device, json_body, problems, reference
from app.api.receive import content_type, take_bytes, take_json
from app.domain.device import LatencyReport, read
from app.domain.record import Which
from app.services import parquet

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])


_EXPORT_PAGE: Final = 50  # measurements that are held at once while many are exported
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


class ExportQuery(Which):
    """Which measurements, and in which form."""

    format: Literal["json", "csv", "parquet"] = Field(
        default="json", description="csv: lists and objects are JSON in their cells; parquet: lists are lists."
    )

    def which(self) -> Which:
        """Which measurements."""
        return Which(**self.model_dump(include=set(Which.model_fields)))


class MeasurementsQuery(Which):
    """Which measurements, and how many."""

    limit: int | None = Field(default=None, ge=1, description="Entries wanted; capped by the service.")
    after: str | None = Field(default=None, pattern=ID, description="`last_id` of the page before.")

    def which(self) -> Which:
        """Which measurements."""
        return Which(**self.model_dump(include=set(Which.model_fields)))


class ImportQuery(BaseModel):
    """Where an export is from."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(default=None, min_length=1, max_length=255, description="What you call its origin.")
    device: str | None = Field(
        default=None,
        pattern=r"^dev_[0-9a-z_]{1,36}$",
        description="Your device on which they count as measured; left out, they keep their own device's name.",
    )


@router.get(
    "",
    operation_id="list_measurements",
    response_model=None,
    responses={200: answer(schemas.Page[device_schemas.Measurement], "Measurements, newest first."), **problems()},
)
async def list_measurements(
    parts: PartsDep, caller: CallerDep, query: Annotated[MeasurementsQuery, Query()]
) -> Response:
    """List measured latencies, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    page = parts.services.measurements.page
    rows, more = await run_in_threadpool(page, caller.tenant, query.which(), limit=limit, after=query.after)
    return JSONResponse(documents.page([documents.measurement(row) for row in rows], has_more=more))


@router.post(
    "",
    operation_id="record_measurement",
    response_model=None,
    status_code=201,
    responses={
        200: answer(device_schemas.Measurement, "It was recorded before.", headers=["Location"]),
        201: answer(device_schemas.Measurement, "Recorded.", headers=["Location"]),
        **problems(400, 401, 409, 413, 415),
    },
    openapi_extra={**json_body(LatencyReport), **by_device()},
)
async def record_measurement(request: Request, parts: PartsDep, device: AgentDep, _query: NoQueryDep) -> Response:
    """Record, as a device's agent, what was measured under a lease: once, however often it is sent."""
    given = await take_json(request, max_bytes=parts.services.settings.max_spec_bytes)
    report = read(LatencyReport, read_json(given, where="The body"))
    recorded = await run_in_threadpool(parts.services.device_work.record, device, report)
    status = HTTPStatus.CREATED if recorded.created else HTTPStatus.OK
    headers = {"Location": f"/v1/measurements/{recorded.row.id}"}
    return JSONResponse(documents.measurement(recorded.row), status_code=status, headers=headers)


@router.get(
    "/export",
    operation_id="export_measurements",
    response_model=None,
    responses={
        200: bare(
            "All of them, newest first.",
            content={
                "application/json": {"schema": {"type": "array", "items": reference(device_schemas.Measurement)}},
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": _BINARY,
            },
        ),
        **problems(501),
    },
)
async def export_measurements(
    parts: PartsDep, caller: CallerDep, query: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    """Export every measurement that matches, samples and host included: a JSON array, CSV, or Parquet."""
    if query.format == "parquet":
        parquet.require()
    pages = _pages(parts, caller.tenant, query.which())
    # The first page is read before the answer begins, so that a database that is away can still be told.
    first: Sequence[Mapping[str, Any]] = await run_in_threadpool(next, pages, [])
    whole = measurement_files.first_then(first, pages)
    headers = {"Content-Disposition": f'attachment; filename="measurements.{query.format}"'}
    body: Iterator[str] | Iterator[bytes]
    if query.format == "parquet":
        body = measurement_files.as_parquet(whole)
    else:
        body = {"json": measurement_files.as_json, "csv": measurement_files.as_csv}[query.format](whole)
    return StreamingResponse(body, media_type=measurement_files.MEDIA_TYPES[query.format], headers=headers)


def _pages(parts: Parts, tenant: str, which: Which) -> measurement_files.Pages:
    """The matching measurements as documents, some at a time."""
    after, more = None, True
    while more:
        rows, more = parts.services.measurements.page(tenant, which, limit=_EXPORT_PAGE, after=after)
        after = rows[-1].id if rows else None
        yield [documents.measurement(row) for row in rows]


@router.post(
    "/import",
    operation_id="import_measurements",
    response_model=None,
    responses={
        200: answer(device_schemas.Import, "In the record; what was there before stays single."),
        **problems(400, 404, 413, 415, 501),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"type": "array", "items": reference(device_schemas.Measurement)}},
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": _BINARY,
            },
        }
    },
)
async def import_measurements(
    request: Request, parts: PartsDep, caller: CallerDep, query: Annotated[ImportQuery, Query()]
) -> Response:
    """Import an export of this or another service: all of it or nothing, each measurement once."""
    most = parts.services.settings.max_import_bytes
    content = await take_bytes(request, max_bytes=most, what="export", setting="ESPALIER_MAX_IMPORT_BYTES")

    def work() -> documents.Json:
        records = measurement_files.read_export(content, content_type(request))
        take_in = parts.services.measurements.take_in
        done = take_in(caller.tenant, records, name=query.source, device=query.device)
        return {"imported": len(done.ids), "known": done.known, "measurements": list(done.ids)}

    return JSONResponse(await run_in_threadpool(work))


@router.get(
    "/{measurement_id}",
    operation_id="get_measurement",
    response_model=None,
    responses={200: answer(device_schemas.Measurement, "The measurement."), **problems(404)},
)
async def get_measurement(measurement_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Give one measurement."""
    name = known_id(measurement_id, "msr")
    row = await run_in_threadpool(parts.services.devices.measurement, caller.tenant, name)
    return JSONResponse(documents.measurement(row))
