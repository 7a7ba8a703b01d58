"""Every answer names its request: X-Request-ID as it came, if it is fit to print, else a new one."""

import re
import secrets

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"

_FIT = re.compile(r"[A-Za-z0-9._:+=/@-]{1,128}", re.ASCII)


def request_id(scope: Scope) -> str:
    """The id of the request with this scope."""
    return str(scope.get("espalier.request_id", ""))


class RequestIdMiddleware:
    """Gives each request an id, binds it to the log lines of the request, and sends it with the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        identifier = given if _FIT.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope["espalier.request_id"] = identifier

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = identifier
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=identifier)
        await self._app(scope, receive, send_named)
