"""The engine's Stopwatch inside an attempt: questions go out as events, answers come back as files.

An answer is kept in the journal under the digest of its question, so that an attempt which replays the work of an
earlier one asks nothing that was answered.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from workers.pruning.errors import DeviceGone, DeviceRefused
from workers.pruning.types import Journal, Json, Measurement, Memo, TimedNetwork

Emit = Callable[[Mapping[str, Json]], None]
_PAUSE_SECONDS: Final = 0.05
_ASKED: Final = "asked"
_ANSWERS: Final = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopwatch:
    """One device, as the service reaches it."""

    device: str
    threads: int | None  # None: the device's own
    batch: int
    rows: Mapping[str, float]  # of its latency table, known before
    folder: Path  # of the attempt
    emit: Emit
    journal: Journal
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def known(self) -> Mapping[str, float]:
        """Give the rows of the latency table that this device timed before, for whichever job."""
        return self.rows

    def time(self, networks: Sequence[TimedNetwork]) -> Mapping[str, Measurement]:
        """Have networks timed in turn; a layer that the device cannot time is left out.

        Raises:
            DeviceGone: the device stayed away for longer than the job waits.
            DeviceRefused: it could not time a network; the message has its runtime's own words.
        """
        if not networks:
            return {}
        digest = self._digest(networks)
        step = f"timed-{digest[:32]}"
        memo = self.journal.recall(step)
        if memo is None:
            memo = Memo(state=self._asked(digest[:32], networks))
            self.journal.record(step, memo)
        return self._read(memo.state, networks)

    def _digest(self, networks: Sequence[TimedNetwork]) -> str:
        shapes = sorted(self._shapes(networks).items())
        listed = [[one.name, one.kind, one.key, hashlib.sha256(one.content).hexdigest()] for one in networks]
        text = json.dumps([self.device, self.threads, self.batch, shapes, listed])
        return hashlib.sha256(text.encode()).hexdigest()

    def _shapes(self, networks: Sequence[TimedNetwork]) -> dict[str, list[int]]:
        """Give the lengths of a network's free axes; layers have none, and inputs whose names mean something else."""
        if all(one.kind == "layer" for one in networks):
            return {}
        return {name: list(shape) for name, shape in self.shapes.items()}

    def _asked(self, request: str, networks: Sequence[TimedNetwork]) -> dict[str, Json]:
        """Put the question, and stand still until the answer is there."""
        place = self.folder / _ASKED
        place.mkdir(exist_ok=True)
        items: list[dict[str, Json]] = []
        for number, one in enumerate(networks):
            file = f"{request}-{number}.onnx"
            (place / file).write_bytes(one.content)
            items.append({"name": one.name, "kind": one.kind, "key": one.key, "file": file})
        self.emit(
            {
                "event": "measure",
                "request": request,
                "device": self.device,
                "items": items,
                "threads": self.threads,
                "batch": self.batch,
                "shapes": self._shapes(networks),
            }
        )
        answer = self._awaited(self.folder / _ANSWERS / f"{request}.json")
        for item in items:
            (place / str(item["file"])).unlink(missing_ok=True)
        problem = answer.get("problem")
        if isinstance(problem, Mapping):
            kind = DeviceGone if problem["code"] == DeviceGone.code else DeviceRefused
            raise kind(str(problem["detail"]), where=self.device)
        return answer

    def _awaited(self, path: Path) -> dict[str, Any]:
        while not path.exists():
            time.sleep(_PAUSE_SECONDS)
        found: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return found

    def _read(self, answer: Mapping[str, Any], networks: Sequence[TimedNetwork]) -> dict[str, Measurement]:
        measured, failures = answer["measurements"], answer["failures"]
        for one in networks:
            if one.kind == "network" and one.name not in measured:
                found = failures.get(one.name, {"reason": "run", "detail": "no reason was given"})
                raise DeviceRefused(
                    f"{self.device} could not {found['reason']} the network {one.name!r}",
                    where=self.device,
                    actual=found["detail"],
                    advice="Choose another device or runtime, or leave it out of the job.",
                )
        return {one.name: _measurement(measured[one.name]) for one in networks if one.name in measured}


def _measurement(fields: Mapping[str, Any]) -> Measurement:
    return Measurement(**{**fields, "samples_ms": tuple(fields["samples_ms"])})
