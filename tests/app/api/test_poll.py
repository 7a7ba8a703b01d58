"""The hot path answers as the route does, and leaves everything but the plainest poll to it."""

import httpx
import pytest

from tests.app.api.served import Served
from tests.builders import analysed_model


@pytest.fixture
def submitted(served: Served) -> str:
    """The id of a queued job."""
    model = analysed_model(served.services, b"network")
    answer = served.http.post("/v1/jobs", json={"model": model.id, "target": "flops=50%"})
    return str(answer.json()["id"])


def _headers(answer: httpx.Response) -> dict[str, str]:
    kept = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    return {**kept, "named": str("x-request-id" in answer.headers)}


def test_an_unchanged_job_is_answered_alike_by_both_ways(served: Served, submitted: str) -> None:
    """A poll with `?wait=0` takes the route, one without a query the hot path: same status, same headers."""
    etag = served.http.get(f"/v1/jobs/{submitted}").headers["ETag"]
    routed = served.http.get(f"/v1/jobs/{submitted}?wait=0", headers={"If-None-Match": etag})
    hot = served.http.get(f"/v1/jobs/{submitted}", headers={"If-None-Match": etag})

    assert (304, 304) == (routed.status_code, hot.status_code)
    assert _headers(routed) == _headers(hot)


@pytest.mark.parametrize("tag", ['"999"', '"x"', "*", '"0", "1"', 'W/"1"'])
def test_another_version_or_form_goes_to_the_route(served: Served, submitted: str, tag: str) -> None:
    """What the hot path does not know is answered as ever: 200 with the job, or 304 by the route."""
    answer = served.http.get(f"/v1/jobs/{submitted}", headers={"If-None-Match": tag})
    routed = served.http.get(f"/v1/jobs/{submitted}?wait=0", headers={"If-None-Match": tag})

    assert routed.status_code == answer.status_code
    assert [routed.status_code, routed.headers.get("ETag")] == [answer.status_code, answer.headers.get("ETag")]


def test_an_unknown_job_is_still_a_problem(served: Served) -> None:
    """A poll for what is not there answers 404 with a problem document."""
    answer = served.http.get("/v1/jobs/job_0000000000", headers={"If-None-Match": '"1"'})

    assert 404 == answer.status_code
    assert "application/problem+json" == answer.headers["content-type"]
