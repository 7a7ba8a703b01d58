"""/v1/devices over HTTP: tokens, leases, reports; the judge holds every answer to the document."""

import csv
import hashlib
import io
import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.app.api.served import Served
from tests.builders import upload_model

CONTENT = b"a network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database is not the subject
POLL = {"agent": "agentone", "attributes": {"cpu": "test", "threads": 1}}
WRONG_IDS = ["dev_00000000000000000000000000", "dev_x", "%00", "dev_locals"]


class Device:
    """A registered device over HTTP, as its agent and as its user see it."""

    def __init__(self, served: Served, name: str = "board") -> None:
        made = served.http.post("/v1/devices", json={"name": name}).json()
        self.id, self.token = made["id"], made["token"]
        self.http, self.served = served.http, served
        self.path = f"/v1/devices/{self.id}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def ask(self, **changes: Any) -> dict[str, Any]:
        model = upload_model(self.served.services, CONTENT)
        answer = self.http.post(f"{self.path}/measurements", json={"model": model.id, **changes})
        assert answer.status_code == 202
        found: dict[str, Any] = answer.json()
        return found

    def lease(self, wait: float = 0) -> httpx.Response:
        return self.http.post(f"{self.path}/leases", params={"wait": wait}, json=POLL, headers=self.headers)

    def report(self, lease: dict[str, Any], /, **changes: Any) -> httpx.Response:
        same = {key: lease[key] for key in ("sha256", "threads", "batch", "provider", "warmup")}
        facts = {"runtime": "onnxruntime", "runtime_version": "1.31.1", "load_ms": 1.0}
        host = {"cpu": "test", "os": "Linux"}
        body = {"lease": lease["id"], **same, **facts, "samples_ms": [2.0] * 9 + [9.0], "host": host, **changes}
        return self.http.post("/v1/measurements", json=body, headers=self.headers)


@pytest.fixture
def device(served: Served) -> Device:
    return Device(served)


def test_a_token_is_shown_once(served: Served) -> None:
    """Registering gives it; the device has none to show, and a repeated request is answered without it."""
    key = {"Idempotency-Key": "one"}
    first = served.http.post("/v1/devices", json={"name": "board"}, headers=key)
    again = served.http.post("/v1/devices", json={"name": "board"}, headers=key)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["token"].startswith("espd_")
    assert again.json() == {**first.json(), "token": None}
    assert first.headers["Cache-Control"] == "no-store"
    assert "token" not in served.http.get(first.headers["Location"]).json()


def test_a_device_is_listed_and_revoked(served: Served, device: Device) -> None:
    """dev_local is always there; a revoked device stays in the list, its token opens nothing."""
    listed = served.http.get("/v1/devices").json()["data"]
    assert [entry["id"] for entry in listed] == ["dev_local", device.id]
    assert served.http.delete(device.path).status_code == 204

    assert served.http.get(device.path).json()["state"] == "revoked"
    refused = device.lease()
    assert (refused.status_code, refused.json()["type"]) == (401, "device-revoked")
    assert served.http.delete("/v1/devices/dev_local").status_code == 422


def test_a_measurement_goes_from_question_to_answer(served: Served, device: Device) -> None:
    """Asked, leased, fetched, reported: the request names its measurement, with quantiles and stability."""
    asked = device.ask(repeats=10)
    lease = device.lease().json()
    content = served.http.get(lease["content"], headers=device.headers)
    recorded = device.report(lease)
    again = device.report(lease)

    assert (content.content, lease["sha256"], lease["size_bytes"]) == (CONTENT, SHA256, len(CONTENT))
    assert (recorded.status_code, again.status_code) == (201, 200)
    kept = recorded.json()
    assert again.json() == kept
    # By hand: nearest rank of nine 2.0 and one 9.0; ranks 2 and 9 of ten hold the median with 95 %.
    assert (kept["p50_ms"], kept["p90_ms"], kept["p99_ms"], kept["mean_ms"]) == (2.0, 2.0, 9.0, 2.7)
    assert (kept["p50_interval_ms"], kept["unstable"]) == ([2.0, 2.0], [])
    assert served.http.get(recorded.headers["Location"]).json() == kept
    done = served.http.get(f"{device.path}/measurements/{asked['id']}").json()
    assert (done["state"], done["measurement"], done["model"]) == ("measured", kept["id"], asked["model"])
    assert served.http.get("/v1/measurements", params={"device": device.id}).json()["data"] == [kept]


@ON_SQLITE
def test_samples_that_do_not_state_one_latency_say_so(device: Device) -> None:
    """A drift from 1 ms to 3 ms is told, not averaged away."""
    device.ask()
    kept = device.report(device.lease().json(), samples_ms=[1.0] * 10 + [2.0] * 10 + [3.0] * 10).json()

    assert any("drifted by +100.0%" in reason for reason in kept["unstable"])
    assert len(kept["samples_ms"]) == 30


@ON_SQLITE
def test_a_poll_waits_for_work(device: Device) -> None:
    """A lease is given while the poll waits; without work the answer is empty, in the time asked."""
    begun = time.monotonic()
    assert device.lease(wait=0.5).status_code == 204
    assert time.monotonic() - begun >= 0.5
    asking = threading.Timer(0.4, device.ask)
    asking.start()
    given = device.lease(wait=20)
    asking.join()

    assert (given.status_code, given.json()["sha256"]) == (200, SHA256)


@ON_SQLITE
def test_a_lease_brings_lengths_and_the_file_of_the_weights(served: Served, device: Device) -> None:
    """A network of two files is two contents, each with its digest; one in a single file has no second."""
    onnx = b"\x08\x07" + CONTENT
    files = {"file": ("net.onnx", onnx), "external_data": ("net.data", b"weights")}
    model = served.http.post("/v1/models", files=files).json()
    asked = {"model": model["id"], "shapes": {"x": [1, 3, 8, 8]}}
    request = served.http.post(f"{device.path}/measurements", json=asked).json()
    lease = device.lease().json()
    beside = lease["external_data"]
    weights = served.http.get(beside["content"], headers=device.headers)
    own = served.http.get(lease["content"], headers=device.headers)

    assert request["shapes"] == lease["shapes"] == {"x": [1, 3, 8, 8]}
    assert (weights.content, beside["size_bytes"], own.content) == (b"weights", 7, onnx)
    assert beside["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_network_in_one_file_has_no_second_content(device: Device) -> None:
    """Whoever asks for it all the same is told so."""
    device.ask()
    lease = device.lease().json()
    answer = device.http.get(lease["content"], params={"part": "external_data"}, headers=device.headers)

    assert lease["external_data"] is None
    assert (answer.status_code, "own bytes" in answer.json()["detail"]) == (404, True)


def test_a_leased_network_can_be_kept_and_given_up(device: Device) -> None:
    """Renewing moves the lease's end; a failure ends the request with the device's words."""
    asked = device.ask()
    lease = device.lease().json()
    path = f"{device.path}/leases/{lease['id']}"
    renewed = device.http.post(f"{path}/renew", headers=device.headers).json()
    words = {"reason": "load", "detail": "NOT_IMPLEMENTED : Frobnicate(1)"}
    failed = device.http.post(f"{path}/failure", json=words, headers=device.headers).json()

    assert renewed["until"] >= lease["until"]
    assert (failed["state"], failed["problem"]["detail"]) == ("failed", words["detail"])
    lost = device.http.post(f"{path}/renew", headers=device.headers)
    assert (lost.status_code, lost.json()["type"]) == (409, "device-lease-lost")
    assert device.http.get(f"{path}/content", headers=device.headers).status_code == 409
    assert device.http.get(f"{device.path}/measurements/{asked['id']}").json()["state"] == "failed"


@ON_SQLITE
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer espd_wrong", "Basic x", "espd_wrong"])
def test_without_its_token_nothing_of_an_agent_opens(device: Device, header: str) -> None:
    """No token, a wrong one, or another scheme: 401 before anything is looked at."""
    headers = {"Authorization": header} if header else {}
    answers = [
        device.http.post(f"{device.path}/leases", json=POLL, headers=headers),
        device.http.post("/v1/measurements", json={}, headers=headers),
        device.http.post(f"{device.path}/leases/lse_1/renew", headers=headers),
        device.http.post(f"{device.path}/leases/lse_1/failure", json={}, headers=headers),
        device.http.get(f"{device.path}/leases/lse_1/content", headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [401] * 5


def test_another_devices_token_finds_nothing(served: Served, device: Device) -> None:
    """What belongs to one device is not there for another."""
    device.ask()
    lease = device.lease().json()
    other = Device(served, "other")
    path = f"{device.path}/leases"

    assert served.http.post(path, json=POLL, headers=other.headers).status_code == 404
    assert served.http.get(lease["content"], headers=other.headers).status_code == 404
    assert served.http.post(f"{path}/{lease['id']}/renew", headers=other.headers).status_code == 404
    assert other.report(lease).status_code == 409
    assert device.report(lease).status_code == 201


@ON_SQLITE
def test_a_devices_token_opens_nothing_of_its_user(served: Served, device: Device) -> None:
    """An agent sees its own work alone: no jobs, models, devices or measurements."""
    paths = ["/v1/jobs", "/v1/models", "/v1/devices", device.path, "/v1/measurements", "/v1/measurements/export"]
    answers = [served.http.get(path, headers=device.headers) for path in paths]

    assert [answer.status_code for answer in answers] == [403] * len(paths)
    assert answers[0].json()["type"] == "device-token-misplaced"


@ON_SQLITE
@pytest.mark.parametrize(
    ("changes", "status", "pointer"),
    [
        ({"sha256": "0" * 64}, 422, "/sha256"),
        ({"samples_ms": [-1.0]}, 422, "/samples_ms/0"),
        ({"samples_ms": [1e9]}, 422, "/samples_ms/0"),
        ({"samples_ms": [3e6, 3e6]}, 422, "/samples_ms"),
        ({"host": {}}, 422, "/host"),
        ({"lease": "lse_01k00000000000000000000000"}, 409, None),
        ({"surprise": 1}, 422, "/surprise"),
    ],
)
def test_a_report_that_cannot_be_is_refused(
    device: Device, changes: dict[str, Any], status: int, pointer: str | None
) -> None:
    """A digest that was not leased, absurd samples, no host, an unknown lease: nothing is recorded."""
    device.ask()
    lease = device.lease().json()
    refused = device.report(lease, **changes)

    assert refused.status_code == status
    assert pointer in [None, *(error["pointer"] for error in refused.json()["errors"])]
    assert device.http.get("/v1/measurements").json()["data"] == []
    assert device.report(lease).status_code == 201


@ON_SQLITE
def test_infinities_in_a_report_are_refused(device: Device) -> None:
    """JSON's 1e999 reads as infinity, in samples and inside the host."""
    device.ask()
    lease = device.lease().json()
    known = {key: lease[key] for key in ("sha256", "threads", "batch", "provider", "warmup")}
    rest = {"lease": lease["id"], **known, "runtime": "r", "runtime_version": "1", "load_ms": 1.0}
    for samples, heat in (("1e999", "1"), ("1.0", "1e999")):
        body = json.dumps(rest)[:-1] + f', "samples_ms": [{samples}], "host": {{"cpu":"c","os":"o","heat":{heat}}}}}'
        answer = device.http.post(
            "/v1/measurements", content=body, headers={**device.headers, "Content-Type": "application/json"}
        )

        assert answer.status_code == 422


@ON_SQLITE
@pytest.mark.parametrize(
    "body",
    [{}, {"model": "mdl_1", "artifact": "art_1"}, {"model": "mdl_1", "repeats": 0}, {"model": "dev_1"}, [], "text"],
)
def test_a_question_that_is_none_is_refused(device: Device, body: object) -> None:
    """Neither or both networks, no runs, an id of another kind."""
    assert device.http.post(f"{device.path}/measurements", json=body).status_code == 422


@ON_SQLITE
def test_what_is_not_there_is_not_found(served: Served, device: Device) -> None:
    """Unknown devices, models, requests and measurements."""
    for identifier in WRONG_IDS:
        assert served.http.get(f"/v1/devices/{identifier}").status_code == 404
    assert served.http.post(f"{device.path}/measurements", json={"model": "mdl_1"}).status_code == 404
    assert served.http.get(f"{device.path}/measurements/mrq_1").status_code == 404
    assert served.http.get("/v1/measurements/msr_1").status_code == 404


def test_questions_are_listed_and_cancelled(served: Served, device: Device) -> None:
    """Newest first; a cancelled one is not leased."""
    first, second = device.ask(), device.ask(batch=2)
    cancelled = served.http.post(f"{device.path}/measurements/{first['id']}/cancel")
    listed = served.http.get(f"{device.path}/measurements").json()["data"]

    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert [entry["id"] for entry in listed] == [second["id"], first["id"]]
    assert device.lease().json()["batch"] == 2


@ON_SQLITE
def test_the_same_question_with_the_same_key_is_one(device: Device) -> None:
    """Asking may be repeated by whoever lost the answer."""
    model = upload_model(device.served.services, CONTENT)
    body, key = {"model": model.id}, {"Idempotency-Key": "ask"}
    answers = [device.http.post(f"{device.path}/measurements", json=body, headers=key).json() for _ in range(2)]

    assert answers[0] == answers[1]


def test_measurements_are_exported_whole(served: Served, device: Device) -> None:
    """JSON and CSV hold every measurement with every sample and the host, and read back as they were."""
    kept = []
    for number in range(53):  # more than are held at once
        device.ask(batch=number + 1)
        kept.append(device.report(device.lease().json(), host={"cpu": "=1+1", "os": "Linux"}).json())
    as_json = served.http.get("/v1/measurements/export", params={"device": device.id})
    as_csv = served.http.get("/v1/measurements/export", params={"format": "csv"})
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))

    assert as_json.json() == kept[::-1]
    assert as_csv.headers["Content-Type"].startswith("text/csv")
    assert [row["id"] for row in rows] == [each["id"] for each in kept[::-1]]
    assert json.loads(rows[0]["samples_ms"]) == kept[-1]["samples_ms"]
    assert json.loads(rows[0]["host"]) == kept[-1]["host"]
    assert float(rows[0]["p50_ms"]) == kept[-1]["p50_ms"]
    assert served.http.get("/v1/measurements/export", params={"device": "dev_none"}).json() == []
