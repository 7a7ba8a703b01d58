"""The hot path: a poll of a job that has not changed is answered before routing, validation and dependencies.

Only the plainest form is answered here (one entity tag of ours, no query, no credentials); everything else, every error
among it, goes on to the route, which gives the same answer to the same poll. It exists because the route's machinery
cost four times what the question does (`benchmarks/polling.py`).
"""

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.deps import ANONYMOUS
from app.api.watch import JobWatch
from app.domain.job import TERMINAL
from app.errors import ServiceError

POLL_SECONDS: Final = 1  # progress is written once a second at most
_PATH: Final = re.compile(r"/v1/jobs/(job_[0-9a-z]{1,36})")
_TAG: Final = re.compile(r'"([0-9]{1,9})"')
_OTHER_WAYS: Final = ("authorization", "if-match")


def poll_headers(version: int, *, ended: bool) -> dict[str, str]:
    """The headers of a job's answer: its entity tag, and when to come again unless it has ended."""
    headers = {"ETag": f'"{version}"', "Cache-Control": "private, no-cache"}
    return headers if ended else {**headers, "Retry-After": str(POLL_SECONDS)}


class UnchangedPollMiddleware:
    """Answers 304 to whoever knows the newest version of a job already."""

    def __init__(self, app: ASGIApp, watch: Callable[[Scope], JobWatch]) -> None:
        self._app = app
        self._watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        poll = _plain_poll(scope)
        if poll is None or not await self._answered(scope, *poll, send):
            await self._app(scope, receive, send)

    async def _answered(self, scope: Scope, job_id: str, seen: int, send: Send) -> bool:
        try:
            found = await self._watch(scope).version((ANONYMOUS.tenant, job_id))
        except ServiceError:
            return False  # the route says it as a problem document
        if found is None or found[0] != seen:
            return False
        headers = poll_headers(seen, ended=found[1] in TERMINAL)
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": HTTPStatus.NOT_MODIFIED, "headers": encoded})
        await send({"type": "http.response.body", "body": b""})
        return True


def _plain_poll(scope: Scope) -> tuple[str, int] | None:
    """The job and the version that the client knows, if this is a poll of the plainest form."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
        return None
    path = _PATH.fullmatch(scope["path"])
    if path is None:
        return None
    headers = Headers(scope=scope)
    tag = _TAG.fullmatch(headers.get("if-none-match", ""))
    if tag is None or any(name in headers for name in _OTHER_WAYS) or len(headers.getlist("if-none-match")) != 1:
        return None
    return path[1], int(tag[1])
