"""`python -m workers.attempt JOBDIR`: the child that runs one attempt, and the only door to torch.

It enters the sandbox before the first import of the engine, tells its supervisor everything as lines on a pipe, and
turns whatever the engine raises into a problem record: this is the one bridge between the two error trees.
"""

import errno
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workers.checkpoints import FileJournal
from workers.progress import Reporter, weights_of
from workers.protocol import PARENT_VARIABLE, PIPE_VARIABLE, LineWriter
from workers.pruning.errors import DeviceRefused, OutOfMemory, PruningError, says_no_memory
from workers.pruning.types import Json, Run, Stopwatch
from workers.sandbox import Limits, SandboxIncomplete, die_with_parent, enter
from workers.stopwatch import ServiceStopwatch

Emit = Callable[[Mapping[str, Json]], None]
_KIB: Final = 1024
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one attempt is to do, and where its files are."""

    kind: str
    spec: Mapping[str, Any]
    seed: int
    limits: Limits
    num_threads: int
    network: Path | None
    dataset: Path | None
    out: Path
    checkpoints: Path
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    folder: Path | None = None  # where questions to devices go; None: nobody answers
    clocks: tuple[Mapping[str, Any], ...] = ()  # the devices that may be asked

    @classmethod
    def of_folder(cls, folder: Path) -> "Order":
        """Read the order that a supervisor laid out in a job's folder."""
        written = json.loads((folder / "spec.json").read_text())
        network, dataset = folder / "network.onnx", folder / "dataset"
        return cls(
            kind=written["kind"],
            spec=written["spec"],
            seed=written["seed"],
            limits=Limits(**{**written["limits"], "required": tuple(written["limits"]["required"])}),
            num_threads=written["num_threads"],
            network=network if network.exists() else None,
            dataset=dataset if dataset.exists() else None,
            out=folder / "out",
            checkpoints=folder / "checkpoints",
            write=(folder,),
            folder=folder,
            clocks=tuple(written.get("clocks", ())),
        )


def perform(order: Order, emit: Emit) -> int:
    """Run one attempt inside the sandbox and give the exit status: 0 after a result, 1 after a problem."""
    reporter = Reporter(emit=emit, clock=time.monotonic, weights=weights_of(order.spec))
    try:
        emit({"event": "sandbox", "layers": enter(order.limits, read=order.read, write=order.write)})
        result = _work(order, reporter, emit)
    except Exception as error:  # noqa: BLE001  # the boundary: whatever happened becomes the job's record
        traceback.print_exc()
        phase = reporter.phase
        emit({"event": "problem", **problem_of(error), "phase": None if phase is None else phase.value})
        return 1
    emit({"event": "result", "result": result})
    return 0


def _work(order: Order, reporter: Reporter, emit: Emit) -> dict[str, Json]:
    # torch is loaded here and nowhere before: inside the sandbox.
    from workers import pipeline  # noqa: PLC0415
    from workers.prune_spec import PruneSpec  # noqa: PLC0415

    if order.kind == "analyse_model":
        return pipeline.analyse_network(_given(order.network, "network"))
    if order.kind == "analyse_dataset":
        return pipeline.analyse_dataset(_given(order.dataset, "dataset"))
    journal = FileJournal(folder=order.checkpoints, emit=emit)
    run = Run(
        seed=order.seed,
        num_threads=order.num_threads,
        device=order.limits.device,
        report=reporter,
        journal=journal,
        clock=time.monotonic,
        stopwatches=_stopwatches(order, journal, emit),
        memory_bytes=_unused_memory(order.limits),
    )
    called = {clock["device"]: {key: clock[key] for key in ("name", "processor")} for clock in order.clocks}
    spec = PruneSpec.from_json({**order.spec, "called": called})
    return pipeline.prune(spec, network=_given(order.network, "network"), dataset=order.dataset, out=order.out, run=run)


def _unused_memory(limits: Limits) -> int | None:
    """Give the bytes that this process may still take, the engine being loaded; None where there is no limit."""
    if limits.memory_bytes is None or limits.device != "cpu":
        return None
    try:
        mapped = int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
    return max(0, limits.memory_bytes - mapped)


def _stopwatches(order: Order, journal: FileJournal, emit: Emit) -> dict[str, Stopwatch]:
    """Give the devices that the service lets this attempt ask; without a service, this process itself."""
    folder = order.folder
    if folder is None:
        from workers.pruning.measure.stopwatch import LocalStopwatch  # noqa: PLC0415  # as late as the engine

        how = order.spec.get("measure") or {}
        return {"dev_local": LocalStopwatch(threads=how.get("threads") or 1, batch=how.get("batch") or 1)}
    return {
        clock["device"]: ServiceStopwatch(
            device=clock["device"],
            threads=clock["threads"],
            batch=clock["batch"],
            rows=clock["rows"],
            folder=folder,
            emit=emit,
            journal=journal,
        )
        for clock in order.clocks
    }


def _given(path: Path | None, what: str) -> Path:
    if path is None:
        raise FileNotFoundError(f"the folder of the attempt holds no {what}")
    return path


def problem_of(error: Exception) -> dict[str, Json]:
    """Give the problem record of an exception; what is not the engine's own says only its type.

    A traceback may hold samples or paths of the host, so it goes to the attempt's log and never to the user.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if says_no_memory(error) and not isinstance(error, DeviceRefused):  # a device's words are not about this attempt
        error = OutOfMemory(
            "The attempt needs more memory than it may use",
            actual=f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB:,} bytes at most in use so far",
            allowed=None if limit == resource.RLIM_INFINITY else f"{limit:,} bytes",
            advice="Use a smaller batch or network, or have the operator raise ESPALIER_CHILD_MEMORY_BYTES.",
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        detail = f"There was no room for a file of the attempt ({error.strerror}). Try again later."
        return _record("storage-full", "The service has no room for this", detail, retryable=True)
    if isinstance(error, SandboxIncomplete):
        return _record("sandbox-unavailable", "The sandbox is not complete", str(error), retryable=True)
    if not isinstance(error, PruningError):
        detail = f"The attempt failed inside the service ({type(error).__name__}); its log has the details."
        return _record("internal-error", "Something went wrong inside the service", detail, retryable=False)
    return {
        **_record(error.code, error.title, error.message, retryable=False),
        "where": error.where,
        "actual": _plain(error.actual),
        "allowed": _plain(error.allowed),
        "advice": error.advice,
    }


def _record(code: str, title: str, detail: str, *, retryable: bool) -> dict[str, Json]:
    return {"code": code, "title": title, "detail": detail, "retryable": retryable}


def _plain(value: object) -> Json:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def line_writer() -> LineWriter:
    """Give the writer of this process's lines; without a pipe they go to standard output, and prints to the error one.

    Libraries that print would break the lines, so what they know as standard output is no longer where lines go.
    """
    number = os.environ.get(PIPE_VARIABLE)
    if number is None:
        number = str(os.dup(sys.stdout.fileno()))
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return LineWriter(stream=os.fdopen(int(number), "wb"))


def follow_parent() -> None:
    """End when the parent that named itself in the environment ends."""
    if PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))


def main() -> int:
    """Run the attempt that the folder of the first argument describes."""
    follow_parent()
    return perform(Order.of_folder(Path(sys.argv[1])), line_writer())


if __name__ == "__main__":
    sys.exit(main())
