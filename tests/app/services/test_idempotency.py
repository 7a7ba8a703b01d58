"""Keys: the first request works, its repetitions get the same answer."""

import pytest

from app.errors import IdempotencyConflict, IdempotencyMismatch, ValidationFailed
from app.services.assembly import Services
from app.services.idempotency import Replay, Ticket, fingerprint
from tests.builders import TENANT, FakeClock

REQUEST = fingerprint("POST", "/v1/jobs", b"{}")


def begin(services: Services, key: str = "key", request: str = REQUEST, tenant: str = TENANT) -> Ticket:
    ticket = services.idempotency.begin(tenant, key, request)
    assert isinstance(ticket, Ticket)
    return ticket


def complete(services: Services, ticket: Ticket) -> None:
    services.idempotency.complete(ticket, status=201, headers={"Location": "/x"}, body='{"a":1}', resource_id="job_1")


def test_an_answer_is_replayed(services: Services) -> None:
    """Status, headers and body of the first answer come back."""
    complete(services, begin(services))

    assert services.idempotency.begin(TENANT, "key", REQUEST) == Replay(
        resource_id="job_1", status=201, headers={"Location": "/x"}, body='{"a":1}'
    )


def test_a_running_request_holds_its_key(services: Services, clock: FakeClock) -> None:
    """Until the lock runs out a repetition is told to come back; afterwards it takes over, and the first is ignored."""
    first = begin(services)
    with pytest.raises(IdempotencyConflict, match="still running"):
        services.idempotency.begin(TENANT, "key", REQUEST)
    clock.advance(minutes=11)
    second = begin(services)
    complete(services, first)
    with pytest.raises(IdempotencyConflict):
        services.idempotency.begin(TENANT, "key", REQUEST)
    complete(services, second)

    assert isinstance(services.idempotency.begin(TENANT, "key", REQUEST), Replay)


def test_a_key_is_for_one_request(services: Services) -> None:
    """Another payload with the same key is a mistake, while the first runs and after it."""
    ticket = begin(services)
    with pytest.raises(IdempotencyMismatch):
        services.idempotency.begin(TENANT, "key", fingerprint("POST", "/v1/jobs", b"{ }"))
    complete(services, ticket)
    with pytest.raises(IdempotencyMismatch, match="different request"):
        services.idempotency.begin(TENANT, "key", fingerprint("POST", "/v1/models", b"{}"))


def test_a_failure_gives_the_key_back(services: Services) -> None:
    """A request that failed may be sent again with its key, even with another payload."""
    services.idempotency.abandon(begin(services))

    assert begin(services, request=fingerprint("other")).key == "key"


def test_keys_are_forgotten_in_time(services: Services, clock: FakeClock) -> None:
    """After its time a key is new again, whether or not it was purged."""
    complete(services, begin(services))
    complete(services, begin(services, "second"))
    clock.advance(hours=25)

    begin(services, request=fingerprint("other"))

    assert services.idempotency.purge() == 1
    assert services.idempotency.purge() == 0


def test_keys_belong_to_tenants(services: Services) -> None:
    """The same key of two tenants is two keys."""
    complete(services, begin(services))

    assert begin(services, tenant="other").tenant == "other"


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_a_length(services: Services, key: str) -> None:
    """Empty and overlong keys are refused."""
    with pytest.raises(ValidationFailed, match="1 to 255"):
        services.idempotency.begin(TENANT, key, REQUEST)


def test_fingerprints_tell_parts_apart() -> None:
    """Where one part ends and the next begins matters."""
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("abc"), fingerprint("abc", "")}) == 4
