"""`espalier prune --local`: the same validation, the same child and sandbox as in the service, without the service."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from app.client import RequestFailed
from app.domain.methods import JobSpec, parse_spec
from app.domain.target import LOCAL
from app.errors import ServiceError, ValidationFailed

# A job names an uploaded model; a local one has none, and the spec is validated all the same.
_NO_UPLOAD: Final = "mdl_local"
Line = dict[str, Any]


def prune_locally(
    network: Path,
    data: Path | None,
    asked: Mapping[str, Any],
    output: Path,
    on_progress: Callable[[Line], None],
    *,
    num_threads: int = 1,
) -> dict[str, Any]:
    """Prune `network` in a child of this process, write the result to `output`, return the job's result.

    External weights of the network lie beside it in a file of its name with `.data` behind; those of the result are
    written beside `output`, under the name by which it refers to them.

    `asked` is a job request without `model` and `dataset`. `on_progress` is called with documents shaped like a job.

    Raises:
        RequestFailed: the request does not validate, or the attempt ended in a problem.
    """
    try:
        parsed = parse_spec({**asked, "model": _NO_UPLOAD})
        _refuse_devices(parsed)
    except ServiceError as error:
        raise RequestFailed(error.problem()) from error
    spec = parsed.model_dump(mode="json")
    with tempfile.TemporaryDirectory(prefix="espalier-") as folder:
        order = {
            "kind": "prune",
            "spec": spec,
            "seed": spec["seed"],
            "network": str(network.resolve()),
            "dataset": str(data.resolve()) if data else None,
            "out": f"{folder}/out",
            "num_threads": num_threads,
        }
        order_file = Path(folder, "order.json")
        order_file.write_text(json.dumps(order))
        result = _run(order_file, on_progress)
        artifact = next(entry for entry in result["artifacts"] if entry["kind"] == "onnx")
        shutil.copyfile(Path(folder, "out", artifact["file"]), output)
        for beside in (entry["file"] for entry in result["artifacts"] if entry["kind"] == "external_data"):
            shutil.copyfile(Path(folder, "out", beside), output.with_name(beside))
    return result


def _refuse_devices(spec: JobSpec) -> None:
    """Pass if the job needs no answer of a device: those call a service, and here is none."""
    away = [name for name in spec.devices if name != LOCAL]
    if away:
        raise ValidationFailed(f"{away[0]} answers to a service only; without one there is {LOCAL}.")


def _run(order_file: Path, on_progress: Callable[[Line], None]) -> dict[str, Any]:
    command = [sys.executable, "-m", "workers.local_job", str(order_file)]
    log = order_file.with_suffix(".log")
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as child:
        assert child.stdout is not None  # noqa: S101  # a pipe was asked for
        try:
            return _result(_lines(child.stdout), on_progress) or _died(child, log)
        except BaseException:
            child.kill()
            raise


def _lines(stream: IO[bytes]) -> Iterator[Line]:
    for line in stream:
        yield json.loads(line)


def _result(lines: Iterator[Line], on_progress: Callable[[Line], None]) -> dict[str, Any] | None:
    for line in lines:
        if line["event"] == "progress":
            on_progress({"state": "running", "progress": line})
        elif line["event"] == "problem":
            raise RequestFailed(line)
        elif line["event"] == "result":
            result: dict[str, Any] = line["result"]
            return result
    return None


def _died(child: "subprocess.Popen[bytes]", log: Path) -> dict[str, Any]:
    """Raise what is known of a child that ended without an answer."""
    status = child.wait()
    how = f"signal {-status}" if status < 0 else f"status {status}"
    said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise RequestFailed(
        {"title": "The attempt died", "detail": f"it ended with {how}{os.linesep}its last words: {said[0]}"}
    )
