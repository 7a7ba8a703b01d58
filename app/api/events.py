"""/v1/jobs/{id}/events: a job's log, as pages or as a stream that can be taken up where it broke off."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from app.api import documents, schemas
from app.api.deps import Caller, CallerDep, Parts, PartsDep, known_id, page_limit
from app.api.openapi import bare, problems, reference
from app.db.tables import JobEventRow

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

EVENT_STREAM = "text/event-stream"
_HEARTBEAT_SECONDS = 15.0
_LARGEST_SEQ = 2**31 - 1

_CONTENT = {
    "application/json": {"schema": reference(schemas.Page[schemas.Event])},
    EVENT_STREAM: {"schema": {"type": "string", "description": "`id` is seq, `event` is type, `data` is data."}},
}


class EventsQuery(BaseModel):
    """Which events."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, le=_LARGEST_SEQ, description="Events behind this `seq`.")
    limit: int | None = Field(default=None, ge=1, description="Entries of a page; capped by the service.")


@router.get(
    "/{job_id}/events",
    operation_id="list_events",
    response_model=None,
    response_class=Response,
    responses={
        200: bare("Events in order.", content=_CONTENT),
        204: bare("The stream is over: the job has ended, and its last event was received."),
        **problems(404),
    },
)
async def list_events(  # noqa: PLR0917 - each is a parameter of the operation
    job_id: str,
    request: Request,
    parts: PartsDep,
    caller: CallerDep,
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[str | None, Header(description="Where a stream broke off.")] = None,
) -> Response:
    """Give a job's events as a page, or with `Accept: text/event-stream` as a stream that ends with the job."""
    known_id(job_id, "job")
    if EVENT_STREAM in request.headers.get("Accept", ""):
        return await _stream(parts, caller, job_id, max(query.after, _resumed(last_event_id)))
    limit = page_limit(query.limit, parts.services.settings)
    rows, more, _ = await run_in_threadpool(
        parts.services.jobs.events, caller.tenant, job_id, after=query.after, limit=limit
    )
    return JSONResponse(documents.page([documents.event(row) for row in rows], has_more=more, key="seq"))


def _resumed(last_event_id: str | None) -> int:
    text = last_event_id or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


async def _stream(parts: Parts, caller: Caller, job_id: str, after: int) -> Response:
    rows, more, ended = await run_in_threadpool(parts.services.jobs.events, caller.tenant, job_id, after=after, limit=1)
    if ended and not rows and not more:
        return Response(status_code=HTTPStatus.NO_CONTENT)  # tells an EventSource not to come back
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_follow(parts, caller, job_id, after), media_type=EVENT_STREAM, headers=headers)


async def _follow(parts: Parts, caller: Caller, job_id: str, after: int) -> AsyncIterator[str]:
    """Every event from the database's log, so that nothing is missed or sent twice; comments while nothing comes."""
    key, limit = (caller.tenant, job_id), parts.services.settings.page_limit
    while True:
        known = await parts.watch.version(key)  # before the events: a change after it is seen below
        rows, more, ended = await run_in_threadpool(
            parts.services.jobs.events, caller.tenant, job_id, after=after, limit=limit
        )
        for row in rows:
            after = row.seq
            yield _written(row)
        if (ended and not more) or known is None:
            return
        if not rows:
            yield ": waiting\n\n"
        if not more:
            await parts.watch.changed(key, known[0], wait_seconds=_HEARTBEAT_SECONDS)


def _written(row: JobEventRow) -> str:
    document = documents.text(documents.event(row))
    return f"id: {row.seq}\nevent: {row.type}\ndata: {document}\n\n"
