"""The agent's side of the wire: requests that outlast a lost network and a restarted server, refusals told apart.

Only httpx and the standard library: the agent runs on boards where every megabyte beside the network counts.
"""

import contextlib
import hashlib
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

Json = dict[str, Any]

_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PATIENCE: Final = 5  # tries of a download before the user is told
_REQUEST_SECONDS: Final = 30.0
_READ_BYTES: Final = 256 * 1024
_DEVICE_PART: Final = slice(5, 31)  # of a token: espd_<device>_<secret>

log = logging.getLogger(__name__)


class Refused(Exception):
    """The service refused a request, and would again; the message is its own."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class Stopped(Exception):
    """The agent was told to stop while it waited."""


class NotDelivered(Exception):
    """A download did not arrive whole; the message says how it failed."""


def device_of(token: str) -> str:
    """Give the id of the device that a token is for."""
    return f"dev_{token[_DEVICE_PART]}"


def answer_of(found: Json, items: Sequence[Json], *, alone: bool) -> Json:
    """Give what the service is told: of a network on its own one measurement or its failure, else all results."""
    digests = {item["name"]: item["sha256"] for item in items}
    results = [one if "failure" in one else {**one, "sha256": digests[one["name"]]} for one in found["results"]]
    if not alone:
        return {"results": {**found, "results": results}}
    (only,) = results
    if "failure" in only:
        return {"failure": only["failure"]}
    own = {key: only.pop(key) for key in ("on_cpu_share", "on_cpu_p50_ms") if key in only}
    rest = {key: value for key, value in found.items() if key not in {"results", "host"}}
    del only["name"]
    return {"report": {**rest, **only, "host": {**found["host"], **own}}}


def _refusal(response: httpx.Response) -> Refused:
    with contextlib.suppress(ValueError, AttributeError):
        found = response.json()
        return Refused(response.status_code, f"{found.get('title')}: {found.get('detail')}")
    return Refused(response.status_code, f"HTTP {response.status_code}: {response.text[:200]!r}")


@dataclass(slots=True, kw_only=True)
class Link:
    """The connection to one service, with one device's token."""

    url: str
    token: str
    stop: threading.Event
    longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": "espalier-agent"}
        self._http = httpx.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=_REQUEST_SECONDS)

    @property
    def home(self) -> str:
        """The path of this device."""
        return f"/v1/devices/{device_of(self.token)}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> Json | None:
        """Send until the service answers, however long it is away; gives the document, or None for an empty answer.

        Raises:
            Refused: the service said no.
            Stopped: the agent was told to stop meanwhile.
        """
        tries = 0
        while True:
            response = self._try(method, path, **options)
            if response is not None and response.is_success:
                document: Json | None = response.json() if response.content else None
                return document
            if response is not None and response.status_code not in _RETRIED:
                raise _refusal(response)
            self._pause(tries, response)
            tries += 1

    def send_once(self, method: str, path: str) -> None:
        """Send, and let it be where there is no network: for what is sent again anyway.

        Raises:
            Refused: the service said no.
        """
        response = self._try(method, path)
        if response is not None and not response.is_success and response.status_code not in _RETRIED:
            raise _refusal(response)

    def _try(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            log.warning("%s gives no answer (%s: %s)", self.url, type(error).__name__, error)
            return None

    def _pause(self, tries: int, response: httpx.Response | None) -> None:
        """Wait before the next try: doubling, with jitter so that many agents do not come back at once."""
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        longest = min(self.longest_pause_seconds, _FIRST_PAUSE_SECONDS * 2 ** min(tries, 10))
        seconds = float(asked) if asked.isdigit() else longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        if self.stop.wait(min(seconds, self.longest_pause_seconds)):
            raise Stopped

    def fetch(self, path: str, target: Path, *, sha256: str, size_bytes: int) -> None:
        """Download a content of known digest and size; what is not exactly that does not stay.

        Raises:
            NotDelivered: it did not arrive whole, several times over.
            Refused: the service said no.
            Stopped: the agent was told to stop meanwhile.
            OSError: there is no room for it.
        """
        why = ""
        for tries in range(_PATIENCE):
            try:
                with self._http.stream("GET", path) as response:
                    if response.is_success:
                        found = _pour(response.iter_bytes(_READ_BYTES), target, size_bytes)
                        if found == sha256:
                            return
                        why = f"what came has SHA-256 {found}, leased was {sha256}"
                    else:
                        response.read()
                        if response.status_code not in _RETRIED:
                            raise _refusal(response)
                        why = str(_refusal(response))
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            target.unlink(missing_ok=True)
            log.warning("The download failed (%s)", why)
            if tries + 1 < _PATIENCE:
                self._pause(tries, None)
        raise NotDelivered(f"The network did not arrive in {_PATIENCE} tries; {why}.")


def _pour(chunks: Iterator[bytes], target: Path, size_bytes: int) -> str:
    """Write the chunks; gives their digest. More bytes than announced are not taken."""
    hasher, taken = hashlib.sha256(), 0
    with target.open("wb") as file:
        for chunk in chunks:
            taken += len(chunk)
            if taken > size_bytes:
                return f"of more than {size_bytes} bytes"
            hasher.update(chunk)
            file.write(chunk)
    return hasher.hexdigest()
