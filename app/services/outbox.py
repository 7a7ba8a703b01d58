"""Doorbells: written in the same transaction as their cause, rung after it, rung again by the sweeper.

Losing a bell costs time, never a job: workers find queued jobs by looking, and a queue whose jobs wait too long is rung
again whether or not an earlier ring was delivered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.broker import Bell
from app.db import jobs as job_queries
from app.db import outbox as queries
from app.db.session import Clock, Database
from app.db.tables import OutboxRow
from app.settings import Settings

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_LONGEST_PAUSE: Final = timedelta(seconds=60)
_STALE_AFTER: Final = 5  # unanswered intervals after which a waiting queue is rung again


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """Rings the bell for what was committed."""

    database: Database
    bell: Bell
    settings: Settings
    clock: Clock

    def pending(self, *, limit: int = 100) -> Sequence[OutboxRow]:
        """Give the messages that are overdue."""
        with self.database.read_only() as session:
            return queries.due(session, self.clock(session), limit=limit)

    def sent(self, messages: Sequence[OutboxRow]) -> None:
        """Forget messages that were rung."""
        if messages:
            with self.database.unit_of_work() as session:
                queries.remove(session, [message.id for message in messages])

    def deliver(self, messages: Sequence[OutboxRow]) -> bool:
        """Ring for messages that were just committed; what fails stays for the sweeper. Says whether all were rung."""
        rung = {queue for queue in {message.queue for message in messages} if self.bell.ring(queue)}
        self.sent([message for message in messages if message.queue in rung])
        return all(message.queue in rung for message in messages)

    def resend(self) -> int:
        """Ring for overdue messages and for queues whose jobs nobody fetches; gives the number of messages rung."""
        messages = self.pending()
        rung = {queue: self.bell.ring(queue) for queue in sorted({message.queue for message in messages})}
        self.sent([message for message in messages if rung[message.queue]])
        failed = [message for message in messages if not rung[message.queue]]
        if failed:
            self._postpone(failed)
        for queue in self._stale():
            if queue not in rung:
                self.bell.ring(queue)
        count = len(messages) - len(failed)
        if messages:
            _log.info("outbox.resent", rung=count, failed=len(failed))
        return count

    def _postpone(self, messages: Sequence[OutboxRow]) -> None:
        with self.database.unit_of_work() as session:
            now = self.clock(session)
            for message in messages:
                queries.postpone(session, [message.id], now + self._pause(message.attempts))

    def _pause(self, attempts: int) -> timedelta:
        return min(_LONGEST_PAUSE, self.settings.outbox_seconds * float(2 ** min(attempts, 10)))

    def _stale(self) -> Sequence[str]:
        with self.database.read_only() as session:
            now: datetime = self.clock(session)
            return job_queries.waiting_queues(session, due_before=now - _STALE_AFTER * self.settings.outbox_seconds)
