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
from dataclasses import replace
from pathlib import Path

import numpy as np

from workers import attempt
from workers.pruning.errors import NothingToPrune
from workers.pruning.types import Memo, Phase, TimedNetwork


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


def crowd(number):
    """Start processes that each fill 60 MiB and stay."""
    for _ in range(number):
        subprocess.Popen([sys.executable, "-c", "b = bytearray(b'x' * 60 * 2**20); import time; time.sleep(300)"])


def garble(text):
    """Write what is no line of the protocol where the lines go."""
    os.write(int(os.environ["ESPALIER_PIPE"]), text.encode())


def overwrite(name):
    """Write over an input."""
    Path(name).write_bytes(b"changed")


class Engine:
    """One run of a script."""

    def __init__(self, out, run, network):
        self.network, self.out, self.run, self.left, self.recalled, self.files = (
            network,
            out,
            run,
            [],
            False,
            ["pruned.onnx"],
        )

    def phase(self, name):
        """Report a phase."""
        self.run.report(Phase(name), 0.0, f"now {name}", seen=1.0)

    def sleep(self, seconds):
        """Work for a while, reporting."""
        steps = max(1, int(seconds / 0.05))
        for step in range(steps):
            time.sleep(seconds / steps)
            self.run.report(Phase.FINETUNE, step / steps)

    def wait(self, seconds):
        """Work for a while in silence."""
        time.sleep(seconds)

    def step(self, name):
        """Do an expensive step, or recall it."""
        memo = self.run.journal.recall(name)
        self.recalled = self.recalled or memo is not None
        if memo is None:
            noise = np.random.default_rng([self.run.seed, len(self.left)]).normal(size=8)
            memo = Memo(arrays={"noise": noise}, state={"n": 1})
            self.run.journal.record(name, memo)
        self.left.append(memo.arrays["noise"].tobytes())

    def once_per_job(self, name):
        """Die by a signal unless an earlier attempt did: that one's checkpoint is here. First let it be kept."""
        if len(list(self.run.journal.folder.iterdir())) == 1 and not self.run.journal.recall("died"):
            self.run.journal.record("died", Memo())
            time.sleep(0.6)
            crash_by(name)

    def unless_recalled(self, seconds):
        """Work for a while, unless this attempt goes on from an earlier one's checkpoint."""
        if not self.recalled:
            time.sleep(seconds)

    def time(self, device):
        """Have a device time the upload, and a layer that it did not time before."""
        content, watch = self.network, self.run.stopwatches[device]
        asked = [TimedNetwork(name="original", content=content, kind="network")]
        if "a layer" not in watch.known():
            asked.append(TimedNetwork(name="row0", content=content, kind="layer", key="a layer"))
        answers = watch.time(asked)
        self.left.append(json.dumps(sorted(answers)).encode())

    def time_at(self, argument):
        """Have a device time the upload with inputs of these shapes."""
        device, shapes = argument
        watch = replace(self.run.stopwatches[device], shapes=shapes)
        watch.time([TimedNetwork(name="original", content=self.network, kind="network")])

    def artifact(self, num_bytes):
        """Leave an artifact of some size."""
        self.left.append(bytes(num_bytes))

    def trick(self, kind):
        """Leave something else where an artifact should be."""
        place = self.out / "trick"
        if kind == "link":
            place.symlink_to("/etc/hostname")
        elif kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        self.files = ["../network.onnx" if kind == "outside" else "trick"]


VERBS = {
    "eat": eat, "crash": crash_by, "ignore": ignore_requests, "refuse": refuse, "fail": fail, "spawn": spawn,
    "counted": counted, "crowd": crowd, "garble": garble, "overwrite": overwrite, "say": sys.stderr.write,
}  # fmt: skip


def prune(spec, *, network, dataset, out, run):
    """Do what the script says; the artifact holds the network's bytes and what every step left."""
    content = network.read_bytes()
    engine = Engine(out, run, content)
    for verb, argument in spec:
        (getattr(engine, verb, None) or VERBS[verb])(argument)
    (out / "pruned.onnx").write_bytes(content + b"".join(engine.left))
    artifacts = [{"file": name, "kind": "onnx", "target": "flops=50%"} for name in engine.files]
    return {"before": {"macs": 2}, "after": {"macs": 1}, "artifacts": artifacts}


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
