"""/v1/models: networks to be pruned: sent in, described, deleted."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.deps import CallerDep, IdempotencyKey, NoQueryDep, PageDep, PartsDep, known_id, page_limit
from app.api.openapi import answer, bare, problems, upload_body
from app.api.receive import StoredFile
from app.api.uploads import UploadQuery, upload
from app.db.tables import NetworkRow
from app.services.idempotency import Ticket
from app.services.uploads import Received

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "",
    operation_id="upload_model",
    response_model=None,
    status_code=201,
    responses={
        200: answer(schemas.Model, "These bytes were there already.", headers=["Location"]),
        201: answer(schemas.Model, "Taken in; its analysis has begun.", headers=["Location"]),
        **problems(400, 409, 413, 415, 507),
    },
    openapi_extra=upload_body("application/octet-stream", "application/onnx", external_data=True),
)
async def upload_model(
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
    query: Annotated[UploadQuery, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Upload a network as an ONNX file; the same bytes give the same model again.

    Weights that lie outside of it, as they must above 2 GiB, come along as the part `external_data` of a form.
    """
    uploads, inputs = parts.services.uploads, parts.services.inputs

    def register(stored: StoredFile, ticket: Ticket | None) -> Received[NetworkRow]:
        return uploads.register_model(
            caller.tenant, stored.blob, stored.announced, ticket, external_data=stored.external_data
        )

    return await upload(
        request,
        parts,
        caller,
        kind="model",
        name=query.name,
        key=key,
        register=register,
        find=lambda resource_id: inputs.model(caller.tenant, resource_id),
        document=documents.network,
    )


@router.get(
    "",
    operation_id="list_models",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Model], "Models, newest first."), **problems()},
)
async def list_models(parts: PartsDep, caller: CallerDep, query: PageDep) -> Response:
    """List models, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    rows, more = await run_in_threadpool(parts.services.inputs.models, caller.tenant, limit=limit, after=query.after)
    return JSONResponse(documents.page([documents.network(row) for row in rows], has_more=more))


@router.get(
    "/{model_id}",
    operation_id="get_model",
    response_model=None,
    responses={200: answer(schemas.Model, "The model."), **problems(404)},
)
async def get_model(model_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Give a model: its state, and once it is ready what is known of it."""
    row = await run_in_threadpool(parts.services.inputs.model, caller.tenant, known_id(model_id, "mdl"))
    return JSONResponse(documents.network(row))


@router.delete(
    "/{model_id}",
    operation_id="delete_model",
    response_model=None,
    response_class=Response,
    status_code=204,
    responses={204: bare("Deleted."), **problems(404)},
)
async def delete_model(model_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Delete a model; jobs that wait for it will fail, those that run go on."""
    await run_in_threadpool(parts.services.inputs.delete_model, caller.tenant, known_id(model_id, "mdl"))
    return Response(status_code=204)
