"""/v1/devices: register a device, look at it, ask it to measure. What its agent does is in leases.py."""

import json
from functools import partial
from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import device_schemas, documents, schemas
from app.api.deps import (
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
from app.api.measurement_requests import read_body, request_document
from app.api.once import Answer, once
from app.api.openapi import answer, bare, json_body, problems
from app.domain.device import LOCAL, DeviceSpec, MeasurementSpec, read
from app.services.devices import Registered
from app.services.idempotency import Ticket

router = APIRouter(prefix="/v1/devices", tags=["devices"])


def _device_id(text: str) -> str:
    """The id from a path, if it can be one."""
    return text if text == LOCAL else known_id(text, "dev")


@router.post(
    "",
    operation_id="register_device",
    response_model=None,
    status_code=201,
    responses={
        201: answer(device_schemas.RegisteredDevice, "Registered; the token is shown this once.", headers=["Location"]),
        **problems(400, 409, 413, 415),
    },
    openapi_extra=json_body(DeviceSpec),
)
async def register_device(
    request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep, key: IdempotencyKey = None
) -> Response:
    """Register a device, and give the token that its agent needs."""
    given = await read_body(request, parts)
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
    responses={
        200: answer(schemas.Page[device_schemas.Device], "`dev_local`, then devices, newest first."),
        **problems(),
    },
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
    responses={200: answer(device_schemas.Device, "The device."), **problems(404)},
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
        202: answer(
            device_schemas.MeasurementRequest, "Asked; the agent takes it up.", headers=["Location", "Retry-After"]
        ),
        **problems(400, 404, 409, 413, 415),
    },
    openapi_extra=json_body(MeasurementSpec),
)
async def ask_measurement(
    device_id: str, request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep, key: IdempotencyKey = None
) -> Response:
    """Ask a device for the latency of an artifact or of an uploaded model."""
    name = _device_id(device_id)
    given = await read_body(request, parts)
    spec = read(MeasurementSpec, given)

    def work(ticket: Ticket | None) -> Answer:
        row = parts.services.devices.ask(caller.tenant, name, spec, ticket)
        return _recover(parts, caller, name, row.id)

    identity = ("POST", f"/v1/devices/{name}/measurements", json.dumps(given, sort_keys=True))
    recover = partial(_recover, parts, caller, name)
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=recover)


def _recover(parts: Parts, caller: Caller, device_id: str, request_id: str) -> Answer:
    return Answer(
        status=HTTPStatus.ACCEPTED,
        body=documents.text(request_document(parts, caller.tenant, device_id, request_id)),
        resource_id=request_id,
        headers={"Location": f"/v1/devices/{device_id}/measurements/{request_id}", "Retry-After": "1"},
    )


@router.get(
    "/{device_id}/measurements",
    operation_id="list_measurement_requests",
    response_model=None,
    responses={
        200: answer(schemas.Page[device_schemas.MeasurementRequest], "What was asked of it, newest first."),
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
    responses={200: answer(device_schemas.MeasurementRequest, "How far it is."), **problems(404)},
)
async def get_measurement_request(
    device_id: str, request_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Say how far a measurement is that a device was asked for."""
    names = (_device_id(device_id), known_id(request_id, "mrq"))
    return JSONResponse(await run_in_threadpool(request_document, parts, caller.tenant, *names))


@router.post(
    "/{device_id}/measurements/{request_id}/cancel",
    operation_id="cancel_measurement_request",
    response_model=None,
    status_code=202,
    responses={202: answer(device_schemas.MeasurementRequest, "Cancelled, or ended before."), **problems(404)},
)
async def cancel_measurement_request(
    device_id: str, request_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Cancel a measurement; one that has ended is given unchanged."""
    names = (_device_id(device_id), known_id(request_id, "mrq"))
    row = await run_in_threadpool(parts.services.devices.cancel, caller.tenant, *names)
    found = await run_in_threadpool(request_document, parts, caller.tenant, row.device_id, row.id)
    return JSONResponse(found, status_code=HTTPStatus.ACCEPTED)
