"""`python -m workers.timing FOLDER`: a fresh process that times networks in turn, in the same sandbox as an attempt.

Each network is first loaded and run once in a process of its own: what the runtime refuses, or dies of, is then told of
that network alone, and its peak memory is its own.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from workers import edge_measure
from workers.attempt import follow_parent, line_writer, problem_of
from workers.pruning.errors import PruningError
from workers.pruning.graph.runtime import Session, fixed_batch, random_inputs
from workers.pruning.measure.latency import measure
from workers.pruning.types import Json
from workers.sandbox import Limits, enter

_LEAST_SECONDS: Final = 2.0
_SECONDS_PER_LAYER: Final = 0.12
_SECONDS_PER_NETWORK: Final = 5.0
_LONGEST_SECONDS: Final = 60.0
_KIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be timed, and how."""

    files: Mapping[str, Path]  # by the network's name
    seconds: float
    threads: int
    batch: int
    shapes: Mapping[str, tuple[int, ...]]  # of inputs whose axes are free, where the network has them


def _question(folder: Path, order: Mapping[str, Any]) -> Question:
    asked = sum(_SECONDS_PER_LAYER if item["kind"] == "layer" else _SECONDS_PER_NETWORK for item in order["items"])
    return Question(
        files={item["name"]: folder / item["file"] for item in order["items"]},
        seconds=min(_LONGEST_SECONDS, max(_LEAST_SECONDS, asked)),
        threads=int(order["threads"]),
        batch=int(order["batch"]),
        shapes={name: tuple(shape) for name, shape in order["shapes"].items()},
    )


def answer(question: Question, *, alone: bool) -> dict[str, Json]:
    """Time what can be timed; the rest is told in the runtime's own words."""
    tried = {name: _tried(path, question) for name, path in question.files.items()}
    failures = {name: found["failure"] for name, found in tried.items() if "failure" in found}
    networks = {name: path.read_bytes() for name, path in question.files.items() if name not in failures}
    measured: dict[str, Json] = {}
    if networks:
        timed = measure(
            networks,
            threads=question.threads,
            batch=question.batch,
            shapes=question.shapes,
            budget_seconds=question.seconds,
        )
        for name, one in timed.items():
            whole = replace(one, peak_rss_bytes=tried[name]["peak_rss_bytes"], host={**one.host, "alone": alone})
            measured[name] = asdict(whole)
    return {"measurements": measured, "failures": failures}


def exactly(folder: Path, order: Mapping[str, Any], *, alone: bool) -> dict[str, Json]:
    """Time as a user asked: so many runs, with this provider; the answer is that of an agent."""
    items = [
        {
            "name": item["name"],
            "network": str(folder / item["file"]),
            "companion": str(folder / item["companion"]) if item.get("companion") else None,
        }
        for item in order["items"]
    ]
    found: dict[str, Any] = edge_measure.measure({**order["exact"], "items": items})
    return {**found, "host": {**found["host"], "alone": alone}}


def _tried(path: Path, question: Question) -> dict[str, Any]:
    """Load and run a network once in a process of its own; gives its peak memory, or why it failed."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, json.dumps(_first_run(path, question)).encode())  # less than a pipe holds: never waits
        except BaseException:  # noqa: BLE001  # a process of its own: it must end here, whatever happened
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(pid, 0)
    if not said:
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return {"failure": {"reason": "crash", "detail": f"The runtime's process ended with {how}."}}
    told: dict[str, Any] = json.loads(said)
    return told


def _first_run(path: Path, question: Question) -> dict[str, Any]:
    reason = "load"
    try:
        session = Session(path.read_bytes(), threads=question.threads)
        batch = fixed_batch(session.inputs) or question.batch
        arrays = random_inputs(session.inputs, seed=0, batch=batch, shapes=question.shapes)
        reason = "run"
        session.run(arrays)
    except (PruningError, MemoryError) as error:
        return {"failure": {"reason": reason, "detail": (str(error) or type(error).__name__)[:4000]}}
    return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB}


def main() -> int:
    """Answer the order of the folder that the first argument names, as one line."""
    follow_parent()
    emit, folder = line_writer(), Path(sys.argv[1])
    order = json.loads((folder / "spec.json").read_text())
    try:
        limits = Limits(**{**order["limits"], "required": tuple(order["limits"]["required"])})
        enter(limits, read=(), write=(folder,))
        alone = bool(order["alone"])
        found = (
            exactly(folder, order, alone=alone) if "exact" in order else answer(_question(folder, order), alone=alone)
        )
    except Exception as error:  # noqa: BLE001  # the boundary: whatever happened becomes the answer
        traceback.print_exc()
        emit({"event": "problem", **problem_of(error)})
        return 1
    emit({"event": "result", "result": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
