"""A Python client of the service: upload, submit, wait, download. It needs httpx; numpy and torch only where used."""

import contextlib
import hashlib
import importlib
import json
import os
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import httpx

Json = dict[str, Any]

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})

_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 8.0
_RETRY_STATUSES = frozenset({429, 502, 503, 504})
_READ_BYTES = 1024 * 1024
_WAIT_SECONDS = 20


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
        f"{url} gave no answer after {_ATTEMPTS} attempts ({type(error).__name__}: {error}); is the service running?"
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


def _identifier(thing: str | Mapping[str, Any]) -> str:
    return thing if isinstance(thing, str) else str(thing["id"])


class Client:
    """Speaks to one service; a context manager. Answers are the documents of the API as dictionaries.

    Every creating request carries an idempotency key of its own, so a connection that is lost is tried again without
    creating anything twice.

    Example:
        with Client("http://localhost:8000") as client:
            network = client.upload_model("net.onnx")
            job = client.wait(client.submit(model=network["id"], target="flops=50%"))
            client.download(job, "smaller.onnx")
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"User-Agent": "espalier-client"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout, transport=transport)
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, *, file: IO[bytes] | None = None, **options: Any) -> httpx.Response:
        """Send until an answer comes or the attempts are used up; the answer is a success or a 304.

        Raises:
            RequestFailed: the service refused, or gave no answer.
        """
        headers = dict(options.pop("headers", {}))
        if method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        for attempt in range(_ATTEMPTS):
            if file is not None:
                file.seek(0)
                options["content"] = file
            last = attempt == _ATTEMPTS - 1
            try:
                response = self._http.request(method, path, headers=headers, **options)
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

    def _json(self, method: str, path: str, **options: Any) -> Json:
        answer: Json = self._send(method, path, **options).json()
        return answer

    def _upload(self, path: str, source: Path, name: str | None) -> Json:
        with source.open("rb") as file:
            return self._json(
                "POST",
                path,
                file=file,
                params={"name": name or source.name},
                headers={"Content-Type": "application/octet-stream"},
                timeout=max(self._timeout, 600.0),
            )

    def upload_model(self, path: str | os.PathLike[str], *, name: str | None = None) -> Json:
        """Upload an ONNX file; the same bytes give the same Model again."""
        return self._upload("/v1/models", Path(path), name)

    def upload_torch(
        self, module: Any, example_inputs: Sequence[Any], *, name: str | None = None, dynamic_batch: bool = True
    ) -> Json:
        """Convert a torch module to ONNX on this side, in evaluation mode, and upload it: torch code never travels.

        `example_inputs` are the module's positional inputs as tensors, each with the batch first; with `dynamic_batch`
        the network takes any batch size.
        """
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
            path = Path(folder) / "network.onnx"
            _export_torch(module, tuple(example_inputs), path, dynamic_batch=dynamic_batch)
            return self._upload("/v1/models", path, name or f"{type(module).__name__}.onnx")

    def upload_dataset(self, source: str | os.PathLike[str] | Mapping[str, Any], *, name: str | None = None) -> Json:
        """Upload a zip or .npz file, or a dictionary of arrays (x, y and perhaps x_val, y_val), sent as an .npz."""
        if not isinstance(source, Mapping):
            return self._upload("/v1/datasets", Path(source), name)
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
            path = Path(folder) / "dataset.npz"
            importlib.import_module("numpy").savez(path, **source)
            return self._upload("/v1/datasets", path, name)

    def model(self, model: str | Mapping[str, Any]) -> Json:
        """The Model as it stands: its state, and its analysis once it is ready."""
        return self._json("GET", f"/v1/models/{_identifier(model)}")

    def dataset(self, dataset: str | Mapping[str, Any]) -> Json:
        """The Dataset as it stands."""
        return self._json("GET", f"/v1/datasets/{_identifier(dataset)}")

    def models(self) -> Iterator[Json]:
        """Every Model, newest first."""
        return self._pages("/v1/models")

    def jobs(self, *, state: str | None = None) -> Iterator[Json]:
        """Every Job, newest first; with `state`, those in it."""
        return self._pages("/v1/jobs", {"state": state} if state else {})

    def _pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Json]:
        asked = dict(params or {})
        while True:
            page = self._json("GET", path, params=asked)
            yield from page["data"]
            if not page["has_more"]:
                return
            asked["after"] = page["last_id"]

    def submit(self, *, model: str | Mapping[str, Any], target: Any, **fields: Any) -> Json:
        """Submit a job; `fields` are the other fields of its request: dataset, method, options, finetune, seed, ..."""
        return self._json("POST", "/v1/jobs", json=_job_request(model, target, fields))

    def estimate(self, *, model: str | Mapping[str, Any], target: Any, **fields: Any) -> Json:
        """What a job would reach and refuse, without running it."""
        return self._json("POST", "/v1/jobs/estimate", json=_job_request(model, target, fields))

    def job(self, job: str | Mapping[str, Any]) -> Json:
        """The Job as it stands."""
        return self._json("GET", f"/v1/jobs/{_identifier(job)}")

    def cancel(self, job: str | Mapping[str, Any]) -> Json:
        """Ask for a job's end; a job that has ended is given unchanged."""
        return self._json("POST", f"/v1/jobs/{_identifier(job)}/cancel")

    def wait(
        self,
        job: str | Mapping[str, Any],
        *,
        timeout: float | None = None,
        on_progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Wait for a job's end and give it in its last state, failed and cancelled included.

        `on_progress` is called with the job each time that it has changed.

        Raises:
            TimeoutError: the job has not ended after `timeout` seconds; it goes on.
        """
        path, etag = f"/v1/jobs/{_identifier(job)}", ""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_SECONDS if deadline is None else max(0.0, min(_WAIT_SECONDS, deadline - time.monotonic()))
            # The first request is answered at once; from then on each waits for the next change.
            waiting: Json = {"headers": {"If-None-Match": etag}, "params": {"wait": round(left, 3)}} if etag else {}
            response = self._send("GET", path, timeout=self._timeout + _WAIT_SECONDS, **waiting)
            if response.status_code != httpx.codes.NOT_MODIFIED:
                etag = response.headers.get("ETag", "")
                current: Json = response.json()
                if on_progress is not None:
                    on_progress(current)
                if current["state"] in TERMINAL_STATES:
                    return current
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{_identifier(job)} has not ended after {timeout} s; it goes on, and can be waited for again"
                )

    def devices(self) -> Iterator[Json]:
        """Every Device: `dev_local`, then the others, newest first."""
        return self._pages("/v1/devices")

    def register_device(self, name: str) -> Json:
        """Register a device; its token is in the answer, and nowhere else."""
        return self._json("POST", "/v1/devices", json={"name": name})

    def revoke_device(self, device: str | Mapping[str, Any]) -> None:
        """Take a device's token back."""
        self._send("DELETE", f"/v1/devices/{_identifier(device)}")

    def measure(self, device: str | Mapping[str, Any], network: str | Mapping[str, Any], **settings: Any) -> Json:
        """Ask a device for the latency of a model or artifact; `settings` are threads, batch, provider, repeats."""
        name = _identifier(network)
        body = {"artifact" if name.startswith("art_") else "model": name, **settings}
        return self._json("POST", f"/v1/devices/{_identifier(device)}/measurements", json=body)

    def measurements(self, **which: str) -> Iterator[Json]:
        """Measured latencies, newest first; `which` may name an artifact, a model or a device."""
        return self._pages("/v1/measurements", which)

    def events(self, job: str | Mapping[str, Any], *, after: int = 0) -> Iterator[Json]:
        """The job's events so far, in order, from the one behind `after`."""
        return self._pages(f"/v1/jobs/{_identifier(job)}/events", {"after": after})

    def artifacts(self, job: str | Mapping[str, Any]) -> list[Json]:
        """The job's artifacts."""
        return list(self._pages(f"/v1/jobs/{_identifier(job)}/artifacts"))

    def download(self, source: str | Mapping[str, Any], path: str | os.PathLike[str], *, ending: str = ".onnx") -> Path:
        """Download an artifact, or a job's pruned ONNX, to `path`: whole and verified, or not at all.

        With another `ending` it is the job's first artifact of such a name: `report.html`, `report.json`.

        A download that was cut off, in this call or an earlier one, goes on where it stopped.

        Raises:
            RequestFailed: refused, unreachable, no such artifact, or the bytes are not those of the artifact's digest.
        """
        artifact = self._artifact_of(_identifier(source), ending)
        path = Path(path)
        part = path.with_name(f".{path.name}.{artifact['sha256'][:16]}.part")
        for attempt in range(_ATTEMPTS):
            try:
                self._fetch(artifact, part)
                break
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS - 1:
                    raise _unreachable(self._http.base_url, error) from error
                _pause(attempt, None)
        _verify(part, artifact)
        part.replace(path)
        return path

    def _artifact_of(self, identifier: str, ending: str) -> Json:
        if identifier.startswith("art_"):
            return self._json("GET", f"/v1/artifacts/{identifier}")
        found = next((artifact for artifact in self.artifacts(identifier) if artifact["name"].endswith(ending)), None)
        if found is None:
            job = self.job(identifier)
            detail = f"{identifier} is {job['state']} and has no {ending} artifact"
            raise RequestFailed(
                job.get("problem") or {"type": "no-artifact", "title": "Nothing to download", "detail": detail}
            )
        return found

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


def _job_request(model: str | Mapping[str, Any], target: Any, fields: Mapping[str, Any]) -> Json:
    request = {"model": _identifier(model), "target": target, **fields}
    if isinstance(request.get("dataset"), Mapping):
        request["dataset"] = _identifier(request["dataset"])
    return json.loads(json.dumps(request))  # type: ignore[no-any-return]  # what is no JSON fails here, at its cause


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


def _export_torch(module: Any, example_inputs: tuple[Any, ...], path: Path, *, dynamic_batch: bool) -> None:
    """Write the module as ONNX with torch's exporter, leaving its training mode as it was.

    An example batch of one would be taken for a constant by the exporter, so it is doubled where the batch is dynamic.
    """
    torch = importlib.import_module("torch")
    shapes = None
    if dynamic_batch:
        example_inputs = tuple(
            torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor for tensor in example_inputs
        )
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in example_inputs)
    was_training = module.training
    module.eval()
    try:
        torch.onnx.export(
            module, example_inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
        )
    finally:
        module.train(was_training)
