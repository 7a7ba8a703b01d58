"""A job's question to `dev_local`: put to this host's timing lane by a thread, and recorded as it is answered."""

import hashlib
import threading
from datetime import timedelta
from functools import partial
from typing import Any, Final

import structlog

from app.domain.report import MeasurementReport
from app.domain.target import LOCAL
from app.errors import DatabaseUnavailable, LeaseLost
from app.services.assembly import Services
from app.services.claims import Claimed
from app.storage.blobs import CHUNK_BYTES
from workers.folders import ASKED, JobFolder
from workers.lane import LaneClosed
from workers.local_timer import LocalTimer, Opener
from workers.question import Answer, Away, Question, by_position, refusal

_PATIENCE_SECONDS: Final = 5.0  # for the thread to end its process

log = structlog.get_logger(__name__)


class LocalQuestion:
    """Waits for this host."""

    def __init__(
        self, services: Services, claimed: Claimed, folder: JobFolder, timer: LocalTimer, question: Question
    ) -> None:
        self._services, self._claimed, self._question = services, claimed, question
        self._opened: Opener = partial(folder.opened, ASKED)
        self._stop, self._answers = threading.Event(), list[Answer]()
        self._thread = threading.Thread(target=self._time, args=(timer,), name="timing", daemon=True)
        self._thread.start()

    def look(self) -> Answer | None:
        """Give the answer if the thread has it."""
        return self._answers[0] if self._answers else None

    def waits_for(self) -> str:
        """Say that this host measures, or waits for its turn to."""
        return f"measuring {len(self._question.items)} network(s) on {LOCAL}"

    def away(self, _patience: timedelta, /) -> Away | None:
        """Never: it is this very worker that measures."""
        return None

    def drop(self) -> None:
        """End what is being timed."""
        self._stop.set()
        self._thread.join(_PATIENCE_SECONDS)

    def _time(self, timer: LocalTimer) -> None:
        """Time, record, answer; whatever goes wrong is the answer, since the child waits for one."""
        try:
            found = timer.time(self._name(), self._order(), self._files(), self._opened, stopping=self._stop.is_set)
            self._record(found)
            self._answers.append(self._answer(found))
        except LaneClosed:
            return
        except Exception as error:
            log.exception("timing.stumbled")
            detail = f"This host could not time the networks ({type(error).__name__})."
            self._answers.append(refusal("internal-error", "Something went wrong inside the service", detail))

    def _name(self) -> str:
        return f"{self._claimed.job_id}.{self._question.request[:16]}"

    def _files(self) -> list[str]:
        return [item.file for item in self._question.items]

    def _order(self) -> dict[str, Any]:
        question = self._question
        items = [{"name": str(n), "kind": one.kind, "file": f"{n}.onnx"} for n, one in enumerate(question.items)]
        shapes = {name: list(shape) for name, shape in question.shapes.items()}
        return {"items": items, "threads": question.threads or 1, "batch": question.batch, "shapes": shapes}

    def _record(self, found: Answer) -> None:
        """Keep what was measured; the answer is worth having without, so a database that is away costs the record."""
        measured = found["measurements"]
        reports = [
            MeasurementReport.model_validate(
                {**measured[str(n)], "sha256": self._digest(item.file), "kind": item.kind, "key": item.key}
            )
            for n, item in enumerate(self._question.items)
            if str(n) in measured
        ]
        try:
            self._services.timings.keep(self._claimed.job_id, self._claimed.epoch, reports)
        except (DatabaseUnavailable, LeaseLost) as error:
            log.warning("timing.not_recorded", reason=str(error))

    def _digest(self, file: str) -> str:
        hasher = hashlib.sha256()
        with self._opened(file) as source:
            while chunk := source.read(CHUNK_BYTES):
                hasher.update(chunk)
        return hasher.hexdigest()

    def _answer(self, found: Answer) -> Answer:
        if "failure" in found:
            return refusal("measurement-failed", "The device could not measure the network", found["failure"]["detail"])
        return {name: by_position(self._question, found, section=name) for name in ("measurements", "failures")}
