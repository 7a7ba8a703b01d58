"""The agent's child: one network, one fresh process. Whatever the runtime does to this process, the agent outlives it.

It reads an order from a file, writes one JSON line to what was its standard output, and ends. Everything that the
runtime itself prints goes to standard error, which the agent quotes if the process dies.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import onnxruntime as ort

from workers.pruning.errors import PruningError
from workers.pruning.graph.runtime import Session, fixed_batch, random_inputs, runtime_version
from workers.pruning.measure.host import host, load_average
from workers.pruning.measure.latency import quiet
from workers.pruning.measure.stats import quantile
from workers.pruning.types import AnyArray

Json = dict[str, Any]
MIN_SAMPLES: Final = 6  # below, the median has no interval of 95 %
_PR_SET_PDEATHSIG: Final = 1
_KIB: Final = 1024


def main(order_file: str) -> int:
    """Do what the order says: describe this machine, or measure a network."""
    _end_with_the_agent()
    answers = _own_output()
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    found = describe() if order["kind"] == "describe" else measure(order)
    answers.write(json.dumps(found, allow_nan=False) + "\n")
    answers.flush()
    return 0


def describe() -> Json:
    """Say what this machine is: board, processor, memory, system, runtime and its providers."""
    return {
        **board(),
        **host(),
        "runtime": "onnxruntime",
        "runtime_version": runtime_version(),
        "providers": list(ort.get_available_providers()),
    }


def measure(order: Mapping[str, Any]) -> Json:
    """Time one network; gives a report, or a failure in the runtime's own words."""
    threads = int(order["threads"])
    machine = {**board(), **host()}  # before this process is pinned, which changes what it may use
    with quiet(threads) as cpus:  # around loading too: the session's threads stay where they are made
        try:
            start = time.perf_counter()
            session = Session(Path(order["network"]).read_bytes(), threads=threads, provider=order["provider"])
            load_ms = (time.perf_counter() - start) * 1e3
            batch = fixed_batch(session.inputs) or int(order["batch"])
            arrays = random_inputs(session.inputs, seed=0, batch=batch)
        except (PruningError, MemoryError) as error:
            return _failure("load", error)
        feeds = {spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)}
        try:
            timed = _time(session, feeds, order, cpus)
        except (PruningError, MemoryError) as error:
            return _failure("run", error)
    return {
        "runtime": "onnxruntime",
        "runtime_version": runtime_version(),
        "provider": order["provider"],
        "threads": threads,
        "batch": batch,
        "warmup": order["warmup"],
        "load_ms": load_ms,
        "peak_rss_bytes": _peak_rss_bytes(),
        "samples_ms": timed["samples_ms"],
        "host": {**machine, **timed["host"]},
    }


def _time(
    session: Session, feeds: Mapping[str, AnyArray], order: Mapping[str, Any], cpus: Sequence[int] | None
) -> Json:
    """Run as often as asked, or for as long as allowed; gives every sample and what the machine did meanwhile."""
    for _ in range(order["warmup"]):
        session.run_feeds(feeds)
    samples: list[float] = []
    on_cpu: list[float] = []
    before, begun, wall = signs(cpus), time.perf_counter(), datetime.now(UTC)
    while len(samples) < order["repeats"]:
        if len(samples) >= MIN_SAMPLES and time.perf_counter() - begun > order["seconds"]:
            break
        thread, start = time.thread_time(), time.perf_counter()
        session.run_feeds(feeds)
        samples.append((time.perf_counter() - start) * 1e3)
        on_cpu.append((time.thread_time() - thread) * 1e3)
    stepped = (datetime.now(UTC) - wall).total_seconds() - (time.perf_counter() - begun)
    machine: Json = {
        "pinned_cpus": cpus,
        "load_average": load_average(),
        "before": before,
        "after": signs(cpus),
        "wall_clock_step_seconds": round(stepped, 3),  # samples are of a monotonic clock; timestamps are not
    }
    if order["threads"] == 1:  # with more, other threads work too, and this one's time says nothing
        machine |= {"on_cpu_share": min(1.0, sum(on_cpu) / sum(samples)), "on_cpu_p50_ms": quantile(on_cpu, 0.5)}
    return {"samples_ms": samples, "host": machine}


def signs(cpus: Sequence[int] | None) -> Json:
    """Say how warm and how fast this machine is just now, and how often it was throttled; empty where it is silent."""
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*"))
    celsius = {_text(zone / "type") or zone.name: _number(zone / "temp", 1000) for zone in zones}
    chosen = [Path(f"/sys/devices/system/cpu/cpu{cpu}") for cpu in cpus or ()]
    return {
        "celsius": {name: value for name, value in celsius.items() if value is not None},
        "mhz": _known(_number(cpu / "cpufreq/scaling_cur_freq", 1000) for cpu in chosen),
        "throttled": _known(_number(cpu / "thermal_throttle/core_throttle_count", 1) for cpu in chosen),
    }


def board() -> Json:
    """Say who made this machine, as its firmware tells."""
    firmware = Path("/sys/class/dmi/id")
    tree = _text(Path("/proc/device-tree/model"))  # boards without a BIOS
    return {
        "vendor": _text(firmware / "sys_vendor"),
        "board": tree or _text(firmware / "product_name") or _text(firmware / "board_name"),
    }


def _peak_rss_bytes() -> int:
    """Give the most memory that this process held; getrusage would count the parent's, from before exec."""
    for line in (_text(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * _KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _failure(reason: str, error: Exception) -> Json:
    return {"failure": {"reason": reason, "detail": (str(error) or type(error).__name__)[:4000]}}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip("\x00 \n") or None
    except (OSError, UnicodeDecodeError):
        return None


def _known(figures: Iterable[float | None]) -> list[float]:
    return [figure for figure in figures if figure is not None]


def _number(path: Path, scale: float) -> float | None:
    try:
        return int(_text(path) or "") / scale
    except ValueError:
        return None


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
