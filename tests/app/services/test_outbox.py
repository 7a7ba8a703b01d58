"""Doorbells: none is lost, none holds anybody up."""

from app.services.assembly import Services
from tests.builders import TENANT, FakeClock, RecordingBell, analysed_model, claim, job, spec


def test_what_was_rung_is_forgotten(services: Services, bell: RecordingBell, clock: FakeClock) -> None:
    """After a delivery nothing is pending, now or later."""
    job(services)
    clock.advance(minutes=1)

    assert services.outbox.pending() == []
    assert bell.rung == ["cpu", "cpu"]  # the analysis, the job


def test_a_message_is_given_time_before_it_is_sent_again(
    services: Services, bell: RecordingBell, clock: FakeClock
) -> None:
    """The sweeper does not race the request that is just ringing."""
    model = analysed_model(services)
    bell.broken = True
    services.jobs.submit(TENANT, spec(model.id))

    assert services.outbox.pending() == []

    clock.advance(seconds=2)

    assert len(services.outbox.pending()) == 1


def test_a_bell_that_stays_broken_is_tried_less_and_less(
    services: Services, bell: RecordingBell, clock: FakeClock
) -> None:
    """The pauses grow to a minute; nothing is dropped."""
    model = analysed_model(services)
    bell.broken = True
    services.jobs.submit(TENANT, spec(model.id))
    tried = []
    for second in range(200):
        clock.advance(seconds=1)
        if services.outbox.pending():
            tried.append(second + 1)
            services.outbox.resend()

    # Due after 2 s, then pauses of 2, 4, 8, 16, 32 and 60 s.
    assert tried == [2, 4, 8, 16, 32, 64, 124, 184]

    bell.broken = False
    clock.advance(seconds=60)

    assert services.outbox.resend() == 1


def test_a_ring_that_nobody_heard_is_repeated(services: Services, bell: RecordingBell, clock: FakeClock) -> None:
    """A broker may lose what it accepted: a queue whose jobs keep waiting is rung again."""
    job(services)
    bell.rung.clear()
    services.outbox.resend()

    assert bell.rung == []

    clock.advance(seconds=11)
    services.outbox.resend()

    assert bell.rung == ["cpu"]

    claim(services)
    services.outbox.resend()

    assert bell.rung == ["cpu"]
