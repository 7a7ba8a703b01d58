"""What routes are given: the service's parts, who calls, and parameters that several routes share."""

from dataclasses import dataclass
from typing import Annotated, Final

from anyio import CapacityLimiter
from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.api.watch import JobWatch
from app.db.tables import DeviceRow
from app.domain.device import TOKEN_PREFIX
from app.errors import DeviceTokenMisplaced, NotFound
from app.ids import Prefix, is_id
from app.services.assembly import Services
from app.settings import Settings

NOUNS: dict[Prefix, str] = {
    "mdl": "model",
    "dst": "dataset",
    "job": "job",
    "art": "artifact",
    "dev": "device",
    "mrq": "measurement request",
    "msr": "measurement",
    "lse": "lease",
}
ID = r"^[a-z]{3}_[0-9a-z]{1,36}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one web process works with; made once, in create_app()."""

    services: Services
    watch: JobWatch
    upload_threads: CapacityLimiter  # counted apart, so that long uploads never keep a short request waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """On whose behalf a request acts; the one place where API keys will come in."""

    tenant: str


ANONYMOUS: Final = Caller(tenant="default")


# Coroutines, because FastAPI would run plain functions in a thread: one hop more for each request.
async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


PartsDep = Annotated[Parts, Depends(_parts)]


async def _caller(request: Request) -> Caller:
    if _bearer(request).startswith(TOKEN_PREFIX):
        raise DeviceTokenMisplaced("A device's token opens the device's own leases and nothing else.")
    return ANONYMOUS


def _bearer(request: Request) -> str:
    """The token of the Authorization header, or nothing."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _agent(request: Request, parts: PartsDep) -> DeviceRow:
    return await run_in_threadpool(parts.services.devices.authenticate, _bearer(request))


class NoQuery(BaseModel):
    """The query string of operations that take none: unknown parameters are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(default=None, ge=1, description="Entries wanted; capped by the service.")
    after: str | None = Field(default=None, pattern=ID, description="`last_id` of the page before.")


def page_limit(asked: int | None, settings: Settings) -> int:
    """How many entries a page has: what was asked for, up to the limit."""
    return min(asked or settings.page_default, settings.page_limit)


def known_id(text: str, prefix: Prefix) -> str:
    """The id from a path, if it can be one: what cannot is not looked for.

    Raises:
        NotFound: it has not the shape of such an id.
    """
    if not is_id(text, prefix):
        shown = text[:40].encode("ascii", "backslashreplace").decode("ascii")
        raise NotFound(f"There is no {NOUNS[prefix]} {shown!r}.")
    return text


_IDEMPOTENCY_KEY = Header(
    alias="Idempotency-Key",
    min_length=1,
    max_length=255,
    pattern=r"^[\x21-\x7e]+$",
    description="Any text of the client's choice: the same key and request again give the first answer again.",
)

CallerDep = Annotated[Caller, Depends(_caller)]
AgentDep = Annotated[DeviceRow, Depends(_agent)]
NoQueryDep = Annotated[NoQuery, Query()]
PageDep = Annotated[PageQuery, Query()]
IdempotencyKey = Annotated[str | None, _IDEMPOTENCY_KEY]
