"""The open questions of one attempt: put to devices or to this host, watched, and answered by a file.

The child stands still until the file is there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from app.domain.target import LOCAL
from app.services.assembly import Services
from app.services.claims import Claimed
from workers.child import ProtocolBroken
from workers.device_question import DeviceQuestion
from workers.folders import JobFolder, NotAPlainFile
from workers.local_question import LocalQuestion
from workers.local_timer import LocalTimer
from workers.protocol import finite
from workers.question import Answer, Away, Open, Question, refusal

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Asking:
    """Takes a child's questions and gives the answers."""

    services: Services
    claimed: Claimed
    folder: JobFolder
    timer: LocalTimer
    devices: Sequence[str]  # that this job may ask
    _open: dict[str, Open] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Put a child's question.

        Raises:
            ProtocolBroken: it is none.
        """
        question = Question.of_event(event, self.devices)
        log.info("question.put", device=question.device, items=len(question.items), request=question.request)
        if question.request not in self._open:
            self._open[question.request] = self._put(question)

    def look(self) -> str | None:
        """Answer what can be answered; gives what the child still waits for, or None.

        Raises:
            ProtocolBroken: the child made something else of the folder of answers.
        """
        for request, one in list(self._open.items()):
            answer = self._look(one)
            if answer is not None:
                self._give(request, answer)
                del self._open[request]
        return next((one.waits_for() for one in self._open.values()), None)

    def away(self) -> Away | None:
        """Give whom the child waits for, if all of them are away for longer than a worker is kept for it."""
        found = [one.away(self.services.settings.device_patience) for one in self._open.values()]
        away = [one for one in found if one is not None]
        if not away or len(away) < len(found):
            return None
        return Away(waits_for="; ".join(one.waits_for for one in away), until=min(one.until for one in away))

    def close(self) -> None:
        """Want no answers any more."""
        for one in self._open.values():
            one.drop()
        self._open.clear()

    def _give(self, request: str, answer: Answer) -> None:
        try:
            self.folder.answer(f"{request}.json", json.dumps(finite(answer)).encode())
        except NotAPlainFile as error:
            raise ProtocolBroken(str(error)) from error

    def _put(self, question: Question) -> Open:
        if question.device == LOCAL:
            return LocalQuestion(self.services, self.claimed, self.folder, self.timer, question)
        return DeviceQuestion(
            services=self.services,
            claimed=self.claimed,
            folder=self.folder,
            question=question,
            wait=_wait(self.claimed.spec) or self.services.settings.device_wait,
            clock=self.timer.clock,
        )

    def _look(self, one: Open) -> Answer | None:
        try:
            return one.look()
        except NotAPlainFile as error:
            log.warning("question.refused", reason=str(error))
            return refusal("internal-error", "Something went wrong inside the service", "The question was unreadable.")


def _wait(spec: Mapping[str, Any]) -> timedelta | None:
    measure = spec.get("measure")
    seconds = measure.get("wait_seconds") if isinstance(measure, Mapping) else None
    return timedelta(seconds=int(seconds)) if seconds else None
