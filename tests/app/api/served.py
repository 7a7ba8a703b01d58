"""The application behind a real socket, and a judge that holds every answer to the OpenAPI document."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import jsonschema_rs
import uvicorn
from fastapi import FastAPI

from app.logs import configure_logging
from app.main import create_app, parts_of
from app.services.assembly import Services
from app.settings import Settings


@dataclass(slots=True)
class Judge:
    """Knows the document; says whether an answer is one that its operation may give."""

    document: Mapping[str, Any]
    _validators: dict[str, Any] = field(default_factory=dict)

    def __call__(self, response: httpx.Response) -> None:
        """Pass if status, media type, headers and body of this answer are documented."""
        assert response.headers["X-Request-ID"]
        operation = self._operation(response.request.method, response.request.url.path)
        if operation is None:
            assert response.status_code in {404, 405}, response.request
            assert response.headers["Content-Type"] == "application/problem+json"
            return
        described = operation["responses"].get(str(response.status_code))
        assert described is not None, f"{operation['operationId']} does not document {response.status_code}"
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        content = described.get("content", {})
        if "json" in kind:
            assert kind in content, f"{operation['operationId']} {response.status_code} does not document {kind}"
            response.read()
            self._validator(content[kind]["schema"]).validate(response.json())
        if not response.is_success and response.status_code != 304 and response.request.method != "HEAD":
            assert kind == "application/problem+json"
            assert response.json()["instance"] == response.headers["X-Request-ID"]

    def _operation(self, method: str, path: str) -> Mapping[str, Any] | None:
        for template, operations in sorted(self.document["paths"].items(), key=lambda item: "{" in item[0]):
            pattern = re.sub(r"\{[^}]*\}", "[^/]+", template)
            if re.fullmatch(pattern, path) and method.lower() in operations:
                found: Mapping[str, Any] = operations[method.lower()]
                return found
        return None

    def _validator(self, schema: Mapping[str, Any]) -> Any:
        name = str(schema.get("$ref", schema))
        if name not in self._validators:
            components = {"components": self.document["components"]}
            self._validators[name] = jsonschema_rs.Draft202012Validator({**schema, **components})
        return self._validators[name]


@dataclass(frozen=True, slots=True)
class Served:
    """The service at a URL, with the services behind it in the test's hands."""

    url: str
    http: httpx.Client
    services: Services

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for tests that speak HTTP by hand."""
        parsed = httpx.URL(self.url)
        return parsed.host, parsed.port or 80


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve the application by uvicorn in a thread; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server died while it started"
            time.sleep(0.002)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@dataclass(frozen=True, slots=True)
class Host:
    """A running server whose services can be exchanged: starting one for each test would take most of its time."""

    app: FastAPI
    url: str
    judge: Judge

    @contextlib.contextmanager
    def serving(self, services: Services) -> Iterator[Served]:
        """Serve these services, every answer judged."""
        self.app.state.parts = parts_of(services)
        with httpx.Client(base_url=self.url, event_hooks={"response": [self.judge]}, timeout=30) as http:
            yield Served(self.url, http, services)


@contextlib.contextmanager
def hosting() -> Iterator[Host]:
    """A running server that waits for services."""
    configure_logging(level="CRITICAL")
    app = create_app(Settings())
    app.router.lifespan_context = _no_lifespan  # nothing is opened from the environment's settings
    with listening(app) as url:
        yield Host(app, url, Judge(app.openapi()))


@contextlib.asynccontextmanager
async def _no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    del app
    yield
