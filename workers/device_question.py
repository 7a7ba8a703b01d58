"""A job's question to a device with an agent: asked once, watched, and given up when the device stays silent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from app.db.tables import MeasurementRow
from app.domain.batch import BatchItem, BatchSpec
from app.domain.device import MAX_BATCH_SAMPLES, RequestState
from app.domain.report import MeasuredKind
from app.errors import DeviceAway, DeviceGone, MeasurementFailed, ServiceError
from app.services.assembly import Services
from app.services.claims import Claimed
from app.services.timings import Asked
from workers.folders import ASKED, JobFolder
from workers.outcome import store_file
from workers.question import FIELDS, Answer, Away, Question, by_position, refusal

_LOOK_SECONDS: Final = 0.5  # between two looks at how far the device is
_REPEATS: Final = {"network": 100, "layer": 50}
_LEAST_REPEATS: Final = 6
_WARMUP: Final = 10
_WHEN: Final = "%Y-%m-%dT%H:%M:%SZ"

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class DeviceQuestion:
    """Waits for one device."""

    services: Services
    claimed: Claimed
    folder: JobFolder
    question: Question
    wait: timedelta
    clock: Callable[[], float]
    _request_id: str | None = None
    _looked: float = float("-inf")
    _since: float = float("inf")  # when this attempt first looked
    _last: Asked | None = None

    def look(self) -> Answer | None:
        """Ask if that is still to be done; give the answer if the device has given it, or the reason why none comes."""
        if self.clock() - self._looked < _LOOK_SECONDS:
            return None
        self._looked = self.clock()
        self._since = min(self._since, self._looked)
        try:
            return self._progress()
        except ServiceError as error:
            if error.retryable:  # the database is away, or the store is full: later
                log.warning("question.delayed", reason=str(error))
                return None
            return refusal(error.code, error.title, str(error))

    def _progress(self) -> Answer | None:
        timings, tenant, device = self.services.timings, self.claimed.tenant, self.question.device
        if self._request_id is None:
            job_id, request = self.claimed.job_id, self.question.request
            self._request_id = timings.ask(tenant, device, self._spec(), job_id=job_id, question=request)
        self._last = asked = timings.look(tenant, device, self._request_id, wait=self.wait)
        if asked.overdue:
            timings.give_up(tenant, device, self._request_id)
            return refusal(DeviceGone.code, DeviceGone.title, self._gone(asked))
        return self._answer(asked) if asked.ended else None

    def _answer(self, asked: Asked) -> Answer:
        measured = {name: _fields(row) for name, row in asked.measured.items()}
        failed = {name: _reason(problem) for name, problem in asked.failed.items()}
        if not measured and not failed:
            problem = asked.problem or {"detail": f"{self.question.device} was told to measure no more."}
            if problem.get("type") == DeviceAway.code:
                return refusal(DeviceGone.code, DeviceGone.title, str(problem["detail"]))
            return refusal(MeasurementFailed.code, MeasurementFailed.title, str(problem["detail"]))
        whole = {"measurements": measured, "failures": failed}
        return {section: by_position(self.question, whole, section=section) for section in whole}

    def _spec(self) -> BatchSpec:
        """Put the files into the store, where the device may fetch them, and say how they are to be timed."""
        question, items = self.question, []
        for number, item in enumerate(question.items):
            blob = store_file(self.services.store, self.folder, ASKED, item.file)
            kind = MeasuredKind(item.kind)
            items.append(
                BatchItem(name=str(number), kind=kind, key=item.key, sha256=blob.digest, size_bytes=blob.size_bytes)
            )
        repeats = min(_REPEATS[item.kind] for item in question.items)
        return BatchSpec(
            items=tuple(items),
            threads=question.threads,
            batch=question.batch,
            shapes={name: tuple(shape) for name, shape in question.shapes.items()} or None,
            warmup=_WARMUP,
            repeats=max(_LEAST_REPEATS, min(repeats, MAX_BATCH_SAMPLES // len(items))),
        )

    def waits_for(self) -> str:
        """Say for whom, when it was heard of, and how long it is waited for."""
        device, asked = self.question.device, self._last
        if asked is None:
            return f"waiting for {device}"
        heard = "never seen" if asked.seen_at is None else f"last seen {_seconds(asked.now - asked.seen_at)} ago"
        if asked.state is RequestState.LEASED:
            return f"measuring {len(self.question.items)} network(s) on {device}: {heard}"
        return f"waiting for {device}: {heard}; gives up at {asked.gives_up_at:{_WHEN}}"

    def away(self, patience: timedelta, /) -> Away | None:
        """Give the device and its limit once it has let this worker wait; one that measures just now is waited for."""
        asked = self._last
        if asked is None or asked.ended or self.clock() - self._since < patience.total_seconds():
            return None
        silent = asked.seen_at is None or asked.now - asked.seen_at >= patience
        if asked.state is RequestState.LEASED and not silent:
            return None
        heard = "never seen" if asked.seen_at is None else f"last seen at {asked.seen_at:{_WHEN}}"
        words = f"waiting for {self.question.device}: {heard}; gives up at {asked.gives_up_at:{_WHEN}}"
        return Away(waits_for=words, until=asked.gives_up_at)

    def drop(self) -> None:
        """Leave the request where it is: it is the next attempt's, or is cancelled with the job."""

    def _gone(self, asked: Asked) -> str:
        heard = "never called" if asked.seen_at is None else f"was last heard of at {asked.seen_at:{_WHEN}}"
        return (
            f"{self.question.device} {heard}; the job waited {_seconds(self.wait)} for it. Start its agent and submit "
            "again, or let the job wait longer with measure.wait_seconds."
        )


def _fields(row: MeasurementRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in FIELDS}


def _reason(problem: Mapping[str, object]) -> dict[str, object]:
    return {"reason": problem.get("reason", "run"), "detail": problem.get("detail", "")}


def _seconds(span: timedelta) -> str:
    return f"{max(0, round(span.total_seconds()))} s"
