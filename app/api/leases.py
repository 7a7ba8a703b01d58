"""/v1/devices/{id}/leases: what a device's agent does. Its token opens these and nothing else."""

import asyncio
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import device_schemas, documents
from app.api.content import send_content
from app.api.deps import AgentDep, NoQueryDep, PartsDep, known_id
from app.api.measurement_requests import read_body, request_document
from app.api.openapi import answer, bare, by_device, json_body, problems
from app.db.tables import DeviceRow
from app.domain.batch import BatchReport
from app.domain.device import FailureReport, Poll, read
from app.errors import NotFound
from app.ids import Digest

router = APIRouter(prefix="/v1/devices", tags=["devices"])

_LOOK_SECONDS = 0.25  # between two looks for work while an agent waits


class ContentQuery(BaseModel):
    """Which of a lease's contents."""

    model_config = ConfigDict(extra="forbid")

    item: int = Field(default=0, ge=0, lt=2**31, description="Position among the lease's items.")
    part: Literal["network", "external_data"] = Field(
        default="network", description="The network, or the file that holds its weights."
    )


class LeaseQuery(BaseModel):
    """How long a poll for work may take."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(default=0, ge=0, allow_inf_nan=False, description="Seconds to wait for work, capped.")


def _own(device: DeviceRow, device_id: str) -> None:
    """Pass if the path names the device whose token came; any other is not there for it."""
    if device.id != device_id:
        raise NotFound(f"There is no device {device_id[:40]!a} for this token.")


@router.post(
    "/{device_id}/leases",
    operation_id="lease_measurement",
    response_model=None,
    responses={
        200: answer(device_schemas.Lease, "Something to measure."),
        204: bare("Nothing to do."),
        **problems(400, 401, 404, 413, 415),
    },
    openapi_extra={**json_body(Poll), **by_device()},
)
async def lease_measurement(
    device_id: str, request: Request, parts: PartsDep, device: AgentDep, query: Annotated[LeaseQuery, Query()]
) -> Response:
    """Ask for work, as an agent; with `wait`, until there is some. At most one lease is given."""
    _own(device, device_id)
    poll = read(Poll, await read_body(request, parts))
    work = parts.services.device_work
    await run_in_threadpool(work.seen, device, poll)
    wait = min(query.wait, parts.services.settings.max_wait_seconds.total_seconds())
    deadline = asyncio.get_running_loop().time() + wait
    while not await request.is_disconnected():
        if await run_in_threadpool(work.waiting, device):
            lease = await run_in_threadpool(work.lease, device, poll)
            if lease is not None:
                return JSONResponse(documents.lease(lease, device.id))
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            break
        await asyncio.sleep(min(_LOOK_SECONDS, left))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post(
    "/{device_id}/leases/{lease_id}/renew",
    operation_id="renew_lease",
    response_model=None,
    responses={200: answer(device_schemas.LeaseTime, "Still held."), **problems(401, 404, 409)},
    openapi_extra=by_device(),
)
async def renew_lease(device_id: str, lease_id: str, parts: PartsDep, device: AgentDep, _query: NoQueryDep) -> Response:
    """Extend a lease, as the agent that measures under it."""
    _own(device, device_id)
    name = known_id(lease_id, "lse")
    until: datetime = await run_in_threadpool(parts.services.device_work.renew, device, name)
    return JSONResponse({"id": name, "until": documents.timestamp(until)})


@router.get(
    "/{device_id}/leases/{lease_id}/content",
    operation_id="get_leased_content",
    response_model=None,
    response_class=Response,
    responses={
        200: bare(
            "The bytes to measure.",
            headers=["ETag", "Repr-Digest"],
            content={"application/onnx": {"schema": {"type": "string", "format": "binary"}}},
        ),
        206: bare(
            "Some of the bytes.",
            headers=["ETag", "Repr-Digest", "Content-Range"],
            content={"application/onnx": {"schema": {"type": "string", "format": "binary"}}},
        ),
        304: bare("Unchanged.", headers=["ETag"]),
        **problems(401, 404, 409, 416),
    },
    openapi_extra=by_device(),
)
async def get_leased_content(  # each part of the request is one argument
    *,
    device_id: str,
    lease_id: str,
    request: Request,
    parts: PartsDep,
    device: AgentDep,
    query: Annotated[ContentQuery, Query()],
) -> Response:
    """Download what is leased, as an agent; nothing else can be downloaded with a device's token."""
    _own(device, device_id)
    name = known_id(lease_id, "lse")
    row = await run_in_threadpool(parts.services.device_work.content, device, name, query.item)
    digest, ending = row.sha256, "onnx"
    if query.part == "external_data":
        digest, ending = row.external_data_sha256, "data"
        if not digest:
            raise NotFound("The weights of this network lie in its own bytes.")
    return await send_content(request, parts.services.store, Digest(digest), name=f"{digest[:16]}.{ending}")


@router.post(
    "/{device_id}/leases/{lease_id}/results",
    operation_id="report_results",
    response_model=None,
    responses={
        200: answer(device_schemas.MeasurementRequest, "Recorded, once."),
        **problems(400, 401, 404, 409, 413, 415),
    },
    openapi_extra={**json_body(BatchReport), **by_device()},
)
async def report_results(
    device_id: str, lease_id: str, request: Request, parts: PartsDep, device: AgentDep, _query: NoQueryDep
) -> Response:
    """Record, as an agent, what was measured of each item of a lease: once, however often it is sent."""
    _own(device, device_id)
    report = read(BatchReport, await read_body(request, parts))
    row = await run_in_threadpool(parts.services.device_work.settle, device, known_id(lease_id, "lse"), report)
    return JSONResponse(await run_in_threadpool(request_document, parts, device.tenant, device.id, row.id))


@router.post(
    "/{device_id}/leases/{lease_id}/failure",
    operation_id="report_failure",
    response_model=None,
    responses={
        200: answer(device_schemas.MeasurementRequest, "Noted."),
        **problems(400, 401, 404, 409, 413, 415),
    },
    openapi_extra={**json_body(FailureReport), **by_device()},
)
async def report_failure(
    device_id: str, lease_id: str, request: Request, parts: PartsDep, device: AgentDep, _query: NoQueryDep
) -> Response:
    """Say, as an agent, why what is leased cannot be measured: the runtime's own words reach the user."""
    _own(device, device_id)
    report = read(FailureReport, await read_body(request, parts))
    row = await run_in_threadpool(parts.services.device_work.fail, device, known_id(lease_id, "lse"), report)
    return JSONResponse(await run_in_threadpool(request_document, parts, device.tenant, device.id, row.id))
