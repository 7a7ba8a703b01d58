"""/v1/measurements: how fast networks ran, with every sample and the host that ran them."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api import documents, schemas
from app.api.deps import ID, AgentDep, CallerDep, NoQueryDep, Parts, PartsDep, known_id, page_limit
from app.api.json_body import read_json
from app.api.openapi import answer, bare, by_device, json_body, problems, reference
from app.api.receive import take_json
from app.domain.device import LatencyReport, read

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])


_EXPORT_PAGE: Final = 50  # measurements that are held at once while many are exported
_MEDIA_TYPES: Final = {"json": "application/json", "csv": "text/csv"}
_COLUMNS: Final = tuple(schemas.Measurement.model_fields)


class WhichQuery(BaseModel):
    """Which measurements."""

    model_config = ConfigDict(extra="forbid")

    artifact: str | None = Field(default=None, pattern=ID, description="Only of this artifact.")
    model: str | None = Field(default=None, pattern=ID, description="Only of this uploaded model.")
    device: str | None = Field(default=None, pattern=r"^dev_[0-9a-z_]{1,36}$", description="Only on this device.")


class ExportQuery(WhichQuery):
    """Which measurements, and in which form."""

    format: Literal["json", "csv"] = Field(default="json", description="csv: samples and host are JSON in their cells.")


class MeasurementsQuery(WhichQuery):
    """Which measurements, and how many."""

    limit: int | None = Field(default=None, ge=1, description="Entries wanted; capped by the service.")
    after: str | None = Field(default=None, pattern=ID, description="`last_id` of the page before.")


@router.get(
    "",
    operation_id="list_measurements",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Measurement], "Measurements, newest first."), **problems()},
)
async def list_measurements(
    parts: PartsDep, caller: CallerDep, query: Annotated[MeasurementsQuery, Query()]
) -> Response:
    """List measured latencies, newest first."""
    rows, more = await run_in_threadpool(
        parts.services.jobs.measurements,
        caller.tenant,
        artifact_id=query.artifact,
        model_id=query.model,
        device=query.device,
        limit=page_limit(query.limit, parts.services.settings),
        after=query.after,
    )
    return JSONResponse(documents.page([documents.measurement(row) for row in rows], has_more=more))


@router.post(
    "",
    operation_id="record_measurement",
    response_model=None,
    status_code=201,
    responses={
        200: answer(schemas.Measurement, "It was recorded before.", headers=["Location"]),
        201: answer(schemas.Measurement, "Recorded.", headers=["Location"]),
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
                "application/json": {"schema": {"type": "array", "items": reference(schemas.Measurement)}},
                "text/csv": {"schema": {"type": "string"}},
            },
        ),
        **problems(),
    },
)
async def export_measurements(
    parts: PartsDep, caller: CallerDep, query: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    """Export every measurement that matches, samples and host included, as a JSON array or as CSV."""
    pages = _pages(parts, caller.tenant, query)
    first: list[Any] = await run_in_threadpool(
        next, pages, []
    )  # a database that is away is told before the answer begins
    write: dict[str, Callable[[list[Any], Iterator[list[Any]]], Iterator[str]]] = {"json": _as_json, "csv": _as_csv}
    headers = {"Content-Disposition": f'attachment; filename="measurements.{query.format}"'}
    body = write[query.format](first, pages)
    return StreamingResponse(body, media_type=_MEDIA_TYPES[query.format], headers=headers)


def _pages(parts: Parts, tenant: str, query: ExportQuery) -> Iterator[list[Any]]:
    """The matching measurements as documents, some at a time."""
    after, more = None, True
    while more:
        rows, more = parts.services.jobs.measurements(
            tenant,
            artifact_id=query.artifact,
            model_id=query.model,
            device=query.device,
            limit=_EXPORT_PAGE,
            after=after,
        )
        after = rows[-1].id if rows else None
        yield [documents.measurement(row) for row in rows]


def _as_json(first: list[Any], pages: Iterator[list[Any]]) -> Iterator[str]:
    yield "["
    separator = ""
    for page in itertools.chain([first], pages):
        for each in page:
            yield separator + documents.text(each)
            separator = ","
    yield "]"


def _as_csv(first: list[Any], pages: Iterator[list[Any]]) -> Iterator[str]:
    held = io.StringIO()
    writer = csv.writer(held)
    writer.writerow(_COLUMNS)
    for page in itertools.chain([first], pages):
        for each in page:
            writer.writerow([_cell(each.get(column)) for column in _COLUMNS])
        yield held.getvalue()
        held.seek(0)
        held.truncate()


def _cell(value: object) -> object:
    """A cell: lists and objects as JSON; a text that a spreadsheet would run as a formula is quoted."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} else value


@router.get(
    "/{measurement_id}",
    operation_id="get_measurement",
    response_model=None,
    responses={200: answer(schemas.Measurement, "The measurement."), **problems(404)},
)
async def get_measurement(measurement_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Give one measurement."""
    name = known_id(measurement_id, "msr")
    row = await run_in_threadpool(parts.services.devices.measurement, caller.tenant, name)
    return JSONResponse(documents.measurement(row))
