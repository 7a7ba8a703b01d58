"""What a job's child asks of a device, and the form of the answer. What a child wrote is read with suspicion."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from app.domain.batch import MAX_ITEMS
from workers.child import ProtocolBroken

Answer = dict[str, Any]  # `measurements` and `failures` by name, or a `problem`
FIELDS: Final = (
    "samples_ms", "p50_ms", "p90_ms", "p99_ms", "mean_ms", "load_ms", "warmup", "batch", "threads", "runtime",
    "runtime_version", "provider", "host", "peak_rss_bytes",
)  # fmt: skip
_REQUEST: Final = re.compile(r"[0-9a-f]{8,64}")
_KINDS: Final = frozenset({"network", "layer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One network that is to be timed, as a file in the child's folder of questions."""

    name: str
    kind: str
    key: str | None
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a child wants timed, on which device, and how."""

    request: str  # a digest of all of it
    device: str
    items: tuple[Item, ...]
    threads: int | None  # None: the device's own
    batch: int
    shapes: Mapping[str, Sequence[int]]

    @classmethod
    def of_event(cls, event: Mapping[str, Any], devices: Sequence[str]) -> "Question":
        """Read a child's event.

        Raises:
            ProtocolBroken: it is not a question, or not about a device of this job.
        """
        try:
            found = cls(
                request=str(event["request"]),
                device=str(event["device"]),
                items=tuple(_item(item) for item in event["items"]),
                threads=None if event["threads"] is None else int(event["threads"]),
                batch=int(event["batch"]),
                shapes={str(name): [int(n) for n in shape] for name, shape in event["shapes"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolBroken(f"a question that cannot be read ({type(error).__name__})") from error
        known = _REQUEST.fullmatch(found.request) and found.device in devices
        if not known or not 0 < len(found.items) <= MAX_ITEMS or (found.threads or 1) < 1 or found.batch < 1:
            raise ProtocolBroken("a question that is not this job's to ask")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """Whom a child waits for that will not answer soon, and until when it is waited for."""

    waits_for: str
    until: datetime


class Open(Protocol):
    """A question that waits for its answer."""

    def look(self) -> Answer | None:
        """Give the answer if it is there."""

    def waits_for(self) -> str:
        """Say what is waited for, as a user reads it."""

    def away(self, patience: timedelta, /) -> Away | None:
        """Give whom a worker need not wait for any longer, after this much patience; None where it is to go on."""

    def drop(self) -> None:
        """Want no answer any more."""


def by_position(question: Question, answered: Mapping[str, Any], *, section: str) -> dict[str, Any]:
    """Give what was answered by the names of the child; on the way items are called by their position."""
    found = answered.get(section) or {}
    return {item.name: found[str(n)] for n, item in enumerate(question.items) if str(n) in found}


def refusal(code: str, title: str, detail: str) -> Answer:
    """Give the answer that there is none."""
    return {"problem": {"code": code, "title": title, "detail": detail}}


def _item(given: Mapping[str, Any]) -> Item:
    kind, key = str(given["kind"]), given.get("key")
    if kind not in _KINDS:
        raise ValueError(kind)
    return Item(name=str(given["name"]), kind=kind, key=None if key is None else str(key), file=str(given["file"]))
