"""POSTs that may be sent again: the first one does the work, its repetitions get the same answer.

Source: the Idempotency-Key header draft (draft-ietf-httpapi-idempotency-key-header-07): 409 while the first request
runs, 422 for the same key with another payload. Answers of failed requests are not kept, so a failure can be retried.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db import idempotency as queries
from app.db.session import Clock, Database
from app.db.tables import IdempotencyRow
from app.errors import IdempotencyConflict, IdempotencyMismatch, ValidationFailed
from app.ids import new_id
from app.settings import Settings

MAX_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """The right of one request to do the work of a key."""

    tenant: str
    key: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the first request answered. Without a status, it made `resource_id` but its answer was lost."""

    resource_id: str | None
    status: int | None
    headers: dict[str, str]
    body: str | None


def fingerprint(*parts: bytes | str) -> str:
    """Give what identifies a request: method, path and payload, or the payload's digest where it is large."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "big"))  # so that no two lists of parts look alike
        hasher.update(data)
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Remembers keys for as long as the settings say."""

    database: Database
    settings: Settings
    clock: Clock

    def begin(self, tenant: str, key: str, request: str) -> Ticket | Replay:
        """Give a ticket to whoever comes first, and the first one's answer to everybody after it.

        `request` is the fingerprint. Finish the ticket with complete() or abandon().

        Raises:
            ValidationFailed: the key is empty or too long.
            IdempotencyConflict: the first request still runs.
            IdempotencyMismatch: the key was used for another request.
        """
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            detail = f"The idempotency key has {len(key)} characters; allowed are 1 to {MAX_KEY_LENGTH}."
            raise ValidationFailed(detail)
        with self.database.unit_of_work() as session:
            now = self.clock(session)
            owner = new_id("req")
            queries.forget(session, tenant, key, expired_at=now)
            fresh = IdempotencyRow(
                tenant=tenant,
                key=key,
                fingerprint=request,
                owner=owner,
                locked_until=now + self.settings.idempotency_lock,
                expires_at=now + self.settings.idempotency_ttl,
                created_at=now,
            )
            if queries.insert_if_new(session, fresh):
                return Ticket(tenant=tenant, key=key, owner=owner)
            row = queries.find_locked(session, tenant, key)
            if row is None:
                raise _conflict(key)  # it was given up between the two statements; the client tries again
            if row.fingerprint != request:
                detail = f"The idempotency key {key!r} was used for a different request."
                raise IdempotencyMismatch(detail, advice="Use a new key for a new request.")
            if row.status is not None or row.resource_id is not None:
                return _replay(row)
            if row.locked_until > now:
                raise _conflict(key)
            row.owner, row.locked_until = owner, now + self.settings.idempotency_lock
            return Ticket(tenant=tenant, key=key, owner=owner)

    def complete(self, ticket: Ticket, *, status: int, headers: dict[str, str], body: str, resource_id: str) -> None:
        """Keep a 2xx answer for repetitions; nothing happens where the ticket has passed to another request."""
        with self.database.unit_of_work() as session:
            row = queries.find_locked(session, ticket.tenant, ticket.key)
            if row is not None and row.owner == ticket.owner:
                row.status, row.headers, row.body, row.resource_id = status, dict(headers), body, resource_id

    def abandon(self, ticket: Ticket) -> None:
        """Give the key back after a failure, unless the request already made something."""
        with self.database.unit_of_work() as session:
            row = queries.find_locked(session, ticket.tenant, ticket.key)
            if row is not None and row.owner == ticket.owner and row.resource_id is None and row.status is None:
                session.delete(row)

    def purge(self) -> int:
        """Forget expired keys; gives how many."""
        with self.database.unit_of_work() as session:
            return queries.purge(session, self.clock(session))


def bind(session: Session, ticket: Ticket, resource_id: str) -> None:
    """Note, in the transaction that makes it, what a request made: so a crash before the answer makes nothing twice.

    Raises:
        IdempotencyConflict: the ticket has passed to another request; the transaction must not be committed.
    """
    row = queries.find_locked(session, ticket.tenant, ticket.key)
    if row is None or row.owner != ticket.owner:
        raise _conflict(ticket.key)
    row.resource_id = resource_id


def _conflict(key: str) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"The first request with the idempotency key {key!r} is still running.", advice="Send it again shortly."
    )


def _replay(row: IdempotencyRow) -> Replay:
    headers = {name: str(value) for name, value in (row.headers or {}).items()}
    return Replay(resource_id=row.resource_id, status=row.status, headers=headers, body=row.body)
