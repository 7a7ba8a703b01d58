"""`espalier agent`: measures networks on the machine it runs on. Pulls its work, so the device needs no open port.

One loop: send what was left unsent, ask for a lease, fetch and verify its network, measure it in a fresh process, send
the answer. Anything may die at any moment: the answer lies in the work folder until the service has it, the service
gives a lease again to the folder that held it, and a lease's answer counts once however often it is sent.

Neither torch nor Celery nor a database; numpy and ONNX Runtime are loaded by the measuring process alone.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from workers.edge_folder import FolderTaken, WorkFolder
from workers.edge_link import Link, NotDelivered, Refused, Stopped, answer_of, device_of

Json = dict[str, Any]

TOKEN_REFUSED: Final = 2  # exit status
CANNOT_WORK: Final = 3
_WAIT_SECONDS: Final = 25
_RENEW_SECONDS: Final = 15.0
_MEASURE_SECONDS: Final = 60.0  # runs go on for this long at most, once there are enough
_MEASURE_SECONDS_OF_ALL: Final = 600.0
_LONGEST_SECONDS: Final = 900.0  # beside the runs of several; whatever takes longer is told as too slow
_ALONE: Final = "network"
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


class Crashed(CannotMeasure):
    """The measuring process died; `at` is the network that it was loading or warming up, None if it was at none."""

    def __init__(self, detail: str, *, at: str | None) -> None:
        self.at = at
        super().__init__("crash", detail)


class LeaseLost(Exception):
    """The service has given the work to somebody else, or nobody wants it any more."""


@dataclass(slots=True, kw_only=True)
class Agent:
    """One device at work."""

    link: Link
    folder: WorkFolder
    threads: int
    provider: str  # of a measurement that does not say: a full or short name, or `best`
    stop: threading.Event
    attributes: Json | None = None

    def run(self, *, once: bool = False) -> None:
        """Work until told to stop; with `once`, until there was nothing to do.

        Raises:
            Refused: the token is not, or no longer, taken.
            CannotMeasure: this machine has no such provider, or no ONNX Runtime.
        """
        described = self._child({"kind": "describe", "provider": self.provider}, lambda: None)
        if "failure" in described:
            raise CannotMeasure(**described["failure"])
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
        alone = {key: lease.get(key) for key in ("sha256", "size_bytes", "content", "external_data")}
        items = lease["items"] or [{"name": _ALONE, **alone}]
        words = "Measuring %s%s: %d threads, batch %d"
        more = f" and {len(items) - 1} more" if lease["items"] else ""
        log.info(words, lease["sha256"][:16], more, lease["threads"], lease["batch"])
        networks = self.folder.path / "networks"
        try:
            self._fetch(items, networks)
            found = self._measure(lease, items, networks)
            self.folder.keep({"lease": lease["id"], **answer_of(found, items, alone=not lease["items"])})
        except CannotMeasure as error:
            log.warning("Not measured (%s): %s", error.reason, error)
            failure = {"reason": error.reason, "detail": str(error)[:4000]}
            self.folder.keep({"lease": lease["id"], "failure": failure})
        except LeaseLost as error:
            log.warning("%s", error)
        finally:
            shutil.rmtree(networks, ignore_errors=True)

    def _fetch(self, items: Sequence[Json], networks: Path) -> None:
        """Download every content once, under its digest; a file of weights is a content too."""
        contents = [part for item in items for part in (item, item.get("external_data")) if part]
        wanted = {part["sha256"]: part for part in contents}
        size = sum(item["size_bytes"] for item in wanted.values())
        free = shutil.disk_usage(self.folder.path).free
        if free < size + _MARGIN_BYTES:
            raise CannotMeasure("storage", f"The device has {free} bytes free; what is leased needs {size}.")
        try:
            networks.mkdir(exist_ok=True)
            for digest, item in wanted.items():
                length = item["size_bytes"]
                self.link.fetch(item["content"], networks / digest, sha256=digest, size_bytes=length)
        except NotDelivered as error:
            raise CannotMeasure("download", str(error)) from error
        except OSError as error:
            raise CannotMeasure("storage", f"The device cannot store what is leased, {size} bytes: {error}") from error
        except Refused as error:
            raise _lost_or(error) from error

    def _measure(self, lease: Json, items: Sequence[Json], networks: Path) -> Json:
        """Have all items timed in turn; one that kills the measuring process is left out, and the rest done again."""
        how = {key: lease[key] for key in ("threads", "batch", "provider", "warmup", "repeats", "profile")}
        how["shapes"] = lease.get("shapes")
        seconds = min(_MEASURE_SECONDS * len(items), _MEASURE_SECONDS_OF_ALL)
        dead: dict[str, Json] = {}
        while True:
            left = [item for item in items if item["name"] not in dead]
            listed = [_listed(item, networks) for item in left]
            order = {"kind": "measure", "items": listed, "seconds": seconds, **how}
            try:
                found = self._child(order, lambda: self._renew(lease), seconds=_LONGEST_SECONDS + seconds)
            except Crashed as error:
                if error.at is None or len(left) == 1:
                    raise
                log.warning("%s killed the measuring process; the others are measured without it", error.at)
                dead[error.at] = {"name": error.at, "failure": {"reason": "crash", "detail": str(error)[:4000]}}
            else:
                found["results"] += dead.values()
                return found

    def _renew(self, lease: Json) -> None:
        try:
            self.link.send_once("POST", f"{self.link.home}/leases/{lease['id']}/renew")
        except Refused as error:
            raise _lost_or(error) from error

    def _child(self, order: Json, renew: Callable[[], None], *, seconds: float = _LONGEST_SECONDS) -> Json:
        """Give what a fresh process answers; how it died is told in its last words."""
        order_file = self.folder.path / "order.json"
        try:
            order_file.write_text(json.dumps(order))
        except OSError as error:
            raise CannotMeasure("storage", f"The device cannot write its order: {error}") from error
        command = [sys.executable, "-m", "workers.edge_agent", "--measure", str(order_file)]
        # The folder, or the bundle, that this very file comes from, before what the board's own runtime may need.
        places = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment) as child:
            try:
                said, cried = self._wait(child, renew, seconds)
            except BaseException:
                child.kill()
                raise
        lines = [json.loads(line) for line in said.splitlines() if line.endswith(b"}")]
        if child.returncode != 0 or not lines or "at" in lines[-1]:
            raise Crashed(_last_words(child.returncode, cried), at=lines[-1].get("at") if lines else None)
        found: Json = lines[-1]
        return found

    def _wait(self, child: "subprocess.Popen[bytes]", renew: Callable[[], None], seconds: float) -> tuple[bytes, bytes]:
        begun = renewed = time.monotonic()
        while True:
            try:
                return child.communicate(timeout=0.25)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if self.stop.is_set():
                    raise Stopped from None
                if now - begun > seconds:
                    words = f"Loading and {seconds:.0f} s of runs did not end; the network is too slow here."
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
            elif "results" in answer:
                self.link.send("POST", f"{self.link.home}/leases/{lease}/results", json=answer["results"])
            else:
                self.link.send("POST", f"{self.link.home}/leases/{lease}/failure", json=answer["failure"])
        except Refused as error:
            if error.status in {401, 403}:
                raise
            log.warning("The answer was not taken: %s", error)
            if "failure" not in answer and error.status != _CONFLICT:
                words = {"reason": "run", "detail": f"The service did not take the measurement: {error}"[:4000]}
                self.folder.keep({"lease": lease, "failure": words})
                self._send_answer()
        self.folder.sent()


def _listed(item: Json, networks: Path) -> Json:
    """Give where a network lies, and the weights that lie in a file of their own."""
    beside = item.get("external_data")
    companion = None if beside is None else str(networks / beside["sha256"])
    return {"name": item["name"], "network": str(networks / item["sha256"]), "companion": companion}


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
    provider = "of a measurement that does not say: a name, short (cuda, tensorrt, openvino, xnnpack) or full, or best"
    parser.add_argument("--provider", default="cpu", help=provider)
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
        agent = Agent(link=link, folder=folder, threads=asked.threads, provider=asked.provider, stop=stop)
        agent.run(once=asked.once)
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
