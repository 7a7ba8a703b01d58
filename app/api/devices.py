"""/v1/devices: register a device, ask it to measure; its agent leases the work. An agent's token opens nothing else."""

import asyncio
import json
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.content import send_content
from app.api.deps import (
    AgentDep,
    Caller,
    CallerDep,
    IdempotencyKey,
    NoQueryDep,
    PageDep,
    Parts,
    PartsDep,
    known_id,
    page_limit,
)
from app.api.json_body import read_json
from app.api.once import Answer, once
from app.api.openapi import answer, bare, by_device, json_body, problems
from app.api.receive import take_json
from app.db.tables import DeviceRow, MeasurementRequestRow
from app.domain.device import LOCAL, DeviceSpec, FailureReport, MeasurementSpec, Poll, read
from app.errors import NotFound
from app.ids import Digest
from app.services.devices import Registered
from app.services.idempotency import Ticket

router = APIRouter(prefix="/v1/devices", tags=["devices"])

_LOOK_SECONDS = 0.25  # between two looks for work while an agent waits


class LeaseQuery(BaseModel):
    """How long a poll for work may take."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(default=0, ge=0, allow_inf_nan=False, description="Seconds to wait for work, capped.")


def _device_id(text: str) -> str:
    """The id from a path, if it can be one."""
    return text if text == LOCAL else known_id(text, "dev")


async def _json(request: Request, parts: Parts) -> object:
    given = await take_json(request, max_bytes=parts.services.settings.max_spec_bytes)
    return read_json(given, where="The body")


@router.post(
    "",
    operation_id="register_device",
    response_model=None,
    status_code=201,
    responses={
        201: answer(schemas.RegisteredDevice, "Registered; the token is shown this once.", headers=["Location"]),
        **problems(400, 409, 413, 415),
    },
    openapi_extra=json_body(DeviceSpec),
)
async def register_device(
    request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep, key: IdempotencyKey = None
) -> Response:
    """Register a device, and give the token that its agent needs."""
    given = await _json(request, parts)
    spec = read(DeviceSpec, given)

    def work(ticket: Ticket | None) -> Answer:
        return _registered(parts.services.devices.register(caller.tenant, spec, ticket))

    def recover(device_id: str) -> Answer:
        found = {**documents.device(parts.services.devices.get(caller.tenant, device_id)), "token": None}
        return _created(documents.text(found), device_id)

    identity = ("POST", "/v1/devices", json.dumps(given, sort_keys=True))
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=recover)


def _registered(made: Registered) -> Answer:
    """Show the token once; what is kept for repetitions is without it."""
    found = documents.device(made.device)
    shown = documents.text({**found, "token": made.token})
    return _created(shown, made.device.id, kept_body=documents.text({**found, "token": None}))


def _created(body: str, device_id: str, kept_body: str | None = None) -> Answer:
    headers = {"Location": f"/v1/devices/{device_id}", "Cache-Control": "no-store"}
    return Answer(status=HTTPStatus.CREATED, body=body, resource_id=device_id, headers=headers, kept_body=kept_body)


@router.get(
    "",
    operation_id="list_devices",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Device], "`dev_local`, then devices, newest first."), **problems()},
)
async def list_devices(parts: PartsDep, caller: CallerDep, query: PageDep) -> Response:
    """List devices: `dev_local`, the workers' own processor, then the others, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    found, more = await run_in_threadpool(parts.services.devices.page, caller.tenant, limit=limit, after=query.after)
    return JSONResponse(documents.page([documents.device(each) for each in found], has_more=more))


@router.get(
    "/{device_id}",
    operation_id="get_device",
    response_model=None,
    responses={200: answer(schemas.Device, "The device."), **problems(404)},
)
async def get_device(device_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Give a device: what its agent reported, and whether it is online, stale or gone."""
    found = await run_in_threadpool(parts.services.devices.get, caller.tenant, _device_id(device_id))
    return JSONResponse(documents.device(found))


@router.delete(
    "/{device_id}",
    operation_id="revoke_device",
    response_model=None,
    response_class=Response,
    status_code=204,
    responses={204: bare("Revoked."), **problems(404)},
)
async def revoke_device(device_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Take a device's token back; what it was still asked is cancelled, what it measured stays."""
    await run_in_threadpool(parts.services.devices.revoke, caller.tenant, _device_id(device_id))
    return Response(status_code=204)


@router.post(
    "/{device_id}/measurements",
    operation_id="ask_measurement",
    response_model=None,
    status_code=202,
    responses={
        202: answer(schemas.MeasurementRequest, "Asked; the agent takes it up.", headers=["Location", "Retry-After"]),
        **problems(400, 404, 409, 413, 415),
    },
    openapi_extra=json_body(MeasurementSpec),
)
async def ask_measurement(
    device_id: str, request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep, key: IdempotencyKey = None
) -> Response:
    """Ask a device for the latency of an artifact or of an uploaded model."""
    name = _device_id(device_id)
    given = await _json(request, parts)
    spec = read(MeasurementSpec, given)

    def work(ticket: Ticket | None) -> Answer:
        return _accepted(parts.services.devices.ask(caller.tenant, name, spec, ticket))

    identity = ("POST", f"/v1/devices/{name}/measurements", json.dumps(given, sort_keys=True))
    recover = partial(_recover, parts, caller, name)
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=recover)


def _recover(parts: Parts, caller: Caller, device_id: str, request_id: str) -> Answer:
    return _accepted(parts.services.devices.request(caller.tenant, device_id, request_id))


def _accepted(row: MeasurementRequestRow) -> Answer:
    return Answer(
        status=HTTPStatus.ACCEPTED,
        body=documents.text(documents.measurement_request(row)),
        resource_id=row.id,
        headers={"Location": f"/v1/devices/{row.device_id}/measurements/{row.id}", "Retry-After": "1"},
    )


@router.get(
    "/{device_id}/measurements",
    operation_id="list_measurement_requests",
    response_model=None,
    responses={
        200: answer(schemas.Page[schemas.MeasurementRequest], "What was asked of it, newest first."),
        **problems(404),
    },
)
async def list_measurement_requests(device_id: str, parts: PartsDep, caller: CallerDep, query: PageDep) -> Response:
    """List what was asked of a device, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    rows, more = await run_in_threadpool(
        parts.services.devices.requests, caller.tenant, _device_id(device_id), limit=limit, after=query.after
    )
    return JSONResponse(documents.page([documents.measurement_request(row) for row in rows], has_more=more))


@router.get(
    "/{device_id}/measurements/{request_id}",
    operation_id="get_measurement_request",
    response_model=None,
    responses={200: answer(schemas.MeasurementRequest, "How far it is."), **problems(404)},
)
async def get_measurement_request(
    device_id: str, request_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Say how far a measurement is that a device was asked for."""
    names = (_device_id(device_id), known_id(request_id, "mrq"))
    row = await run_in_threadpool(parts.services.devices.request, caller.tenant, *names)
    return JSONResponse(documents.measurement_request(row))


@router.post(
    "/{device_id}/measurements/{request_id}/cancel",
    operation_id="cancel_measurement_request",
    response_model=None,
    status_code=202,
    responses={202: answer(schemas.MeasurementRequest, "Cancelled, or ended before."), **problems(404)},
)
async def cancel_measurement_request(
    device_id: str, request_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Cancel a measurement; one that has ended is given unchanged."""
    names = (_device_id(device_id), known_id(request_id, "mrq"))
    row = await run_in_threadpool(parts.services.devices.cancel, caller.tenant, *names)
    return JSONResponse(documents.measurement_request(row), status_code=HTTPStatus.ACCEPTED)


def _own(device: DeviceRow, device_id: str) -> None:
    """Pass if the path names the device whose token came; any other is not there for it."""
    if device.id != device_id:
        raise NotFound(f"There is no device {device_id[:40]!a} for this token.")


@router.post(
    "/{device_id}/leases",
    operation_id="lease_measurement",
    response_model=None,
    responses={
        200: answer(schemas.Lease, "Something to measure."),
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
    poll = read(Poll, await _json(request, parts))
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
    responses={200: answer(schemas.LeaseTime, "Still held."), **problems(401, 404, 409)},
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
async def get_leased_content(
    device_id: str, lease_id: str, request: Request, parts: PartsDep, device: AgentDep, _query: NoQueryDep
) -> Response:
    """Download what is leased, as an agent; nothing else can be downloaded with a device's token."""
    _own(device, device_id)
    row = await run_in_threadpool(parts.services.device_work.content, device, known_id(lease_id, "lse"))
    return await send_content(request, parts.services.store, Digest(row.sha256), name=f"{row.sha256[:16]}.onnx")


@router.post(
    "/{device_id}/leases/{lease_id}/failure",
    operation_id="report_failure",
    response_model=None,
    responses={
        200: answer(schemas.MeasurementRequest, "Noted."),
        **problems(400, 401, 404, 409, 413, 415),
    },
    openapi_extra={**json_body(FailureReport), **by_device()},
)
async def report_failure(
    device_id: str, lease_id: str, request: Request, parts: PartsDep, device: AgentDep, _query: NoQueryDep
) -> Response:
    """Say, as an agent, why what is leased cannot be measured: the runtime's own words reach the user."""
    _own(device, device_id)
    report = read(FailureReport, await _json(request, parts))
    row = await run_in_threadpool(parts.services.device_work.fail, device, known_id(lease_id, "lse"), report)
    return JSONResponse(documents.measurement_request(row))
