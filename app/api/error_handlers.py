"""Every answer that is not a success becomes a problem document (RFC 9457) here, and nowhere else."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import cast

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.request_id import request_id
from app.errors import FieldError, ServiceError, UploadIncomplete, ValidationFailed, json_pointer

MEDIA_TYPE = "application/problem+json"

_logger = structlog.get_logger(__name__)

_PLACES = {"query": "query parameter", "path": "path parameter", "header": "header", "cookie": "cookie"}


class ProblemResponse(JSONResponse):
    """A problem document with its media type."""

    media_type = MEDIA_TYPE


def problem_response(
    scope: Scope, problem: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """The answer that carries this problem; `instance` becomes the request's id."""
    status = cast("int", problem["status"])
    return ProblemResponse({**problem, "instance": request_id(scope)}, status_code=status, headers=headers)


def service_problem(scope: Scope, error: ServiceError) -> ProblemResponse:
    """The answer to what the service refuses or fails at.

    A connection whose body was refused for its length is closed: the rest of the body is not waited for.
    """
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after.total_seconds())))
    elif error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers["Connection"] = "close"
    return problem_response(scope, error.problem(), headers)


def parameters_refused(error: RequestValidationError) -> ValidationFailed:
    """What is wrong with the parameters in path, query and headers; bodies are judged by the domain's own models."""
    fields = [
        FieldError(
            pointer=json_pointer(found["loc"][1:]),
            message=f"{_PLACES.get(str(found['loc'][0]), 'body')}: {str(found['msg']).removeprefix('Value error, ')}",
        )
        for found in error.errors()
    ]
    return ValidationFailed("; ".join(f"{field.pointer}: {field.message}" for field in fields) + ".", errors=fields)


def _http_problem(status: int, detail: str) -> dict[str, object]:
    """The problem of an answer that the framework itself gives: no such path, no such method."""
    phrase = HTTPStatus(status).phrase
    return {
        "type": re.sub(r"[^a-z]+", "-", phrase.lower()),
        "title": phrase,
        "status": status,
        "detail": detail,
        "errors": [],
        "retryable": status in {429, 502, 503, 504},
    }


async def _on_service_error(request: Request, error: Exception) -> Response:
    error = cast("ServiceError", error)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _logger.error("request.failed", code=error.code, detail=error.detail, path=request.url.path)
    return service_problem(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    return service_problem(request.scope, parameters_refused(cast("RequestValidationError", error)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    detail = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {request.url.path}; /docs lists what there is."
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request, headers.get("Allow", ""))
        detail = f"{request.url.path} does not take {request.method}; it takes {headers['Allow']}."
    return problem_response(request.scope, _http_problem(error.status_code, detail), headers)


def _allowed(request: Request, known: str) -> str:
    """Every method of the path, from the document; the framework names those of the first route only."""
    paths = request.app.openapi()["paths"]
    path = request.url.path
    if path not in paths:  # a path without parameters is itself in the document
        path = next((template for template in paths if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path)), "")
    methods = {method.strip() for method in known.split(",") if method.strip()}
    return ", ".join(sorted({method.upper() for method in paths[path]} if path in paths else methods))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; it ends the request in order."""
    _logger.info("request.disconnected", path=request.url.path, reason=str(error))
    return service_problem(request.scope, UploadIncomplete("The connection closed before the body had arrived."))


def install(app: FastAPI) -> None:
    """Give the application its handlers."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


class UnhandledErrorMiddleware:
    """The last resort: an exception that nothing else answers is logged whole and told without its insides (500).

    It stands inside RequestIdMiddleware, so that this answer too carries the id under which the log has it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer for it if it breaks."""
        started = False

        async def send_watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            _logger.exception("request.crashed", path=scope["path"])
            detail = "The failure was logged under the request id in `instance`; report it with that id."
            await service_problem(scope, ServiceError(detail))(scope, receive, send)
