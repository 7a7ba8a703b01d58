"""What does it cost to hash and store an upload? POST /v1/models beside a route that only writes the bytes to a file.

Both are served by uvicorn processes of their own and are sent the same bytes in turn, from memory that is mapped from a
file; every upload differs in its first bytes, so nothing is recognised. Resident memory of the service is read while it
works. Targets: at least 0.5 of the raw rate, and at most 16 MiB of growth.

    python benchmarks/upload.py [--megabytes 200] [--rounds 4]
"""

import argparse
import contextlib
import http.client
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fastapi import FastAPI, Request

from benchmarks.polling import started

raw = FastAPI()
PIECE = os.urandom(1024 * 1024)
RATE_TARGET, GROWTH_TARGET = 0.5, 16.0


@raw.post("/raw")
async def raw_route(request: Request) -> dict[str, int]:
    """The least that an upload does: each chunk goes into a file as it comes."""
    size = 0
    with tempfile.TemporaryFile(dir=os.environ["RAW_DIR"]) as file:
        async for chunk in request.stream():
            size += file.write(chunk)
    return {"size": size}


def resident_mebibytes(pid: int) -> float:
    """Resident memory of a process, from /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Watch:
    """The highest resident memory of a process while the block runs."""

    def __init__(self, pid: int) -> None:
        self.pid, self.before, self.highest = pid, resident_mebibytes(pid), 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.highest = max(self.highest, resident_mebibytes(self.pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """How far it rose above what it was when the watch began, in MiB."""
        return max(0.0, self.highest - self.before)


def body(megabytes: int) -> Iterator[bytes]:
    """Bytes that begin as an ONNX file does and were never sent before."""
    yield b"\x08\x07" + os.urandom(1024 * 1024 - 2)
    for _ in range(megabytes - 1):
        yield PIECE


def send(port: int, path: str, megabytes: int, *, form: bool = False) -> float:
    """Upload; gives MiB per second."""
    opening = b'--b\r\nContent-Disposition: form-data; name="file"; filename="n.onnx"\r\n\r\n' if form else b""
    closing = b"\r\n--b--\r\n" if form else b""
    length = megabytes * 1024 * 1024 + len(opening) + len(closing)
    kind = "multipart/form-data; boundary=b" if form else "application/octet-stream"

    def pieces() -> Iterator[bytes]:
        if opening:
            yield opening
        yield from body(megabytes)
        if closing:
            yield closing

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    begun = time.perf_counter()
    connection.request("POST", path, body=pieces(), headers={"Content-Length": str(length), "Content-Type": kind})
    answer = connection.getresponse()
    answer.read()
    taken = time.perf_counter() - begun
    connection.close()
    if answer.status not in {200, 201}:
        raise SystemExit(f"{path} answered {answer.status}")
    return megabytes / taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args()
    root = str(Path(__file__).resolve().parents[1])
    rates: dict[str, list[float]] = {"raw": [], "body": [], "form": []}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        ours = {"ESPALIER_DATA_DIR": name, "PYTHONPATH": root, "ESPALIER_LOG_LEVEL": "WARNING"}
        port, pid = stack.enter_context(started("app.main:from_environment", "--factory", **ours))
        bare, _ = stack.enter_context(started("benchmarks.upload:raw", RAW_DIR=name, PYTHONPATH=root))
        for warm in (False, True):  # one small upload of each kind, so that nothing is imported while memory is watched
            send(port, "/v1/models", 2, form=warm)
        send(bare, "/raw", 2)
        with Watch(pid) as watch:
            for _ in range(chosen.rounds):
                rates["raw"].append(send(bare, "/raw", chosen.megabytes))
                rates["body"].append(send(port, "/v1/models", chosen.megabytes))
                rates["form"].append(send(port, "/v1/models", chosen.megabytes, form=True))
    report(rates, chosen.megabytes, watch.growth)


def report(rates: dict[str, list[float]], megabytes: int, growth: float) -> None:
    medians = {kind: statistics.median(found) for kind, found in rates.items()}
    print(f"{megabytes} MiB, median of {len(rates['raw'])} interleaved rounds")
    print(f"raw: written to a file       {medians['raw']:7.0f} MiB/s")
    for kind, what in (("body", "hashed, stored, durable"), ("form", "the same as a form")):
        print(f"{what:28s} {medians[kind]:7.0f} MiB/s   ratio {medians[kind] / medians['raw']:.2f}")
    print(f"growth of resident memory    {growth:7.1f} MiB")
    fast = medians["body"] / medians["raw"] >= RATE_TARGET
    print(f"targets: ratio at least {RATE_TARGET}: {'met' if fast else 'MISSED'};", end=" ")
    print(f"growth at most {GROWTH_TARGET:.0f} MiB: {'met' if growth <= GROWTH_TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
