"""How dear is a poll that has nothing new? Requests per second of GET /v1/jobs/{id} with 304, beside bare FastAPI.

Both are served by uvicorn processes of their own, asked in turn by the same asyncio client over raw sockets (an HTTP
library would be the bottleneck), in the same run; ratios are of medians over the rounds. Target: at least 0.25.

    python benchmarks/polling.py [--database-url postgresql+psycopg://...] [--connections 16] [--seconds 3] [--rounds 5]
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI

bare = FastAPI()
TARGET = 0.25


@bare.get("/bare")
async def bare_route() -> dict[str, str]:
    """The least that FastAPI does."""
    return {"status": "alive"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def started(target: str, *arguments: str, **environment: str) -> Iterator[tuple[int, int]]:
    """Run uvicorn in a process of its own; gives its port and process id."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", target, *arguments, "--port", str(port), "--no-access-log"]
    with subprocess.Popen([*command, "--log-level", "warning"], env={**os.environ, **environment}) as process:
        try:
            wait_for(port)
            yield port, process.pid
        finally:
            process.terminate()


def wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


async def ask(port: int, request: bytes, expected: bytes, until: float) -> list[float]:
    """Send the same request again and again; gives the time of each, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(expected):
            raise SystemExit(f"unexpected answer: {head[:200]!r}")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await reader.readexactly(int(line.split(b":")[1]))
        times.append(time.perf_counter() - begun)
    writer.close()
    return times


async def rate(port: int, request: bytes, expected: bytes, connections: int, seconds: float) -> tuple[float, float]:
    """Requests per second, and the 99th percentile of their times in ms."""
    until = time.perf_counter() + seconds
    found = await asyncio.gather(*(ask(port, request, expected, until) for _ in range(connections)))
    times = sorted(taken for one in found for taken in one)
    return len(times) / seconds, 1000 * times[int(0.99 * (len(times) - 1))]


def submitted(folder: Path, url: str) -> str:
    """A job in the service's database; gives its id."""
    from app.broker import SilentBell
    from app.db.migrate import migrate
    from app.db.session import open_database
    from app.domain.methods import parse_spec
    from app.services.assembly import Services
    from app.services.uploads import Announced
    from app.settings import Settings
    from app.storage.local import LocalStore

    settings = Settings(data_dir=folder, database_url=url, min_free_bytes=0)
    migrate(settings.resolved_database_url)
    store = LocalStore(settings.resolved_store_dir)
    services = Services.of(settings, database=open_database(settings), store=store, bell=SilentBell())
    model = services.uploads.receive_model("default", [os.urandom(100)], Announced(name="net.onnx")).row
    row = services.jobs.submit("default", parse_spec({"model": model.id, "target": "flops=50%"}))
    services.close()
    return row.id


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--database-url", default="")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        job = submitted(Path(name), chosen.database_url)
        settings = {
            "ESPALIER_DATA_DIR": name,
            "ESPALIER_DATABASE_URL": chosen.database_url,
            "PYTHONPATH": root,
            "ESPALIER_LOG_LEVEL": "WARNING",
        }
        ours, _ = stack.enter_context(started("app.main:from_environment", "--factory", **settings))
        theirs, _ = stack.enter_context(started("benchmarks.polling:bare", PYTHONPATH=root))
        poll = f'GET /v1/jobs/{job} HTTP/1.1\r\nHost: x\r\nIf-None-Match: "1"\r\n\r\n'.encode()
        kinds = {
            "bare": (theirs, b"GET /bare HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200"),
            "poll": (ours, poll, b"HTTP/1.1 304"),
            "full": (ours, f"GET /v1/jobs/{job} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b"HTTP/1.1 200"),
        }
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for _ in range(chosen.rounds):
            for kind, (port, request, expected) in kinds.items():
                measured = asyncio.run(rate(port, request, expected, chosen.connections, chosen.seconds))
                found[kind].append(measured)
    report(found, chosen.connections)


def report(found: dict[str, list[tuple[float, float]]], connections: int) -> None:
    rates = {kind: statistics.median(rate for rate, _ in measured) for kind, measured in found.items()}
    slowest = {kind: statistics.median(worst for _, worst in measured) for kind, measured in found.items()}
    print(f"{connections} connections, median of {len(found['bare'])} interleaved rounds")
    print(f"bare FastAPI JSON route     {rates['bare']:8.0f} req/s   p99 {slowest['bare']:6.1f} ms")
    for kind, what in (("poll", "job poll, 304"), ("full", "job, whole (200)")):
        ratio = rates[kind] / rates["bare"]
        print(f"{what:27s} {rates[kind]:8.0f} req/s   p99 {slowest[kind]:6.1f} ms   ratio {ratio:.2f}")
    verdict = "met" if rates["poll"] / rates["bare"] >= TARGET else "MISSED"
    print(f"target: poll at least {TARGET} of bare: {verdict}")


if __name__ == "__main__":
    main()
