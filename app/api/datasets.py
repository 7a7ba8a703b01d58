"""/v1/datasets: data to calibrate, train and judge with: sent in, described, deleted."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.deps import CallerDep, IdempotencyKey, NoQueryDep, PageDep, PartsDep, known_id, page_limit
from app.api.openapi import answer, bare, problems, upload_body
from app.api.receive import StoredFile
from app.api.uploads import UploadQuery, upload
from app.db.tables import DatasetRow
from app.services.idempotency import Ticket
from app.services.uploads import Received

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post(
    "",
    operation_id="upload_dataset",
    response_model=None,
    status_code=201,
    responses={
        200: answer(schemas.Dataset, "These bytes were there already.", headers=["Location"]),
        201: answer(schemas.Dataset, "Taken in; its analysis has begun.", headers=["Location"]),
        **problems(400, 409, 413, 415, 507),
    },
    openapi_extra=upload_body("application/octet-stream", "application/zip"),
)
async def upload_dataset(
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
    query: Annotated[UploadQuery, Query()],
    key: IdempotencyKey = None,
) -> Response:
    """Upload data as a zip (one folder per class) or an .npz; the same bytes give the same dataset again."""
    uploads, inputs = parts.services.uploads, parts.services.inputs

    def register(stored: StoredFile, ticket: Ticket | None) -> Received[DatasetRow]:
        return uploads.register_dataset(caller.tenant, stored.blob, stored.announced, ticket)

    return await upload(
        request,
        parts,
        caller,
        kind="dataset",
        name=query.name,
        key=key,
        register=register,
        find=lambda resource_id: inputs.dataset(caller.tenant, resource_id),
        document=documents.dataset,
    )


@router.get(
    "",
    operation_id="list_datasets",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Dataset], "Datasets, newest first."), **problems()},
)
async def list_datasets(parts: PartsDep, caller: CallerDep, query: PageDep) -> Response:
    """List datasets, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    rows, more = await run_in_threadpool(parts.services.inputs.datasets, caller.tenant, limit=limit, after=query.after)
    return JSONResponse(documents.page([documents.dataset(row) for row in rows], has_more=more))


@router.get(
    "/{dataset_id}",
    operation_id="get_dataset",
    response_model=None,
    responses={200: answer(schemas.Dataset, "The dataset."), **problems(404)},
)
async def get_dataset(dataset_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Give a dataset: its state, and once it is ready what it holds."""
    row = await run_in_threadpool(parts.services.inputs.dataset, caller.tenant, known_id(dataset_id, "dst"))
    return JSONResponse(documents.dataset(row))


@router.delete(
    "/{dataset_id}",
    operation_id="delete_dataset",
    response_model=None,
    response_class=Response,
    status_code=204,
    responses={204: bare("Deleted."), **problems(404)},
)
async def delete_dataset(dataset_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Delete a dataset; jobs that wait for it will fail, those that run go on."""
    await run_in_threadpool(parts.services.inputs.delete_dataset, caller.tenant, known_id(dataset_id, "dst"))
    return Response(status_code=204)
