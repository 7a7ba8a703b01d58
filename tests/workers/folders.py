"""Folders of jobs and scripts for the stand-in engine."""

import json
import os
import sys
import time
from pathlib import Path

from workers.child import Child, start
from workers.sandbox import child_environment

STAND_IN = Path(__file__).with_name("stand_in_engine.py")
COMMAND = (sys.executable, "-P", str(STAND_IN))


def script(*steps: tuple[str, object]) -> dict[str, object]:
    """A job's spec whose metadata say what the stand-in engine does."""
    return {"target": [{"metric": "macs", "ratio": 0.5}], "metadata": {"script": json.dumps(steps)}}


def lay_out(folder: Path, spec: dict[str, object], *, kind: str = "prune", **limits: object) -> Path:
    """A job's folder as the supervisor lays it out."""
    for name in ("", "out", "checkpoints", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "network.onnx").write_bytes(b"network")
    usual = {"memory_bytes": 4 * 2**30, "cpu_seconds": 60, "file_bytes": 2**30, "open_files": 256, "required": []}
    written = {"kind": kind, "spec": spec, "seed": 7, "num_threads": 1, "limits": {**usual, **limits}}
    (folder / "spec.json").write_text(json.dumps(written))
    return folder


def started(folder: Path) -> Child:
    """The attempt of a folder, running."""
    return start(COMMAND, folder, child_environment(os.environ, scratch=folder / "tmp", num_threads=1))


def events_until_end(child: Child, seconds: float = 20.0) -> list[dict[str, object]]:
    """Everything that the attempt tells until it ends."""
    events, until = [], time.monotonic() + seconds
    while child.ended() is None:
        assert time.monotonic() < until, "the attempt did not end in time"
        events += child.receive(0.1)
    events += child.rest()
    child.close()
    return events
