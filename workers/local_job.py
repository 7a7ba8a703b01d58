"""`python -m workers.local_job SPEC.json`: one attempt without a service; its lines go to standard output.

SPEC.json: {"kind": "prune", "spec": {...}, "seed": 0, "network": path, "dataset": path or null, "out": folder}, and
optionally `num_threads` and `memory_bytes`. The result's artifacts are files in `out`. The same sandbox surrounds the
work as in the service: it reads the two inputs, writes to `out` only, and reaches no network.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from workers.attempt import Order, follow_parent, line_writer, perform
from workers.pruning.graph.split import companion_of
from workers.sandbox import Limits


def order_of(written: dict[str, Any], out: Path, scratch: Path) -> Order:
    """Give the order that a SPEC.json describes."""
    network = Path(written["network"]).resolve() if written.get("network") else None
    dataset = Path(written["dataset"]).resolve() if written.get("dataset") else None
    memory = written.get("memory_bytes")
    return Order(
        kind=written.get("kind", "prune"),
        spec=written["spec"],
        seed=int(written.get("seed", 0)),
        limits=Limits(memory_bytes=memory, cpu_seconds=None, file_bytes=None, open_files=None, nice=0),
        num_threads=int(written.get("num_threads") or 1),
        network=network,
        dataset=dataset,
        out=out,
        checkpoints=scratch,
        read=tuple(path for path in (network, network and companion_of(network), dataset) if path is not None),
        write=(out,),
    )


def main() -> int:
    """Run the job that the file of the first argument describes."""
    follow_parent()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads; workers.sandbox says why
    written = json.loads(Path(sys.argv[1]).read_text())
    out = Path(written["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    # Inside `out`, because that is all that the sandbox leaves writable, and the scratch folder is removed from within.
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=out) as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        return perform(order_of(written, out, Path(scratch)), line_writer())


if __name__ == "__main__":
    sys.exit(main())
