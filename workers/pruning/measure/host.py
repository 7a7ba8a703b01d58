"""What ran a measurement: a latency without its host says nothing."""

import os
import platform
import time
from pathlib import Path
from typing import Final

import numpy as np

from workers.pruning.graph.runtime import runtime_version
from workers.pruning.types import Json

CPU_FLAGS: Final = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "sve")

LOOK_SECONDS: Final = 0.1


def host() -> dict[str, Json]:
    """Describe this machine: processor, clock, cores, memory, system, versions; what cannot be read is None."""
    info = _cpu_info()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in info.get("flags", info.get("Features", "")).split()],
        "num_cpus": os.cpu_count(),
        "num_usable_cpus": num_usable_cpus(),
        "cpu_quota": _cpu_quota(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "max_mhz": _megahertz("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"),
        "mhz": float(info["cpu MHz"]) if "cpu MHz" in info else None,
        "memory_bytes": _memory_bytes(),
        "memory_limit_bytes": _limit("/sys/fs/cgroup/memory.max"),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": runtime_version(),
    }


def num_usable_cpus() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idlest_cpus(count: int) -> list[int] | None:
    """Return the processors, of those this process may run on, that idled most over a tenth of a second.

    Two measurements on one machine would otherwise share one processor while another stands idle. None where the system
    does not pin processes or does not tell.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    usable = os.sched_getaffinity(0)
    before = _idle_ticks()
    time.sleep(LOOK_SECONDS)
    after = _idle_ticks()
    idled = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in usable}
    # Among equals the last ones: the first serve most interrupts.
    return sorted(sorted(usable, key=lambda cpu: (idled[cpu], cpu))[-count:])


def load_average() -> float | None:
    """Return how many threads of all programs wanted a processor over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def _cpu_info() -> dict[str, str]:
    text = _text("/proc/cpuinfo") or ""
    first = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}


def _idle_ticks() -> dict[int, int]:
    """Return how long each processor has idled since the machine started, in ticks of the kernel."""
    ticks = {}
    for line in (_text("/proc/stat") or "").splitlines():
        fields = line.split()
        if fields and fields[0].startswith("cpu") and fields[0][3:].isdecimal():
            ticks[int(fields[0][3:])] = int(fields[4]) + int(fields[5])
    return ticks


def _memory_bytes() -> int | None:
    for line in (_text("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _cpu_quota() -> float | None:
    """Return the number of processors that a control group allows, or None without such a limit."""
    fields = (_text("/sys/fs/cgroup/cpu.max") or "max").split()
    return None if fields[0] == "max" else int(fields[0]) / int(fields[1])


def _limit(path: str) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdecimal() else None


def _megahertz(path: str) -> float | None:
    text = _text(path)
    return int(text) / 1000 if text and text.isdecimal() else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
