"""/v1/jobs: ask for a smaller network, see how far it is, stop it, or only plan it."""

import json
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.conditional import matches
from app.api.deps import ID, Caller, CallerDep, IdempotencyKey, NoQueryDep, Parts, PartsDep, known_id, page_limit
from app.api.job_form import submit_form
from app.api.json_body import read_json
from app.api.once import Answer, once
from app.api.openapi import answer, bare, job_body, json_body, problems
from app.api.poll import poll_headers
from app.api.receive import MULTIPART, content_type, take_json
from app.db.tables import JobRow
from app.domain.job import TERMINAL, JobState
from app.domain.methods import JobSpec, parse_spec
from app.errors import NotFound
from app.services.idempotency import Ticket

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobsQuery(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid")

    state: list[JobState] = Field(default=[], description="Only jobs in one of these states.")
    limit: int | None = Field(default=None, ge=1, description="Entries wanted; capped by the service.")
    after: str | None = Field(default=None, pattern=ID, description="`last_id` of the page before.")


class JobQuery(BaseModel):
    """How long a poll may take."""

    model_config = ConfigDict(extra="forbid")

    wait: float = Field(
        default=0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait, capped: with If-None-Match for a change, without it for the job's end.",
    )


def job_response(row: JobRow, *, status: int = HTTPStatus.OK) -> JSONResponse:
    """A job as it is sent: with its version, and when to ask again."""
    headers = poll_headers(row.version, ended=row.state in TERMINAL)
    return JSONResponse(documents.job(row), status_code=status, headers=headers)


@router.post(
    "",
    operation_id="submit_job",
    response_model=None,
    status_code=202,
    responses={
        202: answer(schemas.Job, "Accepted.", headers=["Location", "Retry-After", "ETag"]),
        **problems(400, 404, 409, 413, 415, 507),
    },
    openapi_extra=job_body(),
)
async def submit_job(
    request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep, key: IdempotencyKey = None
) -> Response:
    """Ask for a smaller network: as JSON that names an uploaded model, or as a form that brings the files along."""
    if content_type(request) == MULTIPART:
        return await submit_form(request, parts, caller, key=key, submit=_submit, recover=_recover)
    given = read_json(await take_json(request, max_bytes=parts.services.settings.max_spec_bytes), where="The body")
    identity = ("POST", "/v1/jobs", json.dumps(given, sort_keys=True))
    spec = parse_spec(given)
    work = partial(_submit, parts, caller, spec)
    return await once(parts, caller.tenant, key, identity=identity, work=work, recover=partial(_recover, parts, caller))


def _submit(parts: Parts, caller: Caller, spec: JobSpec, ticket: Ticket | None) -> Answer:
    return _accepted(parts.services.jobs.submit(caller.tenant, spec, ticket=ticket))


def _recover(parts: Parts, caller: Caller, job_id: str) -> Answer:
    return _accepted(parts.services.jobs.get(caller.tenant, job_id))


def _accepted(row: JobRow) -> Answer:
    headers = poll_headers(row.version, ended=row.state in TERMINAL)
    return Answer(
        status=HTTPStatus.ACCEPTED,
        body=documents.text(documents.job(row)),
        resource_id=row.id,
        headers={**headers, "Location": f"/v1/jobs/{row.id}"},
    )


@router.get(
    "",
    operation_id="list_jobs",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Job], "Jobs, newest first."), **problems()},
)
async def list_jobs(parts: PartsDep, caller: CallerDep, query: Annotated[JobsQuery, Query()]) -> Response:
    """List jobs, newest first."""
    limit = page_limit(query.limit, parts.services.settings)
    rows, more = await run_in_threadpool(
        parts.services.jobs.page, caller.tenant, states=query.state, limit=limit, after=query.after
    )
    return JSONResponse(documents.page([documents.job(row) for row in rows], has_more=more))


@router.post(
    "/estimate",
    operation_id="estimate_job",
    response_model=None,
    responses={200: answer(schemas.Estimate, "The plan."), **problems(400, 404, 409, 413, 415)},
    openapi_extra=json_body(JobSpec),
)
async def estimate_job(request: Request, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Plan a job without running it: what can be pruned, what can be reached, what would be refused."""
    given = read_json(await take_json(request, max_bytes=parts.services.settings.max_spec_bytes), where="The body")
    found: Any = await run_in_threadpool(parts.services.jobs.estimate, caller.tenant, parse_spec(given))
    return JSONResponse(found)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    response_model=None,
    responses={
        200: answer(schemas.Job, "The job.", headers=["ETag", "Retry-After"]),
        304: bare("Unchanged.", headers=["ETag", "Retry-After"]),
        **problems(404),
    },
)
async def get_job(
    job_id: str,
    parts: PartsDep,
    caller: CallerDep,
    query: Annotated[JobQuery, Query()],
    if_none_match: Annotated[str | None, Header(description="The ETag of the version that is known.")] = None,
) -> Response:
    """Give a job; with `wait`, once it has changed or ended."""
    key = (caller.tenant, known_id(job_id, "job"))
    if query.wait or if_none_match is not None:
        wait = min(query.wait, parts.services.settings.max_wait_seconds.total_seconds())
        found = await parts.watch.changed(key, _seen(if_none_match), wait_seconds=wait)
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        version, state = found
        if matches(if_none_match, f'"{version}"'):
            headers = poll_headers(version, ended=state in TERMINAL)
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return job_response(await run_in_threadpool(parts.services.jobs.get, caller.tenant, job_id))


def _seen(if_none_match: str | None) -> int | None:
    """The version that a poller knows, if its header names one of ours."""
    text = (if_none_match or "").strip().removeprefix("W/").strip('"')
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    response_model=None,
    status_code=202,
    responses={
        202: answer(schemas.Job, "It stops, or has ended before.", headers=["ETag", "Retry-After"]),
        **problems(404, 409),
    },
)
async def cancel_job(job_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """Stop a job; one that has ended is given unchanged."""
    row = await run_in_threadpool(parts.services.jobs.cancel, caller.tenant, known_id(job_id, "job"))
    return job_response(row, status=HTTPStatus.ACCEPTED)


@router.get(
    "/{job_id}/artifacts",
    operation_id="list_artifacts",
    response_model=None,
    responses={200: answer(schemas.Page[schemas.Artifact], "Everything that the job made."), **problems(404)},
)
async def list_artifacts(job_id: str, parts: PartsDep, caller: CallerDep, _query: NoQueryDep) -> Response:
    """List what a job made."""
    rows = await run_in_threadpool(parts.services.jobs.artifacts, caller.tenant, known_id(job_id, "job"))
    return JSONResponse(documents.page([documents.artifact(row) for row in rows], has_more=False))
