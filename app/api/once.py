"""Creating requests with an Idempotency-Key: done once, answered as often as asked."""

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.deps import Parts
from app.services.idempotency import Replay, Ticket, fingerprint

REPLAYED = "Idempotent-Replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a creating request answers: kept for repetitions, so it is whole before it is sent."""

    status: int
    body: str
    resource_id: str
    headers: dict[str, str] = field(default_factory=dict)
    kept_body: str | None = None  # what repetitions are given where `body` holds a secret, which is not kept

    def response(self) -> Response:
        """The answer as it is sent."""
        return Response(self.body, status_code=self.status, headers=self.headers, media_type="application/json")


Work = Callable[[Ticket | None], Answer]
Recover = Callable[[str], Answer]


async def once(
    parts: Parts, tenant: str, key: str | None, *, identity: tuple[str | bytes, ...], work: Work, recover: Recover
) -> Response:
    """Do `work` in a thread, unless a request with this key did it already; then give that one's answer.

    `identity` is what makes two requests the same; `recover` answers for a resource whose first answer was lost.

    Raises:
        IdempotencyConflict: the first request with this key still runs.
        IdempotencyMismatch: the key belongs to another request.
    """
    answer = await run_in_threadpool(_once, parts, tenant, key, identity, work, recover)
    return answer.response()


def _once(  # noqa: PLR0917 - the parameters of once(), handed to a thread
    parts: Parts, tenant: str, key: str | None, identity: tuple[str | bytes, ...], work: Work, recover: Recover
) -> Answer:
    if key is None:
        return work(None)
    keys = parts.services.idempotency
    begun = keys.begin(tenant, key, fingerprint(*identity))
    if isinstance(begun, Replay):
        return _replayed(begun, recover)
    try:
        answer = work(begun)
    except BaseException:
        keys.abandon(begun)
        raise
    kept = answer.body if answer.kept_body is None else answer.kept_body
    keys.complete(begun, status=answer.status, headers=answer.headers, body=kept, resource_id=answer.resource_id)
    return answer


def _replayed(replay: Replay, recover: Recover) -> Answer:
    resource_id = replay.resource_id or ""
    if replay.status is None or replay.body is None:
        answer = recover(resource_id)
    else:
        answer = Answer(status=replay.status, body=replay.body, resource_id=resource_id, headers=replay.headers)
    return Answer(
        status=answer.status, body=answer.body, resource_id=resource_id, headers={**answer.headers, REPLAYED: "true"}
    )
