"""A child process from its start to its end: its lines, its log, its memory, and how it died.

One attempt is one fresh process (exec, not fork, so that no state of torch or CUDA is inherited) in a session of its
own. It must be started from a thread that lives at least as long as the attempt, because the kernel's death signal
follows the thread that started the child, not the process.
"""

import contextlib
import os
import re
import resource
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psutil

from workers.protocol import MAX_LINE_BYTES, PARENT_VARIABLE, PIPE_VARIABLE, parse
from workers.pruning.types import Json

LOG_BYTES: Final = 1024 * 1024
_TAIL_BYTES: Final = 8 * 1024
_CHUNK: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a process ended: an exit status or a signal, and the most memory that was resident."""

    exit_status: int | None
    signal_name: str | None
    peak_rss_bytes: int

    def __str__(self) -> str:
        how = f"signal {self.signal_name}" if self.signal_name else f"exit status {self.exit_status}"
        return f"{how}, peak memory {self.peak_rss_bytes / 2**20:.0f} MiB"

    def record(self) -> dict[str, Json]:
        """Give the same as fields of a problem record."""
        return {"exit_status": self.exit_status, "signal": self.signal_name, "peak_rss_bytes": self.peak_rss_bytes}


class ProtocolBroken(Exception):
    """The child wrote something that is not a line of the protocol."""


@dataclass(slots=True, kw_only=True)
class Child:
    """A running attempt."""

    process: subprocess.Popen[bytes]
    lines: IO[bytes]
    log: IO[bytes]
    log_file: IO[bytes]
    selector: selectors.BaseSelector
    inherited_rss_bytes: int = 0
    death: Death | None = None
    peak_rss_bytes: int = 0
    _unfinished: bytearray = field(default_factory=bytearray)
    _tail: deque[bytes] = field(default_factory=lambda: deque(maxlen=8))
    _logged: int = 0

    @property
    def log_tail(self) -> str:
        """The last few kilobytes that the child printed."""
        return b"".join(self._tail)[-_TAIL_BYTES:].decode(errors="replace")

    def receive(self, timeout: float) -> list[dict[str, Json]]:
        """Wait up to `timeout` seconds and give the events that arrived.

        Raises:
            ProtocolBroken: a line is too long or not an event.
        """
        events: list[dict[str, Json]] = []
        if not self.selector.get_map():
            time.sleep(timeout)
            return events
        for key, _ in self.selector.select(timeout):
            chunk = os.read(key.fd, _CHUNK)
            if not chunk:
                self.selector.unregister(key.fileobj)
            elif key.fileobj is self.log:
                self._keep_log(chunk)
            else:
                events += self._split(chunk)
        return events

    def rest(self, deadline: float = 2.0) -> list[dict[str, Json]]:
        """Give what is still in the pipes of a dead child; a stray descendant does not hold this up."""
        events: list[dict[str, Json]] = []
        until = time.monotonic() + deadline
        while self.selector.get_map() and time.monotonic() < until:
            before = len(events) + self._logged
            events += self.receive(0.05)
            if len(events) + self._logged == before and not self._alive_in_group():
                self.receive(0.0)
        return events

    def ended(self) -> Death | None:
        """Give how the process died, or None while it lives."""
        if self.death is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self._record(status, usage.ru_maxrss * 1024)
        return self.death

    def sample_memory(self) -> int:
        """Give the bytes that the attempt and its descendants have resident now."""
        resident = 0
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                resident += process.memory_info().rss
        self.peak_rss_bytes = max(self.peak_rss_bytes, resident, _own_peak(self.process.pid))
        return resident

    def stand_still(self) -> None:
        """Stop every process of the group where it is."""
        self._signal_group(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a group that stands still go on."""
        self._signal_group(signal.SIGCONT)

    def kill(self, grace: float) -> Death:
        """End the whole group: a request, `grace` seconds, then by force; returns when no process of it is left."""
        family = self._family()
        self._signal_group(signal.SIGTERM)
        self.go_on()  # a process that stands still hears nothing
        until = time.monotonic() + grace
        while self.ended() is None and time.monotonic() < until:
            self.receive_quietly(0.02)
        self._signal_group(signal.SIGKILL)
        escaped = [process for process in family if process.pid != self.process.pid]
        for process in escaped:  # whoever left the group is still known by its number
            with contextlib.suppress(psutil.Error):
                process.kill()
        while self.ended() is None:
            self.receive_quietly(0.01)
        while self._alive_in_group():
            self._signal_group(signal.SIGKILL)
            time.sleep(0.01)
        while any(_is_alive(process) for process in escaped):
            time.sleep(0.01)
        if self.death is None:
            raise AssertionError("a child that ended has a death")
        return self.death

    def receive_quietly(self, timeout: float) -> None:
        """Empty the pipes without looking, so that a child that is told to stop is not stuck on a full one."""
        with contextlib.suppress(ProtocolBroken):
            self.receive(timeout)

    def close(self) -> None:
        """Close the pipes and the log; the process must have ended."""
        self.selector.close()
        for stream in (self.lines, self.log, self.log_file):
            stream.close()

    def _record(self, status: int, max_rss: int) -> None:
        # What the kernel states counts the supervisor's own peak as well, from the moment between fork and exec.
        peak = max_rss if max_rss > self.inherited_rss_bytes or not self.peak_rss_bytes else self.peak_rss_bytes
        code = os.waitstatus_to_exitcode(status)
        self.process.returncode = code
        self.death = Death(
            exit_status=code if code >= 0 else None,
            signal_name=signal.Signals(-code).name if code < 0 else None,
            peak_rss_bytes=max(peak, self.peak_rss_bytes),
        )

    def _family(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []

    def _alive_in_group(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _split(self, chunk: bytes) -> list[dict[str, Json]]:
        self._unfinished += chunk
        if b"\n" not in chunk:
            if len(self._unfinished) > MAX_LINE_BYTES:
                raise ProtocolBroken(f"a line of more than {MAX_LINE_BYTES} bytes")
            return []
        *whole, rest = bytes(self._unfinished).split(b"\n")
        self._unfinished = bytearray(rest)
        try:
            return [parse(line) for line in whole if line.strip()]
        except ValueError as error:
            raise ProtocolBroken(str(error)) from error

    def _keep_log(self, chunk: bytes) -> None:
        self._tail.append(chunk[-_TAIL_BYTES:])
        room = LOG_BYTES - self._logged
        if room > 0:
            with contextlib.suppress(OSError):
                self.log_file.write(chunk[:room])
                self.log_file.flush()
        self._logged += len(chunk)


def _is_alive(process: psutil.Process) -> bool:
    """Say whether a process still runs; one that ended and was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _own_peak(pid: int) -> int:
    """Give the most bytes that a process had resident since its exec; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
    """Start `command` with the folder of its job as last argument; what it prints goes to `attempt.log` there."""
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, str(folder)],
            cwd=folder,
            env={**environment, PIPE_VARIABLE: str(write_end), PARENT_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
        )
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    if process.stdout is None:
        raise AssertionError("standard output was asked to be a pipe")
    lines = os.fdopen(read_end, "rb", buffering=0)
    selector = selectors.DefaultSelector()
    selector.register(lines, selectors.EVENT_READ)
    selector.register(process.stdout, selectors.EVENT_READ)
    log_file = (folder / "attempt.log").open("ab")
    return Child(
        process=process,
        lines=lines,
        log=process.stdout,
        log_file=log_file,
        selector=selector,
        inherited_rss_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
