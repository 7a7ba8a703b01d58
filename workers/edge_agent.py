"""`espalier agent`: measures networks on the machine it runs on. Pulls its work, so the device needs no open port.

One loop: send what was left unsent, ask for a lease, fetch and verify its network, measure it in a fresh process, send
the answer. Anything may die at any moment: the answer lies in the work folder until the service has it, the service
gives a lease again to the folder that held it, and a lease's answer counts once however often it is sent.

Neither torch nor Celery nor a database; numpy and ONNX Runtime are loaded by the measuring process alone.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from workers.edge_link import Link, NotDelivered, Refused, Stopped, device_of

Json = dict[str, Any]

TOKEN_REFUSED: Final = 2  # exit status
CANNOT_WORK: Final = 3
_WAIT_SECONDS: Final = 25
_RENEW_SECONDS: Final = 15.0
_MEASURE_SECONDS: Final = 60.0  # runs go on for this long at most, once there are enough
_LONGEST_SECONDS: Final = 900.0  # loading and measuring together; whatever takes longer is told as too slow
_MARGIN_BYTES: Final = 1024 * 1024
_SAID_CHARACTERS: Final = 3000
_CONFLICT: Final = 409
_UNAUTHORISED: Final = frozenset({401, 403, 404})  # the token is wrong, revoked, or of another service

log = logging.getLogger("espalier.agent")


class CannotMeasure(Exception):
    """The network cannot be measured here; the reason and the words that the user is told."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class LeaseLost(Exception):
    """The service has given the work to somebody else, or nobody wants it any more."""


class FolderTaken(Exception):
    """Another agent works in this folder."""


@dataclass(slots=True, kw_only=True)
class WorkFolder:
    """What outlives the agent: who it is, and an answer that was not sent. A full disk costs that, and nothing else."""

    path: Path
    agent: str = field(default_factory=lambda: secrets.token_hex(16))
    _lock: IO[str] | None = None
    _held: Json | None = None

    def open(self) -> None:
        """Take the folder for this process.

        Raises:
            FolderTaken: another agent has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderTaken(f"Another agent works in {self.path}; give this one its own --work-dir.") from error
        name = self.path / "agent"
        with contextlib.suppress(OSError):
            if name.exists() and (known := name.read_text().strip()).isalnum():
                self.agent = known
            else:
                name.write_text(self.agent)

    def keep(self, answer: Json) -> None:
        """Keep an answer until it is sent: on disk, or in memory where the disk is full."""
        self._held = answer
        part = self.path / "answer.part"
        try:
            with part.open("w") as file:
                json.dump(answer, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path / "answer.json")
        except OSError as error:
            log.warning("The answer is kept in memory only: %s", error)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def unsent(self) -> Json | None:
        """Give the answer that waits to be sent, or None."""
        if self._held is None:
            with contextlib.suppress(OSError, ValueError):
                self._held = json.loads((self.path / "answer.json").read_text())
        return self._held

    def sent(self) -> None:
        """Forget the answer: the service has it."""
        self._held = None
        (self.path / "answer.json").unlink(missing_ok=True)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One device at work."""

    link: Link
    folder: WorkFolder
    threads: int
    stop: threading.Event
    attributes: Json | None = None

    def run(self, *, once: bool = False) -> None:
        """Work until told to stop; with `once`, until there was nothing to do.

        Raises:
            Refused: the token is not, or no longer, taken.
        """
        described = self._child({"kind": "describe"}, lambda: None)
        self.attributes = {**described, "threads": self.threads}
        while not self.stop.is_set():
            self._send_answer()
            lease = self._poll(0 if once else _WAIT_SECONDS)
            if lease is not None:
                self._serve(lease)
            elif once:
                return

    def _poll(self, wait: float) -> Json | None:
        body = {"agent": self.folder.agent, "attributes": self.attributes}
        seconds = wait + _WAIT_SECONDS
        return self.link.send("POST", f"{self.link.home}/leases", params={"wait": wait}, json=body, timeout=seconds)

    def _serve(self, lease: Json) -> None:
        """Measure what is leased, and keep the answer, whichever it is."""
        log.info("Measuring %s: %d threads, batch %d", lease["sha256"][:16], lease["threads"], lease["batch"])
        network = self.folder.path / "network.onnx"
        try:
            self._fetch(lease, network)
            found = self._measure(lease, network)
            self.folder.keep({"lease": lease["id"], "report": {**found, "sha256": lease["sha256"]}})
        except CannotMeasure as error:
            log.warning("Not measured (%s): %s", error.reason, error)
            failure = {"reason": error.reason, "detail": str(error)[:4000]}
            self.folder.keep({"lease": lease["id"], "failure": failure})
        except LeaseLost as error:
            log.warning("%s", error)
        finally:
            with contextlib.suppress(OSError):
                network.unlink(missing_ok=True)

    def _fetch(self, lease: Json, network: Path) -> None:
        size = lease["size_bytes"]
        free = shutil.disk_usage(self.folder.path).free
        if free < size + _MARGIN_BYTES:
            raise CannotMeasure("storage", f"The device has {free} bytes free; the network needs {size}.")
        try:
            self.link.fetch(lease["content"], network, sha256=lease["sha256"], size_bytes=size)
        except NotDelivered as error:
            raise CannotMeasure("download", str(error)) from error
        except OSError as error:
            raise CannotMeasure("storage", f"The device cannot store the network's {size} bytes: {error}") from error
        except Refused as error:
            raise _lost_or(error) from error

    def _measure(self, lease: Json, network: Path) -> Json:
        wanted = {key: lease[key] for key in ("threads", "batch", "provider", "warmup", "repeats")}
        order = {"kind": "measure", "network": str(network), "seconds": _MEASURE_SECONDS, **wanted}
        found = self._child(order, lambda: self._renew(lease))
        if "failure" in found:
            raise CannotMeasure(**found["failure"])
        return found

    def _renew(self, lease: Json) -> None:
        try:
            self.link.send_once("POST", f"{self.link.home}/leases/{lease['id']}/renew")
        except Refused as error:
            raise _lost_or(error) from error

    def _child(self, order: Json, renew: Callable[[], None]) -> Json:
        """Give what a fresh process answers; how it died is told in its last words."""
        order_file = self.folder.path / "order.json"
        try:
            order_file.write_text(json.dumps(order))
        except OSError as error:
            raise CannotMeasure("storage", f"The device cannot write its order: {error}") from error
        command = [sys.executable, "-m", "workers.edge_agent", "--measure", str(order_file)]
        # The folder, or the bundle, that this very file comes from.
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment) as child:
            try:
                said, cried = self._wait(child, renew)
            except BaseException:
                child.kill()
                raise
        if child.returncode != 0 or not said.strip():
            raise CannotMeasure("crash", _last_words(child.returncode, cried))
        found: Json = json.loads(said)
        return found

    def _wait(self, child: "subprocess.Popen[bytes]", renew: Callable[[], None]) -> tuple[bytes, bytes]:
        begun = renewed = time.monotonic()
        while True:
            try:
                return child.communicate(timeout=0.25)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if self.stop.is_set():
                    raise Stopped from None
                if now - begun > _LONGEST_SECONDS:
                    words = f"Loading and {_LONGEST_SECONDS:.0f} s of runs did not end; the network is too slow here."
                    raise CannotMeasure("timeout", words) from None
            if now - renewed >= _RENEW_SECONDS:
                renew()
                renewed = now

    def _send_answer(self) -> None:
        """Send what is kept; what the service does not take as a measurement is told as a failure."""
        answer = self.folder.unsent()
        if answer is None:
            return
        lease = answer["lease"]
        try:
            if "report" in answer:
                self.link.send("POST", "/v1/measurements", json={"lease": lease, **answer["report"]})
            else:
                self.link.send("POST", f"{self.link.home}/leases/{lease}/failure", json=answer["failure"])
        except Refused as error:
            if error.status in {401, 403}:
                raise
            log.warning("The answer was not taken: %s", error)
            if "report" in answer and error.status != _CONFLICT:
                words = {"reason": "run", "detail": f"The service did not take the measurement: {error}"[:4000]}
                self.folder.keep({"lease": lease, "failure": words})
                self._send_answer()
        self.folder.sent()


def _lost_or(error: Refused) -> Exception:
    return error if error.status in _UNAUTHORISED else LeaseLost(str(error))


def _last_words(status: int, cried: bytes) -> str:
    """How a process ended, and what it said."""
    how = f"status {status}"
    if status < 0:
        how = f"signal {-status}"
        with contextlib.suppress(ValueError):
            how = signal.Signals(-status).name
    hint = " (the system may have been out of memory)" if status == -signal.SIGKILL else ""
    said = cried.decode(errors="replace").strip()[-_SAID_CHARACTERS:] or "nothing"
    return f"The measuring process ended with {how}{hint}. It said: {said}"


def _default_folder(token: str) -> Path:
    return Path.home() / ".cache" / "espalier-agent" / device_of(token) / sha256(token.encode()).hexdigest()[:8]


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="espalier agent", description="Measure networks on this machine.")
    parser.add_argument("--url", default=os.environ.get("ESPALIER_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--token", default=os.environ.get("ESPALIER_DEVICE_TOKEN"), help="or ESPALIER_DEVICE_TOKEN")
    parser.add_argument("--threads", type=int, default=1, help="of a measurement that does not say")
    parser.add_argument("--work-dir", type=Path, help="default: in ~/.cache/espalier-agent")
    parser.add_argument("--once", action="store_true", help="end when there is nothing more to do")
    parser.add_argument("--measure", metavar="ORDER", help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    if not found.measure and not found.token:
        parser.error("a token is needed: --token or ESPALIER_DEVICE_TOKEN")
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run the agent, or the measuring process that it starts."""
    asked = _arguments(sys.argv[1:] if given is None else given)
    if asked.measure:
        from workers.edge_measure import main as measure  # noqa: PLC0415  # numpy and ONNX Runtime, in the child only

        return measure(asked.measure)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()

    def ask_to_stop(*_: object) -> None:
        """End at once, out of a long poll too: whatever is cut short is as safe as if it had been killed."""
        stop.set()
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    folder = WorkFolder(path=asked.work_dir or _default_folder(asked.token))
    link = Link(url=asked.url, token=asked.token, stop=stop)
    try:
        folder.open()
        Agent(link=link, folder=folder, threads=asked.threads, stop=stop).run(once=asked.once)
    except Stopped:
        log.info("Stopped")
    except Refused as error:
        log.error("The service refuses this device: %s", error)  # noqa: TRY400 - its words are all there is to say
        return TOKEN_REFUSED
    except (FolderTaken, CannotMeasure) as error:
        log.error("%s", error)  # noqa: TRY400
        return CANNOT_WORK
    finally:
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
