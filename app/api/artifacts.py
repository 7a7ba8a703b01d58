"""/v1/artifacts: what jobs made, and its bytes."""

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.content import MEDIA_TYPES, send_content
from app.api.deps import CallerDep, NoQueryDep, PartsDep, known_id
from app.api.openapi import Json, answer, bare, problems
from app.ids import Digest

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

_BYTES = {
    kind: {"schema": {"type": "string", "format": "binary"}}
    for kind in (*MEDIA_TYPES.values(), "application/octet-stream")
}
_HEADERS = ["ETag", "Repr-Digest", "Content-Disposition", "Accept-Ranges", "X-Content-Type-Options"]
_CONDITIONS: list[Json] = [
    {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": text}
    for name, text in (
        ("If-None-Match", "The ETag that is known: 304 where it is still right, which it always is."),
        ("Range", "One range of bytes; several, or other units, are ignored."),
        ("If-Range", "The ETag for which the range is meant."),
    )
]


@router.get(
    "/{artifact_id}",
    operation_id="get_artifact",
    response_model=None,
    responses={200: answer(schemas.Artifact, "The artifact."), **problems(404)},
)
async def get_artifact(artifact_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Describe an artifact."""
    row = await run_in_threadpool(parts.services.jobs.artifact, caller.tenant, known_id(artifact_id, "art"))
    return JSONResponse(documents.artifact(row))


@router.get(
    "/{artifact_id}/content",
    operation_id="get_artifact_content",
    response_model=None,
    response_class=Response,
    responses={
        200: bare("The bytes.", headers=_HEADERS, content=_BYTES),
        206: bare("Some of the bytes.", headers=[*_HEADERS, "Content-Range"], content=_BYTES),
        304: bare("Unchanged.", headers=["ETag"]),
        **problems(404, 416),
    },
    openapi_extra={"parameters": _CONDITIONS},
)
async def get_artifact_content(
    artifact_id: str, request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Download an artifact, whole or in part; its ETag and Repr-Digest are its SHA-256."""
    row = await run_in_threadpool(parts.services.jobs.artifact, caller.tenant, known_id(artifact_id, "art"))
    return await send_content(request, parts.services.store, Digest(row.sha256), name=row.name)


@router.head(
    "/{artifact_id}/content",
    operation_id="head_artifact_content",
    response_model=None,
    response_class=Response,
    responses={
        200: bare("What a GET would send, without the bytes.", headers=_HEADERS, content=_BYTES),
        304: bare("Unchanged.", headers=["ETag"]),
        **problems(404),
    },
    openapi_extra={"parameters": _CONDITIONS[:1]},
)
async def head_artifact_content(
    artifact_id: str, request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep
) -> Response:
    """Give the headers of a download: length, digest, name."""
    return await get_artifact_content(artifact_id, request, parts, caller, _query)
