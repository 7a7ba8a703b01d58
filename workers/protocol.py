"""The lines between a supervisor and its child: one JSON object per line, on a pipe of its own.

Events: `sandbox` {layers}, `progress` {phase, fraction, message, metrics, eta_seconds}, `checkpoint` {step, files},
`warning` {code, message}, `measure` {request, device, items, threads, batch, shapes}, which is answered by a file
`answers/<request>.json` in the attempt's folder, and last either `result` {result} or `problem` {code, title, detail,
..., retryable}.
"""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from workers.pruning.types import Json

PIPE_VARIABLE: Final = "ESPALIER_PIPE"  # number of the file descriptor that takes the lines
PARENT_VARIABLE: Final = "ESPALIER_PARENT"  # process id of the supervisor
MAX_LINE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LineWriter:
    """Writes events as lines; safe to call from several threads."""

    stream: BinaryIO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: Mapping[str, Json]) -> None:
        """Write one event and flush it."""
        line = json.dumps(finite(event), separators=(",", ":")).encode() + b"\n"
        with self.lock:
            self.stream.write(line)
            self.stream.flush()


def finite(value: Json) -> Json:
    """Give the same value with NaN and infinities as null, which is all that JSON and PostgreSQL can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return value


def parse(line: bytes) -> dict[str, Json]:
    """Give the event of a line.

    Raises:
        ValueError: the line is not a JSON object with an `event`.
    """
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError(f"not an event: {line[:80]!r}")  # noqa: TRY004  # the type of what arrived is its value
    return event
