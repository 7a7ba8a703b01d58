"""What this machine offers to an attempt: threads, memory, a device."""

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_SHARE: Final = 0.9  # of the memory that there is; the rest is the service's own


def num_threads(asked: int) -> int:
    """Give how many threads an attempt computes with; 0 means every core that this process may use."""
    return asked or len(os.sched_getaffinity(0))


def memory_limit(asked: int | None, *, cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """Give the bytes that an attempt may use: what is set, else nine tenths of the machine or its container."""
    if asked is not None:
        return asked
    total = int(psutil.virtual_memory().total)
    text = cgroup_limit.read_text().strip() if cgroup_limit.exists() else ""
    return int(_SHARE * (min(total, int(text)) if text.isdigit() else total))


def runtime_version() -> str:
    """Give the version of ONNX Runtime here, without loading it."""
    return version("onnxruntime")


def device() -> str:
    """Give the device that torch will find, without loading it: its driver is there and the build knows it."""
    spec = find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    built_for_cuda = version is not None and version.exists() and "cuda: Optional[str] = '" in version.read_text()
    return "cuda" if built_for_cuda and Path("/dev/nvidiactl").exists() else "cpu"
