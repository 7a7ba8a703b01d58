"""The web process's application: create_app() puts the parts together; nothing else happens here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from app.api import (
    artifacts,
    datasets,
    devices,
    error_handlers,
    events,
    health,
    index,
    jobs,
    leases,
    measurements,
    models,
    openapi,
)
from app.api.deps import Parts
from app.api.poll import UnchangedPollMiddleware
from app.api.request_id import RequestIdMiddleware
from app.api.watch import JobWatch, at_once, in_a_thread
from app.db.migrate import migrate
from app.logs import configure_logging
from app.services.assembly import Services, open_services
from app.services.job_versions import read_versions
from app.settings import Settings

_DESCRIPTION = "Prunes trained neural networks: ONNX in, smaller and faster ONNX out, with the proof."
_ROUTERS = (models, datasets, jobs, events, artifacts, devices, leases, measurements, health, index)


def create_app(settings: Settings, services: Services | None = None, *, migrates: bool = False) -> FastAPI:
    """The application for these settings; nothing is connected before it starts.

    With `migrates`, the database is brought to the newest schema at start. The services are those of the settings
    unless given; in either case they are closed with the application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if migrates:
            await run_in_threadpool(migrate, settings.resolved_database_url)
        opened = services or open_services(settings)
        app.state.parts = parts_of(opened)
        try:
            yield
        finally:
            opened.close()

    app = FastAPI(
        title="Espalier", version=version("espalier"), description=_DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    for module in _ROUTERS:
        app.include_router(module.router)
    error_handlers.install(app)
    app.add_middleware(UnchangedPollMiddleware, watch=_watch_of)
    app.add_middleware(error_handlers.UnhandledErrorMiddleware)
    app.add_middleware(RequestIdMiddleware)  # added last, so outermost: every answer passes it
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]  # FastAPI's own way to replace it
    return app


def _watch_of(scope: Scope) -> JobWatch:
    parts: Parts = scope["app"].state.parts
    return parts.watch


def parts_of(services: Services) -> Parts:
    """What routes work with, around these services."""
    query = partial(read_versions, services.database)
    return Parts(
        services=services,
        watch=JobWatch(at_once(query) if services.database.dialect == "sqlite" else in_a_thread(query)),
        upload_threads=CapacityLimiter(services.settings.max_concurrent_uploads),
    )


def from_environment() -> FastAPI:
    """The application as the environment's settings say, for uvicorn's --factory."""
    settings = Settings()
    configure_logging(level=settings.log_level, json=settings.log_json)
    return create_app(settings, migrates=True)
