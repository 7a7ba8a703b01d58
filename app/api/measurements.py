"""/v1/measurements: how fast networks ran, with every sample and the host that ran them."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api import documents, schemas
from app.api.deps import ID, CallerDep, PartsDep, page_limit
from app.api.openapi import answer, problems

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])


class MeasurementsQuery(BaseModel):
    """Which measurements."""

    model_config = ConfigDict(extra="forbid")

    artifact: str | None = Field(default=None, pattern=ID, description="Only of this artifact.")
    model: str | None = Field(default=None, pattern=ID, description="Only of this uploaded model.")
    device: str | None = Field(default=None, pattern=r"^dev_[0-9a-z_]{1,36}$", description="Only on this device.")
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
