"""The real attempt with an engine of a few lines: `python stand_in_engine.py JOBDIR`.

Everything of `workers.attempt` is real (sandbox, protocol, problem records, journal); only `workers.pipeline`, which
would load torch, is replaced by one that does what the job's spec says in `metadata.script`: a list of
[verb, argument] in JSON. So a test decides what an attempt does, in a process that really does it.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np

from workers import attempt
from workers.pruning.errors import NothingToPrune
from workers.pruning.types import Memo, Phase


class PlainSpec:
    """Keeps the spec as it is."""

    @staticmethod
    def from_json(spec):
        """Return the script."""
        return json.loads(spec.get("metadata", {}).get("script", "[]"))


def eat(num_bytes):
    """Fill memory until there is no more of it."""
    held = [bytearray(2**20) for _ in range(num_bytes // 2**20)]
    held.clear()


def crash_by(name):
    """Die by a signal, as a bug in native code or the OOM killer would have it."""
    if name == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, name))


def ignore_requests(_):
    """Leave a polite request to end unanswered."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def refuse(_):
    """Raise what the engine raises when there is nothing to do."""
    raise NothingToPrune(
        "No channel may be removed", where="node_7", actual=0, allowed="1 or more", advice="Use another."
    )


def fail(text):
    """Raise what nobody foresaw."""
    raise RuntimeError(text)


def spawn(_):
    """Start a descendant that outlives this function, in a session of its own."""
    subprocess.Popen(["sleep", "300"], start_new_session=True)


def counted(path):
    """Append one byte to a file of the test: how often did this run?"""
    with Path(path).open("ab") as file:
        file.write(b"x")


def prune(spec, *, network, dataset, out, run):
    """Do what the script says; the artifact holds the network's bytes and what every step left."""
    left = []
    for verb, argument in spec:
        if verb == "phase":
            run.report(Phase(argument), 0.0, f"now {argument}", seen=1.0)
        elif verb == "sleep":
            steps = max(1, int(argument / 0.05))
            for step in range(steps):
                time.sleep(argument / steps)
                run.report(Phase.FINETUNE, step / steps)
        elif verb == "step":
            memo = run.journal.recall(argument)
            if memo is None:
                memo = Memo(
                    arrays={"noise": np.random.default_rng([run.seed, len(left)]).normal(size=8)}, state={"n": 1}
                )
                run.journal.record(argument, memo)
            left.append(memo.arrays["noise"].tobytes())
        elif verb == "once":  # crash in the first attempt that comes by, after a moment for the checkpoint to be kept
            marker, action = argument
            if not Path(marker).exists():
                counted(marker)
                time.sleep(0.6)
                crash_by(action)
        else:
            {"eat": eat, "crash": crash_by, "ignore": ignore_requests, "refuse": refuse, "fail": fail, "spawn": spawn,
             "counted": counted, "say": sys.stderr.write}[verb](argument)  # fmt: skip
    (out / "pruned.onnx").write_bytes(network.read_bytes() + b"".join(left))
    return {"before": {"macs": 2}, "after": {"macs": 1}, "artifacts": [{"file": "pruned.onnx", "kind": "onnx"}]}


stand_in = types.ModuleType("workers.pipeline")
stand_in.prune = prune
stand_in.analyse_network = lambda path: {"num_bytes": path.stat().st_size}
stand_in.analyse_dataset = lambda path: {"kind": "labelled", "num_samples": path.stat().st_size}
specs = types.ModuleType("workers.prune_spec")
specs.PruneSpec = PlainSpec
sys.modules["workers.pipeline"], sys.modules["workers.prune_spec"] = stand_in, specs
import workers  # noqa: E402

workers.pipeline, workers.prune_spec = stand_in, specs

if __name__ == "__main__":
    sys.exit(attempt.main())
