"""What an attempt may use: memory, time, files, no network. Every layer says whether it is active, and why not.

The child calls `enter` on itself before torch is imported, because limits and namespaces are inherited by the threads
that come later, and because a process with one thread may still enter a user namespace. No layer degrades silently:
`enter` returns the state of each, the supervisor records it with the job, and a layer named in `Limits.required` that
is not active refuses the attempt.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers import landlock

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
ACTIVE: Final = "active"
_READABLE: Final = (
    "/usr", "/lib", "/lib64", "/bin", "/opt", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/sys", "/dev/urandom", "/dev/random", "/dev/zero",
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types",
)  # fmt: skip
_ENVIRONMENT: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one attempt may use; None leaves that resource unlimited."""

    memory_bytes: int | None
    cpu_seconds: int | None
    file_bytes: int | None
    open_files: int | None
    device: str = "cpu"  # with "cuda" the address space stays unlimited: the driver reserves far more than it uses
    nice: int = 2  # behind the web process, hardly behind other programs
    required: tuple[str, ...] = ()  # names of layers without which the attempt is refused


class LayerUnavailable(OSError):
    """A layer cannot be entered on this machine; the message is the reason that is recorded."""


class SandboxIncomplete(Exception):
    """A required layer is not active, so nothing of the upload was touched."""


def child_environment(source: Mapping[str, str], *, scratch: Path, num_threads: int) -> dict[str, str]:
    """Give the environment of a child: an allow-list, a private home and temporary folder, fixed thread counts.

    Credentials of the service (database, broker, keys) are in its environment, so nothing is passed on by default.

    Threads that wait sleep rather than spin: with 8 busy programs on 2 cores, a training step of a small network took
    690 ms spinning, 54 to 120 ms sleeping and 50 to 79 ms with one thread.
    """
    threads = str(num_threads)
    fixed = {
        "HOME": str(scratch), "TMPDIR": str(scratch), "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE",
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }  # fmt: skip
    return {name: source[name] for name in _ENVIRONMENT if name in source} | fixed


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` (the thread that started it) ends.

    Raises:
        LayerUnavailable: the parent ended before this call took effect.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise LayerUnavailable(0, f"the parent {parent} is gone already")


def enter(limits: Limits, *, read: Sequence[Path], write: Sequence[Path]) -> dict[str, str]:
    """Apply every layer to this process and give their states, `active...` or `unavailable: reason`.

    `read` and `write` are the trees of this attempt; Python's own are added. Order matters: namespaces need rights that
    no_new_privs and Landlock take away.

    Raises:
        SandboxIncomplete: a layer in `limits.required` is not active, or is not the name of a layer.
    """
    layers: tuple[tuple[str, Callable[[], str]], ...] = (
        ("network", _no_network),
        ("first_oom_victim", _first_oom_victim),
        ("no_new_privileges", _no_new_privileges),
        ("filesystem", lambda: _only_files(limits, read, write)),
        ("memory", lambda: _memory(limits)),
        ("cpu_time", lambda: _limit(resource.RLIMIT_CPU, limits.cpu_seconds, "CPU seconds")),
        ("file_size", lambda: _limit(resource.RLIMIT_FSIZE, limits.file_bytes, "bytes per file")),
        ("open_files", lambda: _limit(resource.RLIMIT_NOFILE, limits.open_files, "open files")),
        ("no_core_dump", lambda: _limit(resource.RLIMIT_CORE, 0, "bytes")),
        ("processes", _processes),
        ("nice", lambda: f"{ACTIVE}: {os.nice(limits.nice)}"),
    )
    states = {name: _state(layer) for name, layer in layers}
    missing = [name for name in limits.required if not states.get(name, "no such layer").startswith(ACTIVE)]
    if missing:
        reasons = "; ".join(f"{name}: {states.get(name, 'no such layer')}" for name in missing)
        raise SandboxIncomplete(f"Required sandbox layers are not active: {reasons}.")
    return states


def _state(layer: Callable[[], str]) -> str:
    try:
        return layer()
    except (OSError, ValueError) as error:
        return f"unavailable: {error.strerror if isinstance(error, OSError) and error.strerror else error}"


def _prctl(option: int, argument: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        raise LayerUnavailable(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise LayerUnavailable(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _no_network() -> str:
    """Move into an empty network namespace; without the right to, into a user namespace that grants it."""
    with contextlib.suppress(LayerUnavailable):
        _unshare(_CLONE_NEWNET)
        return f"{ACTIVE}: own network namespace"
    uid, gid = os.getuid(), os.getgid()
    _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    try:
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(content)
    except PermissionError:  # files are judged by the ids outside, so only the names of owners are lost
        return f"{ACTIVE}: own user and network namespace, ids not mapped"
    return f"{ACTIVE}: own user and network namespace"


def _first_oom_victim() -> str:
    Path("/proc/self/oom_score_adj").write_text("800")
    return ACTIVE


def _no_new_privileges() -> str:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return ACTIVE


def _only_files(limits: Limits, read: Sequence[Path], write: Sequence[Path]) -> str:
    python = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        sys.base_exec_prefix,
        str(Path(sys.executable).resolve().parent),
    }
    # Of /proc only this process: the environment of the supervisor, with the service's credentials, is a file there.
    own = f"/proc/{os.getpid()}"
    readable = [Path(path) for path in (*_READABLE, *sorted(python), own, str(Path(__file__).resolve().parent))]
    writable = [*write, Path("/dev/null")]
    if limits.device != "cpu":  # the driver names its threads in /proc and talks to its devices
        writable += [Path(own), *Path("/dev").glob("nvidia*"), Path("/proc/driver/nvidia"), Path("/proc/devices")]
    return f"{ACTIVE}: Landlock ABI {landlock.restrict(landlock.Paths(read=[*readable, *read], write=writable))}"


def _memory(limits: Limits) -> str:
    if limits.device != "cpu":
        raise LayerUnavailable(
            0, "the address space cannot be limited with a GPU; the supervisor watches resident memory"
        )
    return _limit(resource.RLIMIT_AS, limits.memory_bytes, "bytes of address space")


def _limit(kind: int, value: int | None, unit: str) -> str:
    """Lower a resource limit; one that is already lower stays."""
    if value is None:
        raise LayerUnavailable(0, "no limit is set")
    _, hard = resource.getrlimit(kind)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))
    return f"{ACTIVE}: {bound} {unit}"


def _processes() -> str:
    """Say why the number of processes is not limited: the kernel counts per user, and the user is shared."""
    raise LayerUnavailable(
        0, "counted per user, and this user runs other processes too; the whole group is killed instead"
    )
