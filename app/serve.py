"""The whole service on one machine as one process tree: web process, doorbell, housekeeping, workers.

`run` starts the parts, waits until the service is ready, starts again what dies, and stops everything on Ctrl-C or
SIGTERM. Workers are started by name, so that this process and the web process never load the engine.
"""

import contextlib
import fcntl
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Final

import click
import structlog
from pydantic import SecretStr

from app.db.migrate import migrate
from app.errors import ServiceError
from app.logs import configure_logging
from app.process_tree import Part, stop_together
from app.settings import Settings
from app.valkey import Valkey, ValkeyMissing, prepare

_TICK: Final = 0.1  # seconds between two looks at the parts
_READY_SECONDS: Final = 120.0
_PATIENCE: Final = 15.0  # seconds for workers to give their jobs back
_CELERY: Final = (
    "celery",
    "--quiet",
    "-A",
    "workers.celery_app",
    "worker",
    "--pool",
    "prefork",
    "--concurrency",
    "1",
    "--without-mingle",
    "--without-gossip",
    "--without-heartbeat",
)

log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """Something that this process needs is taken or absent; the message says what to do."""


@dataclass(slots=True, kw_only=True)
class Stop:
    """Set by Ctrl-C, SIGTERM or a closed terminal."""

    asked: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        del number, frame
        self.asked = True


@dataclass(slots=True, kw_only=True)
class Tree:
    """The running parts, in the order in which they are stopped."""

    workers: list[Part] = field(default_factory=list)
    services: list[Part] = field(default_factory=list)
    doorbell: Part | None = None

    def look(self) -> None:
        """Start again whatever died."""
        for part in [*self.workers, *self.services, *([self.doorbell] if self.doorbell else [])]:
            part.look()

    def stop(self) -> None:
        """Workers give their jobs back first; the doorbell goes last."""
        stop_together(self.workers, _PATIENCE)
        stop_together(self.services, _PATIENCE)
        if self.doorbell:
            self.doorbell.stop(_PATIENCE)


def run(settings: Settings) -> int:
    """Serve until told to stop and give the exit status: 0 after a clean stop, 2 if it could not start."""
    configure_logging(level=settings.log_level, json=settings.log_json)
    stop, tree = Stop(), Tree()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with _only_one(settings.data_dir), _listening(settings) as listening:
            try:
                _serve(settings, listening, tree, stop)
            finally:
                tree.stop()
    except (CannotStart, ServiceError) as error:
        click.echo(f"Espalier cannot start: {error}", err=True)
        return 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _serve(settings: Settings, listening: socket.socket, tree: Tree, stop: Stop) -> None:
    migrate(settings.resolved_database_url)
    settings = _with_bell(settings, tree, stop)
    environment = environment_of(settings)
    web = ("-m", "app.web_process", str(listening.fileno()))
    tree.services = [
        Part(name="web", command=(sys.executable, *web), environment=environment, files=(listening.fileno(),)),
        Part(name="housekeeping", command=(sys.executable, "-m", "workers.housekeeping"), environment=environment),
    ]
    worker = ("-m", *_CELERY) if settings.redis_url else ("-m", "workers.poll")
    tree.workers = [
        Part(
            name=f"worker-{number}",
            command=(sys.executable, *worker, *_name(settings, number)),
            environment=environment,
        )
        for number in range(1, settings.workers + 1)
    ]
    for part in [*tree.services, *tree.workers]:
        part.start()
    host, port = listening.getsockname()[:2]
    if _wait_until_ready(host, port, tree, stop):
        log.info("service.ready", url=f"http://{host}:{port}", data_dir=str(settings.data_dir))
        click.echo(f"Espalier is ready at http://{host}:{port} (Ctrl-C stops it).", err=True)
    while not stop.asked:
        tree.look()
        time.sleep(_TICK)
    log.info("service.stopping")


def _name(settings: Settings, number: int) -> tuple[str, ...]:
    """A node name of its own for each worker, and the queues that it listens to."""
    if not settings.redis_url:
        return ()
    return ("--hostname", f"worker-{number}@%h")


def environment_of(settings: Settings) -> dict[str, str]:
    """Give the environment in which a part reads these very settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None:
            environment[f"ESPALIER_{name.upper()}"] = _text(value)
    return environment


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():.6f}S"
    if isinstance(value, Path):
        return str(value.resolve())
    return str(value)


def _with_bell(settings: Settings, tree: Tree, stop: Stop) -> Settings:
    """Start the embedded doorbell unless one is configured; without its wheel, workers poll."""
    if settings.redis_url:
        return settings
    try:
        valkey = prepare(settings.data_dir / "valkey")
    except ValkeyMissing as error:
        log.warning("bell.absent", reason=str(error))
        return settings
    tree.doorbell = Part(name="valkey", command=valkey.command, environment=dict(os.environ))
    tree.doorbell.start()
    _wait_for_bell(valkey, tree, stop)
    return settings.model_copy(update={"redis_url": SecretStr(valkey.url)})


def _wait_for_bell(valkey: Valkey, tree: Tree, stop: Stop) -> None:
    until = time.monotonic() + _READY_SECONDS
    while not stop.asked and not valkey.answers():
        if time.monotonic() > until:
            raise CannotStart(f"The embedded Valkey does not answer; its log is beside {valkey.command[1]}.")
        tree.look()
        time.sleep(_TICK)


def _wait_until_ready(host: str, port: int, tree: Tree, stop: Stop) -> bool:
    until = time.monotonic() + _READY_SECONDS
    while not stop.asked:
        if _answers_ready(host, port):
            return True
        if time.monotonic() > until:
            raise CannotStart(f"The service was not ready after {_READY_SECONDS:.0f} s; its log says why.")
        tree.look()
        time.sleep(_TICK)
    return False


def _answers_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=2)  # noqa: S104
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two services on one SQLite file and one store would each sweep the other's work.

    Raises:
        CannotStart: another service holds it; the message names its process.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "serve.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(
                f"{data_dir} is in use by {_holder(file)}. Stop it, or set another ESPALIER_DATA_DIR (--data-dir)."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return f"process {file.read(20).strip() or 'unknown'}"


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Give the listening socket, which outlives every web process.

    Raises:
        CannotStart: the port is taken or may not be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
            listening.listen(2048)
        except OSError as error:
            raise CannotStart(
                f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}). "
                "Choose another ESPALIER_PORT (--port); 0 takes any free one."
            ) from error
        yield listening


if __name__ == "__main__":
    sys.exit(run(Settings()))
