"""Latency of networks in ONNX Runtime: pinned threads, warm sessions, networks in turn, every sample kept."""

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from workers.pruning.errors import UnstableTiming
from workers.pruning.graph.runtime import PROVIDER, Session, fixed_batch, random_inputs, runtime_version
from workers.pruning.measure.host import host, idlest_cpus, load_average
from workers.pruning.measure.stats import quantile
from workers.pruning.types import AnyArray, Json, Measurement

WARMUP_RUNS: Final = 10
RUNS_PER_ROUND: Final = 4
MIN_ROUNDS: Final = 8
MAX_ROUNDS: Final = 250
BUDGET_SECONDS: Final = 10.0
PATIENCE: Final = 12.0  # the least number of rounds may take this many times the budget, no more


@dataclass(slots=True, kw_only=True)
class _Subject:
    """A network under measurement."""

    session: Session
    feeds: Mapping[str, AnyArray]
    load_ms: float
    samples_ms: list[float] = field(default_factory=list)
    on_cpu_ms: list[float] = field(default_factory=list)


def measure(
    networks: Mapping[str, bytes],
    *,
    threads: int = 1,
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    budget_seconds: float = BUDGET_SECONDS,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Measurement]:
    """Time networks in turn, so that whatever the machine does meanwhile falls on all of them.

    Each round visits every network, in an order that rotates; a visit is one run that is thrown away, since the other
    networks have emptied the caches, and RUNS_PER_ROUND that are kept. Rounds go on until `budget_seconds` are spent
    (8 to 250 rounds). All networks have the same number of samples, in the same rounds: `stats.compare` relies on it.

    Networks with a fixed batch axis run at their own batch, and the measurement says which. `shapes` gives full shapes
    for inputs whose other axes are free.

    Units: milliseconds of wall time per run of the whole batch. With one thread the host's `on_cpu_p50_ms` is the
    median of processor time per run: what the run takes where no other program interrupts it.

    Raises:
        InvalidGraph: a network does not load or run.
        UnknownShape: an axis other than the first has no fixed length and `shapes` does not say.
        UnstableTiming: the least number of rounds takes far longer than the budget.
    """
    with quiet(threads) as cpus:
        subjects = {
            name: _prepare(network, threads=threads, batch=batch, shapes=shapes, seed=seed)
            for name, network in networks.items()
        }
        for subject in subjects.values():
            for _ in range(WARMUP_RUNS):
                subject.session.run_feeds(subject.feeds)
        _run_rounds(list(subjects.values()), budget_seconds, progress)
    machine = host()
    machine.update(pinned_cpus=cpus, load_average=load_average(), runs_per_round=RUNS_PER_ROUND)
    return {name: _summary(subject, threads=threads, machine=machine) for name, subject in subjects.items()}


@contextmanager
def quiet(threads: int) -> Iterator[list[int] | None]:
    """Pin this process to as many processors as there are threads and stop the garbage collector meanwhile.

    Yields the processors, the idlest at the time, or None where the system cannot pin. Threads of sessions that are
    made inside inherit it.
    """
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    chosen = idlest_cpus(threads)
    collecting = gc.isenabled()
    gc.disable()
    try:
        if chosen:
            os.sched_setaffinity(0, chosen)
        yield chosen
    finally:
        if before:
            os.sched_setaffinity(0, before)
        if collecting:
            gc.enable()


def _prepare(
    network: bytes, *, threads: int, batch: int, shapes: Mapping[str, tuple[int, ...]] | None, seed: int
) -> _Subject:
    start = time.perf_counter()
    session = Session(network, threads=threads)
    load_ms = (time.perf_counter() - start) * 1e3
    arrays = random_inputs(session.inputs, seed=seed, batch=fixed_batch(session.inputs) or batch, shapes=shapes)
    feeds = {spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)}
    return _Subject(session=session, feeds=feeds, load_ms=load_ms)


def _run_rounds(subjects: Sequence[_Subject], budget_seconds: float, progress: Callable[[float], None]) -> None:
    start = time.perf_counter()
    for number in range(MAX_ROUNDS):
        spent = time.perf_counter() - start
        if number >= MIN_ROUNDS and spent > budget_seconds:
            return
        if spent > PATIENCE * budget_seconds:
            raise UnstableTiming(
                "The network is too slow to be timed in the time given",
                actual=f"{number} rounds in {spent:.0f} s",
                allowed=f"{MIN_ROUNDS} rounds in {PATIENCE * budget_seconds:.0f} s",
            )
        for offset in range(len(subjects)):
            _visit(subjects[(number + offset) % len(subjects)])
        progress(min(1.0, max(spent / budget_seconds, number / MAX_ROUNDS)))


def _visit(subject: _Subject) -> None:
    subject.session.run_feeds(subject.feeds)
    for _ in range(RUNS_PER_ROUND):
        on_cpu = time.thread_time()
        start = time.perf_counter()
        subject.session.run_feeds(subject.feeds)
        subject.samples_ms.append((time.perf_counter() - start) * 1e3)
        subject.on_cpu_ms.append((time.thread_time() - on_cpu) * 1e3)


def _summary(subject: _Subject, *, threads: int, machine: Mapping[str, Json]) -> Measurement:
    samples = subject.samples_ms
    total = sum(samples)
    # With one thread the caller does all the work, so time off the processor is time that other programs took.
    alone: dict[str, Json] = {"on_cpu_share": None, "on_cpu_p50_ms": None}
    if threads == 1:
        alone["on_cpu_share"] = round(min(1.0, sum(subject.on_cpu_ms) / total), 4)
        alone["on_cpu_p50_ms"] = quantile(subject.on_cpu_ms, 0.5)
    first = subject.session.inputs[0].name if subject.session.inputs else ""
    return Measurement(
        samples_ms=tuple(samples),
        p50_ms=quantile(samples, 0.5),
        p90_ms=quantile(samples, 0.9),
        p99_ms=quantile(samples, 0.99),
        mean_ms=total / len(samples),
        load_ms=subject.load_ms,
        warmup=WARMUP_RUNS,
        batch=subject.feeds[first].shape[0] if first and subject.feeds[first].ndim else 1,
        threads=threads,
        runtime="onnxruntime",
        runtime_version=runtime_version(),
        provider=PROVIDER,
        host={**machine, **alone},
    )
