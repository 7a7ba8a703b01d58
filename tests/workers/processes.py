"""The service's processes, started as an operator would: workers, housekeeping, brokers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import redis

from app.serve import environment_of
from app.settings import Settings
from app.valkey import Valkey, binary, prepare
from tests.waiting import descendants, running, wait_for

CELERY = (
    "-m", "celery", "--quiet", "-A", "tests.workers.stand_in_celery", "worker", "--pool", "prefork",
    "--concurrency", "1", "--without-mingle", "--without-gossip", "--without-heartbeat",
)  # fmt: skip


@contextmanager
def process(settings: Settings, *arguments: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process with these settings, gone at the end with all its descendants."""
    environment = {**environment_of(settings), "PYTHONPATH": str(Path.cwd())}
    with (log or Path(os.devnull)).open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield started
    finally:
        family = descendants(started.pid)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGCONT)
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        for each in family:
            with suppress(psutil.Error):
                each.kill()


def worker(settings: Settings, **options: Path) -> "contextmanager[subprocess.Popen[bytes]]":
    """A worker of the bell that the settings name, running the stand-in engine."""
    arguments = CELERY if settings.redis_url else ("-m", "tests.workers.stand_in_worker")
    return process(settings, *arguments, **options)


def housekeeping(settings: Settings) -> "contextmanager[subprocess.Popen[bytes]]":
    """The sweeper."""
    return process(settings, "-m", "workers.housekeeping")


def attempts(pid: int | None = None) -> list[psutil.Process]:
    """Living attempts of the stand-in engine, below a process or anywhere."""
    return running("stand_in_engine", descendants(pid) if pid else psutil.process_iter())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def valkey_on_socket(folder: Path) -> Iterator[tuple[Valkey, "subprocess.Popen[bytes]"]]:
    """The embedded doorbell."""
    server = prepare(folder)
    with subprocess.Popen(server.command) as started:
        wait_for(server.answers)
        try:
            yield server, started
        finally:
            started.kill()


@contextmanager
def valkey_on_port(folder: Path) -> Iterator[str]:
    """A broker as an operator runs one: its URL is redis://."""
    port = free_port()
    folder.mkdir()
    command = [str(binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as started:
        try:
            with redis.Redis(port=port) as client:
                wait_for(lambda: _pings(client))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            started.kill()


def _pings(client: redis.Redis) -> bool:
    with suppress(redis.RedisError):
        return bool(client.ping())
    return False
