"""Jobs are asked for, polled, listed, planned and stopped over HTTP as the contract says."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.domain.job import JobState
from app.services.claims import Claimed
from tests.app.api.served import Served
from tests.builders import analysed_model, artifact, claim, job, measurement, upload_dataset

ONNX = b"\x08\x07" + b"network" * 100
HALF = {"target": "flops=50%"}
RESULT: dict[str, Any] = {
    "before": {"macs": 500, "flops": 1000, "params": 85, "size_bytes": 340, "peak_activation_bytes": 640},
    "after": {"macs": 240, "flops": 480, "params": 40, "size_bytes": 160, "peak_activation_bytes": 320},
    "target_met": True,
    "stopped_by": "target",
}


def submit(served: Served, *, content: bytes = b"network", **changes: Any) -> dict[str, Any]:
    model = analysed_model(served.services, content)
    answer = served.http.post("/v1/jobs", json={"model": model.id, **HALF, **changes})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def finish(served: Served) -> Claimed:
    claimed = claim(served.services)
    served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=[artifact(served.services)])
    return claimed


def test_a_job_is_accepted_with_a_place_to_look(served: Served) -> None:
    """202 with Location, Retry-After, ETag and the whole job."""
    model = analysed_model(served.services)

    answer = served.http.post("/v1/jobs", json={"model": model.id, **HALF, "seed": 7, "metadata": {"run": "a"}})

    created = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == created["links"]["self"] == f"/v1/jobs/{created['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert (created["state"], created["method"], created["model"]) == ("queued", "auto", model.id)
    assert created["target"] == [{"metric": "flops", "ratio": 0.5, "value": None, "device": None}]
    assert created["metadata"] == {"run": "a"}
    assert served.http.get(answer.headers["Location"]).json() == created


def test_the_one_line_form_brings_the_model_along(served: Served) -> None:
    """Model, data, target and spec as parts of one form make a model, a dataset and a job."""
    files = {"model": ("net.onnx", ONNX), "dataset": ("data.npz", b"PK\x03\x04" + bytes(100))}
    data = {"target": "flops=50%", "spec": '{"method": "magnitude", "finetune": {"steps": 0}}'}

    answer = served.http.post("/v1/jobs", files=files, data=data)

    created = answer.json()
    assert answer.status_code == 202, answer.text
    assert created["method"] == "magnitude"
    assert served.http.get(f"/v1/models/{created['model']}").json()["name"] == "net.onnx"
    assert served.http.get(f"/v1/datasets/{created['dataset']}").json()["name"] == "data.npz"


@pytest.mark.parametrize(
    "target", ["flops=50%", '{"metric": "flops", "ratio": 0.5}', '[{"metric": "flops", "ratio": 0.5}]']
)
def test_a_forms_target_is_text_or_json(served: Served, target: str) -> None:
    """The part may hold any of the forms that the JSON request has."""
    answer = served.http.post("/v1/jobs", files={"model": ("net.onnx", ONNX)}, data={"target": target})

    assert answer.json()["target"] == [{"metric": "flops", "ratio": 0.5, "value": None, "device": None}]


def test_a_form_may_name_an_uploaded_model(served: Served) -> None:
    """A part `model` without a file name is an id."""
    model = analysed_model(served.services)
    parts: dict[str, Any] = {"model": (None, model.id), "target": (None, "flops=50%")}

    answer = served.http.post("/v1/jobs", files=parts)

    assert answer.json()["model"] == model.id


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"target": "flops=50x"}, "/target"),
        ({"target": "flops=50%", "spec": '{"bogus": 1}'}, "/bogus"),
        ({"target": "flops=50%", "spec": '{"target": "macs=1M"}'}, "/target"),
        ({"target": "flops=50%", "spec": "[]"}, "/spec"),
        ({"target": "flops=50%", "spec": '{"model": "mdl_1"}'}, "/model"),
        ({"target": "flops=50%", "extra": "1"}, "/extra"),
    ],
)
def test_a_form_that_is_wrong_makes_nothing(served: Served, data: dict[str, str], pointer: str) -> None:
    """The refusal points at the part, and neither a model nor a job was made."""
    answer = served.http.post("/v1/jobs", files={"model": ("net.onnx", ONNX)}, data=data)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert served.http.get("/v1/models").json()["data"] == []
    assert served.http.get("/v1/jobs").json()["data"] == []


def test_a_form_without_a_model_says_how_to_send_one(served: Served) -> None:
    """The refusal names the part and shows the command line."""
    answer = served.http.post("/v1/jobs", files={"dataset": ("d.zip", b"PK\x03\x04" + bytes(100))}, data=HALF)

    assert answer.status_code == 422
    assert "-F model=@net.onnx" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"target": "half"}, "/target"),
        ({"target": {"metric": "flops", "ratio": 1.5}}, "/target"),
        ({"method": "magic"}, "/method"),
        ({"options": {"probe": 3}}, "/options/probe"),
        ({"finetune": {"steps": -1}}, "/finetune/steps"),
        ({"webhok": "x"}, "/webhok"),
        ({"name": "a\x00b"}, "/name"),
        ({"metadata": {"a": "\ud800"}}, "/metadata/a"),
    ],
)
def test_wrong_fields_are_pointed_at(served: Served, changes: dict[str, Any], pointer: str) -> None:
    """422 with a JSON pointer to each field that is wrong."""
    import json

    text = json.dumps({"model": "mdl_1", **HALF, **changes})
    answer = served.http.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"seed": NaN}', "\xff", '{"seed": ' + "1" * 5000 + "}"])
def test_what_is_no_json_is_malformed(served: Served, text: str) -> None:
    """400 for a body that cannot be read as JSON, however it fails to be."""
    answer = served.http.post("/v1/jobs", content=text.encode("latin-1"), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["type"]) == (400, "malformed-body")


def test_a_json_body_is_limited_and_must_say_what_it_is(served: Served) -> None:
    """Above the limit: 413; another media type: 415."""
    limit = served.services.settings.max_spec_bytes
    large = served.http.post("/v1/jobs", content=b" " * (limit + 1), headers={"Content-Type": "application/json"})
    chunked = served.http.post(
        "/v1/jobs", content=iter([b" " * limit, b"x"]), headers={"Content-Type": "application/json"}
    )
    typed = served.http.post("/v1/jobs", content=b"model=1", headers={"Content-Type": "text/plain"})

    assert [answer.status_code for answer in (large, chunked, typed)] == [413, 413, 415]


def test_an_unreachable_target_states_the_smallest_reachable(served: Served) -> None:
    """The analysed model's floor is in the refusal: 10 channels keep 1, so 140 of 500 MACs, 28 %."""
    model = analysed_model(served.services)

    answer = served.http.post("/v1/jobs", json={"model": model.id, "target": "macs=10%"})

    assert (answer.status_code, answer.json()["type"]) == (422, "target-unreachable")
    assert "28%" in answer.json()["detail"]


def test_an_unchanged_job_answers_304(served: Served) -> None:
    """The ETag of the last answer gives 304 without a body until something changes."""
    path = submit(served)["links"]["self"]
    etag = served.http.get(path).headers["ETag"]

    same = served.http.get(path, headers={"If-None-Match": etag})
    claim(served.services)
    changed = served.http.get(path, headers={"If-None-Match": etag})

    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag)
    assert same.headers["Retry-After"] == "1"
    assert changed.status_code == 200
    assert changed.json()["state"] == "running"
    assert changed.headers["ETag"] != etag


def test_an_ended_job_names_no_time_to_ask_again(served: Served) -> None:
    """Retry-After is there while the job may change, and not after its end."""
    path = submit(served)["links"]["self"]
    finish(served)

    ended = served.http.get(path)

    assert ended.json()["state"] == "succeeded"
    assert ended.json()["result"]["after"]["macs"] == 240
    assert ended.json()["result"]["artifacts"][0]["kind"] == "onnx"
    assert "Retry-After" not in ended.headers


def test_a_long_poll_ends_with_the_change(served: Served) -> None:
    """With the version that is known, the answer comes when the job changes, and well before the time is over."""
    path = submit(served)["links"]["self"]
    etag = served.http.get(path).headers["ETag"]
    threading.Timer(0.3, claim, [served.services]).start()
    begun = time.monotonic()

    answer = served.http.get(path, headers={"If-None-Match": etag}, params={"wait": 20})

    assert answer.json()["state"] == "running"
    assert time.monotonic() - begun > 0.2


def test_a_long_poll_ends_with_its_time(served: Served) -> None:
    """Nothing changes: 304 for who knows the version, the job for who does not."""
    path = submit(served)["links"]["self"]
    etag = served.http.get(path).headers["ETag"]

    known = served.http.get(path, headers={"If-None-Match": etag}, params={"wait": 0.1})
    unknown = served.http.get(path, params={"wait": 0.1})

    assert known.status_code == 304
    assert unknown.json()["state"] == "queued"


def test_a_long_poll_without_a_version_waits_for_the_end(served: Served) -> None:
    """A job that begins to run does not end the wait; its end does."""
    path = submit(served)["links"]["self"]
    threading.Timer(0.3, finish, [served]).start()

    answer = served.http.get(path, params={"wait": 20})

    assert answer.json()["state"] == "succeeded"


def test_many_polls_at_once_get_what_is_theirs(served: Served) -> None:
    """Polls of several jobs, answered from shared reads: each job's own version, and 404 for none."""
    first = submit(served)["id"]
    second = served.services.jobs.cancel("default", job(served.services, content=b"other").id).id
    ids = [first, second, "job_01k9z3v3n3q3v3n3q3v3n3q3v3"] * 20

    def ask(identifier: str) -> tuple[int, str]:
        answer = served.http.get(f"/v1/jobs/{identifier}", headers={"If-None-Match": '"1"'})
        return answer.status_code, answer.headers.get("ETag", "")

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, ids))

    assert answers == [(304, '"1"'), (200, '"2"'), (404, "")] * 20


def test_a_wait_that_is_no_time_is_refused(served: Served) -> None:
    """Negative, infinite and unreadable times answer 422."""
    path = submit(served)["links"]["self"]

    assert [served.http.get(path, params={"wait": wait}).status_code for wait in ("-1", "inf", "nan", "x")] == [422] * 4


def test_jobs_are_listed_by_state_and_cursor(served: Served) -> None:
    """Newest first; a state leaves the others out; internal analyses never show."""
    made = [submit(served, content=bytes([number]))["id"] for number in range(3)]
    served.services.jobs.cancel("default", made[0])

    queued = served.http.get("/v1/jobs", params={"state": "queued"}).json()
    either = served.http.get("/v1/jobs", params={"state": ["queued", "cancelled"], "limit": 2}).json()
    rest = served.http.get("/v1/jobs", params={"limit": 2, "after": either["last_id"]}).json()

    assert [entry["id"] for entry in queued["data"]] == [made[2], made[1]]
    assert [entry["id"] for entry in either["data"] + rest["data"]] == made[::-1]
    assert (either["has_more"], rest["has_more"]) == (True, False)
    assert served.http.get("/v1/jobs", params={"state": "sleeping"}).status_code == 422


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_soon(served: Served) -> None:
    """202 with the state; cancelling again, or what has ended, changes nothing."""
    waiting = submit(served)["links"]["cancel"]
    cancelled = served.http.post(waiting)
    running = submit(served, content=b"other")["links"]["cancel"]
    claim(served.services)
    cancelling = served.http.post(running)

    assert [answer.status_code for answer in (cancelled, cancelling)] == [202, 202]
    assert [answer.json()["state"] for answer in (cancelled, cancelling)] == ["cancelled", "cancelling"]
    assert served.http.post(waiting).json() == cancelled.json()
    assert served.http.post(running).json() == cancelling.json()


def test_a_plan_says_what_would_come_out(served: Served) -> None:
    """The estimate of half the MACs keeps 3 of 10 channels: 100 + 40 x 3 = 220 of 500, and nothing is refused."""
    model = analysed_model(served.services)

    plan = served.http.post("/v1/jobs/estimate", json={"model": model.id, "target": "macs=50%"}).json()
    refused = served.http.post("/v1/jobs/estimate", json={"model": model.id, "target": "macs=10%"}).json()

    assert plan["predictions"][0]["after"]["macs"] == 220
    assert plan["refusals"] == []
    assert refused["refusals"][0]["type"] == "target-unreachable"
    assert served.http.get("/v1/jobs").json()["data"] == []


def test_a_plan_needs_an_analysed_model(served: Served) -> None:
    """While the analysis runs: 409, worth trying again."""
    created = served.http.post("/v1/models", content=ONNX).json()

    answer = served.http.post("/v1/jobs/estimate", json={"model": created["id"], **HALF})

    assert (answer.status_code, answer.json()["type"], answer.json()["retryable"]) == (409, "model-not-ready", True)


def test_many_posts_with_one_key_make_one_job(served: Served) -> None:
    """Twenty at once: one job; everybody is given it, or told to come again."""
    model = analysed_model(served.services)

    def ask(_: int) -> httpx.Response:
        headers = {"Idempotency-Key": "same"}
        return served.http.post("/v1/jobs", json={"model": model.id, **HALF}, headers=headers)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(20)))

    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(served.http.get("/v1/jobs").json()["data"]) == 1


def test_a_refused_request_leaves_its_key_free(served: Served) -> None:
    """After a 404 the same key may be used for the request that works."""
    model = analysed_model(served.services)
    headers = {"Idempotency-Key": "k"}

    missing = served.http.post("/v1/jobs", json={"model": "mdl_1", **HALF}, headers=headers)
    right = served.http.post("/v1/jobs", json={"model": model.id, **HALF}, headers=headers)

    assert (missing.status_code, right.status_code) == (404, 202)


def test_a_form_can_be_repeated_with_its_key(served: Served) -> None:
    """The same files, fields and key give the first answer again; another file is another request."""
    headers = {"Idempotency-Key": "k"}

    def post(content: bytes) -> httpx.Response:
        return served.http.post("/v1/jobs", files={"model": ("net.onnx", content)}, data=HALF, headers=headers)

    first, again, other = post(ONNX), post(ONNX), post(ONNX + b"x")

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert (other.status_code, other.json()["type"]) == (422, "idempotency-mismatch")


def test_a_job_whose_answer_was_lost_is_found_by_its_key(served: Served) -> None:
    """The process died between the commit and the answer: the repetition is given the job as it is now."""
    from app.domain.methods import parse_spec
    from app.services.idempotency import Ticket, fingerprint

    model = analysed_model(served.services)
    request = {"model": model.id, **HALF}
    text = f'{{"model": "{model.id}", "target": "flops=50%"}}'
    ticket = served.services.idempotency.begin("default", "k", fingerprint("POST", "/v1/jobs", text))
    assert isinstance(ticket, Ticket)
    made = served.services.jobs.submit("default", parse_spec(request), ticket=ticket)

    answer = served.http.post("/v1/jobs", json=request, headers={"Idempotency-Key": "k"})

    assert (answer.status_code, answer.json()["id"]) == (202, made.id)
    assert answer.headers["Idempotent-Replayed"] == "true"


def test_measurements_are_found_by_what_was_measured(served: Served) -> None:
    """A job's measurements of its artifact and of its model, each by its own filter."""
    created = submit(served)
    claimed = claim(served.services)
    made = artifact(served.services)
    model = served.http.get(f"/v1/models/{created['model']}").json()
    served.services.attempts.finish(
        claimed.job_id,
        claimed.epoch,
        RESULT,
        artifacts=[made],
        measurements=[measurement(made.sha256), measurement(model["sha256"])],
    )
    listed = served.http.get(f"{created['links']['artifacts']}").json()["data"][0]

    of_artifact = served.http.get("/v1/measurements", params={"artifact": listed["id"]}).json()["data"]
    of_model = served.http.get("/v1/measurements", params={"model": model["id"]}).json()["data"]

    assert [entry["sha256"] for entry in of_artifact] == [made.sha256]
    assert [entry["sha256"] for entry in of_model] == [model["sha256"]]
    assert of_artifact[0]["samples_ms"] == [2.0, 1.0, 3.0]
    assert len(served.http.get("/v1/measurements").json()["data"]) == 2


def test_a_deleted_model_does_not_hide_its_job(served: Served) -> None:
    """The job stays visible, naming the id of a model that is gone."""
    created = submit(served)
    served.http.delete(f"/v1/models/{created['model']}")

    assert served.http.get(created["links"]["self"]).json()["model"] == created["model"]


def test_a_rejected_dataset_is_refused_at_submission(served: Served) -> None:
    """What is already known to be unusable is said at once, with its cause."""
    model = analysed_model(served.services)
    dataset = upload_dataset(served.services)
    claimed = claim(served.services)
    problem = {"type": "bad-image", "title": "Bad image", "detail": "cat/1.png is no picture", "retryable": False}
    assert served.services.attempts.fail(claimed.job_id, claimed.epoch, problem, retryable=False) == JobState.FAILED

    answer = served.http.post("/v1/jobs", json={"model": model.id, "dataset": dataset.id, **HALF})

    assert (answer.status_code, answer.json()["type"]) == (422, "dataset-rejected")
    assert "cat/1.png is no picture" in answer.json()["detail"]
    assert served.http.get(f"/v1/datasets/{dataset.id}").json()["problem"]["type"] == "bad-image"
