"""The agent's child: one order, one fresh process. Whatever the runtime does to this process, the agent outlives it.

It reads an order from a file and writes JSON lines to what was its standard output: which network it is about to load,
so that the agent knows whose fault a crash was, and at the end its answer. Everything that the runtime itself prints
goes to standard error, which the agent quotes if the process dies.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from workers.edge_companion import placed
from workers.edge_profile import profile
from workers.edge_signs import board, notes, signs, text
from workers.edge_turn import one_at_a_time
from workers.pruning.errors import PruningError
from workers.pruning.graph.providers import available, full_name
from workers.pruning.graph.runtime import Session, fixed_batch, random_inputs, runtime_version
from workers.pruning.measure.host import host, load_average
from workers.pruning.measure.latency import RUNS_PER_ROUND, quiet
from workers.pruning.measure.stats import quantile
from workers.pruning.types import AnyArray

Json = dict[str, Any]
MIN_SAMPLES: Final = 6  # below, the median has no interval of 95 %
MOST_OPERATORS: Final = 2000  # of all profiles of one answer
_PR_SET_PDEATHSIG: Final = 1
_KIB: Final = 1024
_DIGITS: Final = 6  # of a millisecond: nanoseconds, which no clock undercuts


@dataclass(slots=True, kw_only=True)
class _Subject:
    """A network under measurement."""

    name: str
    network: Path
    session: Session
    feeds: Mapping[str, AnyArray]
    batch: int
    load_ms: float
    samples_ms: list[float] = field(default_factory=list)
    on_cpu_ms: list[float] = field(default_factory=list)


def main(order_file: str) -> int:
    """Do what the order says: describe this machine, or measure networks."""
    _end_with_the_agent()
    answers = _own_output()

    def say(line: Json) -> None:
        answers.write(json.dumps(line, allow_nan=False) + "\n")
        answers.flush()

    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    say(describe(order) if order["kind"] == "describe" else measure(order, lambda name: say({"at": name})))
    return 0


def describe(order: Json) -> Json:
    """Say what this machine is: board, processor, memory, system, runtime and its providers; which one is its own."""
    try:
        provider = full_name(order["provider"])
    except PruningError as error:
        return {"failure": _failure("load", error)}
    return {
        **board(),
        **host(),
        "runtime": "onnxruntime",
        "runtime_version": runtime_version(),
        "providers": list(available()),
        "provider": provider,
    }


def measure(order: Json, at: Callable[[str | None], None] = lambda _: None) -> Json:
    """Time the networks of an order in turn; gives a result for each, or its failure in the runtime's own words."""
    threads = int(order["threads"])
    machine = {**board(), **host()}  # before this process is pinned, which changes what it may use
    with one_at_a_time(), quiet(threads) as cpus:  # around loading too: a session's threads stay where they are made
        subjects, failures = _prepare(order, at)
        at(None)
        before, begun, wall = signs(cpus), time.perf_counter(), datetime.now(UTC)
        failures |= _time(subjects, order)
        stepped = (datetime.now(UTC) - wall).total_seconds() - (time.perf_counter() - begun)
        after = signs(cpus)
        peak = _peak_rss_bytes() if len(order["items"]) == 1 else None  # several share one process
        results = [_result(one, order, peak) for one in subjects if one.name not in failures]
    machine |= {
        "pinned_cpus": cpus,
        "load_average": load_average(),
        "before": before,
        "after": after,
        "wall_clock_step_seconds": round(stepped, 3),  # samples are of a monotonic clock; timestamps are not
        "notes": notes(before, after, stepped_seconds=stepped),
        "side_by_side": len(order["items"]),
        "runs_per_round": RUNS_PER_ROUND if len(order["items"]) > 1 else 1,
    }
    results += [{"name": name, "failure": failure} for name, failure in failures.items()]
    how = {key: order[key] for key in ("provider", "threads", "warmup")}
    return {"runtime": "onnxruntime", "runtime_version": runtime_version(), **how, "host": machine, "results": results}


def _prepare(order: Json, at: Callable[[str | None], None]) -> tuple[list[_Subject], dict[str, Json]]:
    """Load and warm up every network; one that the runtime refuses is told, and the others go on."""
    subjects: list[_Subject] = []
    failures: dict[str, Json] = {}
    for item in order["items"]:
        at(item["name"])
        doing = "load"
        try:
            subject = _load(item, order)
            doing = "run"
            for _ in range(order["warmup"]):
                subject.session.run_feeds(subject.feeds)
        except (PruningError, MemoryError) as error:
            failures[item["name"]] = _failure(doing, error)
        else:
            subjects.append(subject)
    return subjects, failures


def _load(item: Json, order: Json) -> _Subject:
    network = Path(item["network"])
    if item.get("companion"):
        network = placed(network, Path(item["companion"]))
    start = time.perf_counter()
    session = Session(network, threads=int(order["threads"]), provider=order["provider"])
    load_ms = (time.perf_counter() - start) * 1e3
    batch = fixed_batch(session.inputs) or int(order["batch"])
    shapes = {name: tuple(lengths) for name, lengths in (order.get("shapes") or {}).items()}
    arrays = random_inputs(session.inputs, seed=0, batch=batch, shapes=shapes)
    feeds = {spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)}
    return _Subject(name=item["name"], network=network, session=session, feeds=feeds, batch=batch, load_ms=load_ms)


def _time(subjects: Sequence[_Subject], order: Json) -> dict[str, Json]:
    """Run as often as asked, or for as long as allowed; gives what failed while it ran.

    Several networks take turns in rounds whose order rotates, so that whatever the machine does meanwhile falls on all
    of them; a turn begins with a run that is thrown away, since the others have emptied the caches.
    """
    left = list(subjects)
    failures: dict[str, Json] = {}
    begun, number, alone = time.perf_counter(), 0, len(subjects) == 1
    while left and len(left[0].samples_ms) < order["repeats"]:
        enough = len(left[0].samples_ms) >= MIN_SAMPLES
        if enough and time.perf_counter() - begun > order["seconds"]:
            break
        wanted = 1 if alone else min(RUNS_PER_ROUND, order["repeats"] - len(left[0].samples_ms))
        for offset in range(len(left)):
            subject = left[(number + offset) % len(left)]
            try:
                _visit(subject, runs=wanted, thrown_away=0 if alone else 1)
            except (PruningError, MemoryError) as error:
                failures[subject.name] = _failure("run", error)
        left = [subject for subject in left if subject.name not in failures]
        number += 1
    return failures


def _visit(subject: _Subject, *, runs: int, thrown_away: int) -> None:
    for _ in range(thrown_away):
        subject.session.run_feeds(subject.feeds)
    for _ in range(runs):
        thread, start = time.thread_time(), time.perf_counter()
        subject.session.run_feeds(subject.feeds)
        subject.samples_ms.append((time.perf_counter() - start) * 1e3)
        subject.on_cpu_ms.append((time.thread_time() - thread) * 1e3)


def _result(subject: _Subject, order: Json, peak_rss_bytes: int | None) -> Json:
    found: Json = {
        "name": subject.name,
        "batch": subject.batch,
        "load_ms": subject.load_ms,
        "peak_rss_bytes": peak_rss_bytes,
        "samples_ms": [round(sample, _DIGITS) for sample in subject.samples_ms],
    }
    if order["threads"] == 1:  # with more, other threads work too, and this one's time says nothing
        share = min(1.0, sum(subject.on_cpu_ms) / sum(subject.samples_ms))
        found |= {"on_cpu_share": share, "on_cpu_p50_ms": quantile(subject.on_cpu_ms, 0.5)}
    if order["profile"]:
        found["profile"] = _profile(subject, order)
    return found


def _profile(subject: _Subject, order: Json) -> list[Json] | None:
    """Give what each operator takes; what was timed is not lost over a profile that cannot be had."""
    most = MOST_OPERATORS // len(order["items"])
    how = {"threads": int(order["threads"]), "provider": order["provider"]}
    try:
        return profile(subject.network, subject.feeds, most=most, **how)
    except (PruningError, MemoryError, OSError, ValueError) as error:
        sys.stderr.write(f"No profile of {subject.name}: {error}\n")
        return None


def _peak_rss_bytes() -> int:
    """Give the most memory that this process held; getrusage would count the parent's, from before exec."""
    for line in (text(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _failure(reason: str, error: Exception) -> Json:
    return {"reason": reason, "detail": (str(error) or type(error).__name__)[:4000]}


def _own_output() -> IO[str]:
    """Keep standard output for the answer, and send to standard error what the runtime prints there."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _end_with_the_agent() -> None:
    """Have the kernel end this process when the agent dies, so that nothing goes on computing beside its successor."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
