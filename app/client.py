"""A Python client of the service: upload, submit, wait, download. It needs httpx; numpy and torch only where used."""

import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self

import httpx

from app.client_torch import export_torch
from app.client_wire import Json, RequestFailed, Wire

__all__ = ["TERMINAL_STATES", "Client", "RequestFailed"]

TERMINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})
EXTERNAL_DATA: Final = "external_data"
_COMPANION: Final = ".data"  # behind a network's name: the file that holds its weights
_WAIT_SECONDS: Final = 20
_UPLOAD_SECONDS: Final = 600.0
_MEDIA_TYPES: Final = {".csv": "text/csv", ".parquet": "application/vnd.apache.parquet"}


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
        self.url = url
        self._wire = Wire(url, key, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._wire.close()

    def upload_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        external_data: str | os.PathLike[str] | None = None,
    ) -> Json:
        """Upload an ONNX file; the same bytes give the same Model again.

        `external_data` is the file that holds its weights, where they lie outside: by default the one beside it with
        `.data` behind its name, if there is one.
        """
        network = Path(path)
        beside = network.with_name(network.name + _COMPANION) if external_data is None else Path(external_data)
        if external_data is None and not beside.exists():
            return self._upload("/v1/models", network, name)
        with network.open("rb") as file, beside.open("rb") as weights:
            parts = {"file": (network.name, file), EXTERNAL_DATA: (beside.name, weights)}

            def form() -> Json:
                return {"files": {part: (called, _rewound(opened)) for part, (called, opened) in parts.items()}}

            asked = {"name": name or network.name}
            return self._wire.json("POST", "/v1/models", body=form, params=asked, timeout=self._patience())

    def _patience(self) -> float:
        return max(self._wire.timeout, _UPLOAD_SECONDS)

    def _upload(self, path: str, source: Path, name: str | None) -> Json:
        with source.open("rb") as file:
            return self._wire.json(
                "POST",
                path,
                body=lambda: {"content": _rewound(file)},
                params={"name": name or source.name},
                headers={"Content-Type": "application/octet-stream"},
                timeout=self._patience(),
            )

    def upload_torch(
        self, module: Any, example_inputs: Sequence[Any], *, name: str | None = None, dynamic_batch: bool = True
    ) -> Json:
        """Convert a torch module to ONNX on this side, in evaluation mode, and upload it: torch code never travels.

        `example_inputs` are the module's positional inputs as tensors, each with the batch first; with `dynamic_batch`
        the network takes any batch size.
        """
        with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
            path = Path(folder) / "network.onnx"
            export_torch(module, tuple(example_inputs), path, dynamic_batch=dynamic_batch)
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
        return self._wire.json("GET", f"/v1/models/{_identifier(model)}")

    def dataset(self, dataset: str | Mapping[str, Any]) -> Json:
        """The Dataset as it stands."""
        return self._wire.json("GET", f"/v1/datasets/{_identifier(dataset)}")

    def models(self) -> Iterator[Json]:
        """Every Model, newest first."""
        return self._wire.pages("/v1/models")

    def jobs(self, *, state: str | None = None) -> Iterator[Json]:
        """Every Job, newest first; with `state`, those in it."""
        return self._wire.pages("/v1/jobs", {"state": state} if state else {})

    def submit(self, *, model: str | Mapping[str, Any], target: Any = None, **fields: Any) -> Json:
        """Submit a job; `fields` are the other fields of its request: dataset, method, head, finetune, seed, ...

        Without `target` one of them says how far to go: `targets` or `max_accuracy_drop`.
        """
        return self._wire.json("POST", "/v1/jobs", json=_job_request(model, target, fields))

    def estimate(self, *, model: str | Mapping[str, Any], target: Any = None, **fields: Any) -> Json:
        """What a job would reach and refuse, without running it."""
        return self._wire.json("POST", "/v1/jobs/estimate", json=_job_request(model, target, fields))

    def job(self, job: str | Mapping[str, Any]) -> Json:
        """The Job as it stands."""
        return self._wire.json("GET", f"/v1/jobs/{_identifier(job)}")

    def cancel(self, job: str | Mapping[str, Any]) -> Json:
        """Ask for a job's end; a job that has ended is given unchanged."""
        return self._wire.json("POST", f"/v1/jobs/{_identifier(job)}/cancel")

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
            response = self._wire.send("GET", path, timeout=self._wire.timeout + _WAIT_SECONDS, **waiting)
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
        return self._wire.pages("/v1/devices")

    def register_device(self, name: str) -> Json:
        """Register a device; its token is in the answer, and nowhere else."""
        return self._wire.json("POST", "/v1/devices", json={"name": name})

    def revoke_device(self, device: str | Mapping[str, Any]) -> None:
        """Take a device's token back."""
        self._wire.send("DELETE", f"/v1/devices/{_identifier(device)}")

    def measure(self, device: str | Mapping[str, Any], *networks: str | Mapping[str, Any], **settings: Any) -> Json:
        """Ask a device for the latency of a model or artifact, or of several in turn.

        `settings` are threads, batch, provider, warmup, repeats, profile.
        """
        named = [{"artifact" if name.startswith("art_") else "model": name} for name in map(_identifier, networks)]
        asked = named[0] if len(named) == 1 else {"networks": named}
        return self._wire.json("POST", f"/v1/devices/{_identifier(device)}/measurements", json={**asked, **settings})

    def measurements(self, **which: str) -> Iterator[Json]:
        """Measured latencies, newest first; `which` are the filters: device, model, sha256, kind, since, ..."""
        return self._wire.pages("/v1/measurements", which)

    def export_measurements(self, path: str | os.PathLike[str], **which: str) -> Path:
        """Write measured latencies to a file, by its ending as .json, .csv or .parquet."""
        target = Path(path)
        form = target.suffix.removeprefix(".").lower()
        self._wire.save("/v1/measurements/export", target, params={**which, "format": form})
        return target

    def import_measurements(self, path: str | os.PathLike[str], *, source: str = "", device: str = "") -> Json:
        """Bring an export of another service into the record, each measurement once."""
        origin = Path(path)
        query = {name: value for name, value in (("source", source), ("device", device)) if value}
        kind = _MEDIA_TYPES.get(origin.suffix.lower(), "application/json")
        with origin.open("rb") as file:
            return self._wire.json(
                "POST",
                "/v1/measurements/import",
                body=lambda: {"content": _rewound(file)},
                params=query,
                headers={"Content-Type": kind},
                timeout=self._patience(),
            )

    def events(self, job: str | Mapping[str, Any], *, after: int = 0) -> Iterator[Json]:
        """The job's events so far, in order, from the one behind `after`."""
        return self._wire.pages(f"/v1/jobs/{_identifier(job)}/events", {"after": after})

    def artifacts(self, job: str | Mapping[str, Any]) -> list[Json]:
        """The job's artifacts."""
        return list(self._wire.pages(f"/v1/jobs/{_identifier(job)}/artifacts"))

    def download(self, source: str | Mapping[str, Any], path: str | os.PathLike[str], *, ending: str = ".onnx") -> Path:
        """Download an artifact, or a job's pruned ONNX, to `path`: whole and verified, or not at all.

        The weights of a network that lie in a file of their own come with it, under the name that it knows.

        With another `ending` it is the job's first artifact of such a name: `report.html`, `report.json`.

        A download that was cut off, in this call or an earlier one, goes on where it stopped.

        Raises:
            RequestFailed: refused, unreachable, no such artifact, or the bytes are not those of the artifact's digest.
        """
        artifact = self._artifact_of(_identifier(source), ending)
        path = Path(path)
        self._wire.download(artifact, path)
        for companion in self._companions(artifact):
            self._wire.download(companion, path.with_name(Path(companion["name"]).name))
        return path

    def _companions(self, artifact: Json) -> list[Json]:
        """The files that hold the weights of a network whose bytes do not; it refers to them by their names."""
        if artifact["kind"] != "onnx" or not artifact.get("job"):
            return []
        same = [one for one in self.artifacts(artifact["job"]) if one["kind"] == EXTERNAL_DATA]
        return [one for one in same if one["target"] == artifact["target"]]

    def _artifact_of(self, identifier: str, ending: str) -> Json:
        if identifier.startswith("art_"):
            return self._wire.json("GET", f"/v1/artifacts/{identifier}")
        found = next((artifact for artifact in self.artifacts(identifier) if artifact["name"].endswith(ending)), None)
        if found is None:
            job = self.job(identifier)
            detail = f"{identifier} is {job['state']} and has no {ending} artifact"
            raise RequestFailed(
                job.get("problem") or {"type": "no-artifact", "title": "Nothing to download", "detail": detail}
            )
        return found


def _rewound(file: IO[bytes]) -> IO[bytes]:
    """The file from its beginning: an attempt before may have read it."""
    file.seek(0)
    return file


def _job_request(model: str | Mapping[str, Any], target: Any, fields: Mapping[str, Any]) -> Json:
    request = {"model": _identifier(model), **({} if target is None else {"target": target}), **fields}
    if isinstance(request.get("dataset"), Mapping):
        request["dataset"] = _identifier(request["dataset"])
    return json.loads(json.dumps(request))  # type: ignore[no-any-return]  # what is no JSON fails here, at its cause
