"""The client's side of the wire: requests that are tried again, refusals as exceptions, pages, whole downloads."""

import contextlib
import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

Json = dict[str, Any]
Body = Callable[[], Mapping[str, Any]]

ATTEMPTS: Final = 5
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 8.0
_RETRY_STATUSES: Final = frozenset({429, 502, 503, 504})
_READ_BYTES: Final = 1024 * 1024


class RequestFailed(Exception):
    """The service refused a request, or could not be reached; `problem` is its problem document (RFC 9457)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem: Json = dict(problem)
        self.status: int | None = problem.get("status")
        self.type: str = str(problem.get("type", "about:blank"))
        self.retryable: bool = bool(problem.get("retryable", False))
        super().__init__(self._message())

    def _message(self) -> str:
        title = str(self.problem.get("title", "The request failed"))
        detail = self.problem.get("detail")
        lines = [f"{title}: {detail}" if detail else title]
        lines += [
            f"  {error.get('pointer', '')}: {error.get('message', '')}" for error in self.problem.get("errors") or ()
        ]
        if instance := self.problem.get("instance"):
            lines.append(f"  (request {instance})")
        return "\n".join(lines)


def _problem_of(response: httpx.Response) -> RequestFailed:
    """The problem document of a refused request; a body that is none (a proxy's page) becomes one that says so."""
    with contextlib.suppress(ValueError):
        document = response.json()
        if isinstance(document, dict) and "title" in document:
            return RequestFailed({"status": response.status_code, **document})
    title = f"HTTP {response.status_code} without a problem document"
    detail = f"{response.request.method} {response.request.url} answered {response.text[:200]!r}"
    return RequestFailed({"type": "about:blank", "title": title, "status": response.status_code, "detail": detail})


def _unreachable(url: object, error: Exception) -> RequestFailed:
    """The problem of a request that found no answer."""
    detail = (
        f"{url} gave no answer after {ATTEMPTS} attempts ({type(error).__name__}: {error}); is the service running?"
    )
    return RequestFailed(
        {"type": "unreachable", "title": "The service cannot be reached", "detail": detail, "retryable": True}
    )


def _pause(attempt: int, response: httpx.Response | None) -> None:
    """Wait before the next attempt: as long as the service asks, else a doubling time with jitter."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    doubling = _FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    seconds = float(asked) if asked.isdigit() else doubling
    time.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))


class Wire:
    """The connection to one service. Every creating request carries an idempotency key of its own."""

    def __init__(self, url: str, key: str | None, *, timeout: float, transport: httpx.BaseTransport | None) -> None:
        headers = {"User-Agent": "espalier-client"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, transport=transport)
        self.timeout = timeout

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, method: str, path: str, *, body: Body | None = None, **options: Any) -> httpx.Response:
        """Send until an answer comes or the attempts are used up; the answer is a success or a 304.

        `body` gives a body's options anew for each attempt, since a file that was read has to be read again.

        Raises:
            RequestFailed: the service refused, or gave no answer.
        """
        headers = dict(options.pop("headers", {}))
        if method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = self._http.request(method, path, headers=headers, **options, **(body() if body else {}))
            except httpx.TransportError as error:
                if last:
                    raise _unreachable(self._http.base_url, error) from error
                _pause(attempt, None)
                continue
            if response.is_success or response.status_code == httpx.codes.NOT_MODIFIED:
                return response
            if last or response.status_code not in _RETRY_STATUSES:
                raise _problem_of(response)
            _pause(attempt, response)
        raise AssertionError("the last attempt returns or raises")

    def json(self, method: str, path: str, **options: Any) -> Json:
        """Send, and give the document that is answered.

        Raises:
            RequestFailed: as send().
        """
        answer: Json = self.send(method, path, **options).json()
        return answer

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Json]:
        """Every entry of a list, page by page.

        Raises:
            RequestFailed: as send().
        """
        asked = dict(params or {})
        while True:
            page = self.json("GET", path, params=asked)
            yield from page["data"]
            if not page["has_more"]:
                return
            asked["after"] = page["last_id"]

    def download(self, artifact: Json, path: Path) -> None:
        """Download an artifact to `path`, whole and verified, or not at all; what was cut off goes on where it stopped.

        Raises:
            RequestFailed: refused, unreachable, or the bytes are not those of the artifact's digest.
        """
        part = path.with_name(f".{path.name}.{artifact['sha256'][:16]}.part")
        for attempt in range(ATTEMPTS):
            try:
                self._fetch(artifact, part)
                break
            except httpx.TransportError as error:
                if attempt == ATTEMPTS - 1:
                    raise _unreachable(self._http.base_url, error) from error
                _pause(attempt, None)
        _verify(part, artifact)
        part.replace(path)

    def save(self, path: str, target: Path, *, params: Mapping[str, Any]) -> None:
        """Save what a GET answers, whole or not at all.

        Raises:
            RequestFailed: refused or unreachable.
        """
        part = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream("GET", path, params=dict(params)) as response, part.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise _problem_of(response)
                for chunk in response.iter_bytes(_READ_BYTES):
                    file.write(chunk)
        except httpx.TransportError as error:
            part.unlink(missing_ok=True)
            raise _unreachable(self._http.base_url, error) from error
        except RequestFailed:
            part.unlink(missing_ok=True)
            raise
        part.replace(target)

    def _fetch(self, artifact: Json, part: Path) -> None:
        """Read the artifact's bytes into `part`, behind those that are there."""
        present = part.stat().st_size if part.exists() else 0
        if present >= artifact["size_bytes"]:
            return
        etag = f'"sha256-{artifact["sha256"]}"'
        headers = {"Range": f"bytes={present}-", "If-Range": etag} if present else {}
        with self._http.stream("GET", f"/v1/artifacts/{artifact['id']}/content", headers=headers) as response:
            if not response.is_success:
                response.read()
                raise _problem_of(response)
            mode = "ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb"
            with part.open(mode) as file:
                for chunk in response.iter_bytes(_READ_BYTES):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())


def _verify(part: Path, artifact: Json) -> None:
    """Hold the downloaded bytes against the artifact's digest; what does not match is removed."""
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    if digest.hexdigest() == artifact["sha256"]:
        return
    part.unlink()
    detail = (
        f"{artifact['id']} should have SHA-256 {artifact['sha256']}, and what came has {digest.hexdigest()};"
        " it was removed: download it again"
    )
    raise RequestFailed(
        {"type": "digest-mismatch", "title": "The download was damaged", "detail": detail, "retryable": True}
    )
