"""A job's log can be read in pages and followed as a stream, and a stream that broke off goes on where it was."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.domain.job import Phase
from app.services.claims import Progress
from tests.app.api.served import Served
from tests.builders import claim, job

STREAM = {"Accept": "text/event-stream"}


def sequences(text: str) -> list[int]:
    """The ids of a stream, in order."""
    return [int(line.removeprefix("id: ")) for line in text.splitlines() if line.startswith("id: ")]


def path(identifier: str) -> str:
    return f"/v1/jobs/{identifier}/events"


def test_events_are_read_in_pages(served: Served) -> None:
    """Each page goes on behind the last `seq`; together they hold every event once."""
    row = job(served.services)
    claim(served.services)
    served.services.jobs.cancel("default", row.id)
    seen, after = list[int](), 0
    while True:
        page = served.http.get(path(row.id), params={"after": after, "limit": 1}).json()
        seen += [event["seq"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]

    assert seen == [1, 2, 3]
    assert [event["type"] for event in served.http.get(path(row.id)).json()["data"]] == [
        "queued",
        "running",
        "cancelling",
    ]


def test_a_stream_ends_with_the_job(served: Served) -> None:
    """A follower sees what was, what comes while it listens, and the end."""
    row = job(served.services)

    def work() -> None:
        claimed = claim(served.services)
        progress = Progress(phase=Phase.SCORE, fraction=0.5, message="half way")
        served.services.attempts.progress(claimed.job_id, claimed.epoch, progress)
        served.services.jobs.cancel("default", row.id)
        served.services.attempts.acknowledge_cancel(claimed.job_id, claimed.epoch)

    with ThreadPoolExecutor(1) as pool, served.http.stream("GET", path(row.id), headers=STREAM) as answer:
        done = pool.submit(work)
        done.result(10)
        text = answer.read().decode()

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert sequences(text) == list(range(1, len(sequences(text)) + 1))
    types = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert (types[0], types[-1]) == ("queued", "cancelled")
    assert [json.loads(line[6:])["seq"] for line in text.splitlines() if line.startswith("data: ")] == sequences(text)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_cut_stream_goes_on_without_gap_or_repetition(served: Served, cut: int) -> None:
    """Last-Event-ID gives what comes behind it; behind the last event of an ended job there is nothing (204)."""
    row = job(served.services)
    claimed = claim(served.services)
    served.services.jobs.cancel("default", row.id)
    served.services.attempts.acknowledge_cancel(claimed.job_id, claimed.epoch)
    last = served.http.get(path(row.id)).json()["last_id"]

    rest = served.http.get(path(row.id), headers={**STREAM, "Last-Event-ID": str(cut)})
    done = served.http.get(path(row.id), headers={**STREAM, "Last-Event-ID": str(last)})

    assert sequences(rest.text) == list(range(cut + 1, last + 1))
    assert (done.status_code, done.content) == (204, b"")


def test_events_of_no_job_are_not_found(served: Served) -> None:
    """Pages and streams of an unknown job answer 404."""
    unknown = path("job_01k9z3v3n3q3v3n3q3v3n3q3v3")

    assert served.http.get(unknown).status_code == 404
    assert served.http.get(unknown, headers=STREAM).status_code == 404


def test_a_number_that_is_none_is_refused(served: Served) -> None:
    """`after` is a count: negative, huge and unreadable ones answer 422."""
    row = job(served.services)
    for after in ("-1", "99999999999", "x"):
        assert served.http.get(path(row.id), params={"after": after}).status_code == 422
