"""Models and datasets are taken in whole or not at all, and the same bytes are the same resource."""

import base64
import hashlib
import io
import socket
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.services.assembly import Services
from tests.app.api.served import Host, Served
from tests.builders import ANALYSIS, claim, settings_with, upload_model

# PROTO 4, FRAME of 5 bytes, an empty dict, MEMOIZE, STOP: what pickle.dumps({}) writes, and some bytes behind it.
A_PICKLE = b"\x80\x04\x95\x05" + bytes(7) + b"}\x94." + bytes(1000)
ONNX = b"\x08\x07" + b"network" * 100


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/1.png", b"x" * 100)
    return file.getvalue()


CONTENT = {"models": ONNX, "datasets": a_zip()}
KINDS = pytest.mark.parametrize("kind", ["models", "datasets"])


def stored_files(tmp_path: Path) -> list[Path]:
    """Every file in the store, partial ones included."""
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@KINDS
def test_a_raw_body_becomes_a_resource(served: Served, kind: str) -> None:
    """The answer is 201 with the digest that the server computed, and the resource is where Location says."""
    content = CONTENT[kind]

    answer = served.http.post(f"/v1/{kind}", content=content, params={"name": "mine.bin"})

    assert answer.status_code == 201
    created = answer.json()
    assert created["sha256"] == hashlib.sha256(content).hexdigest()
    assert created["size_bytes"] == len(content)
    assert (created["name"], created["state"]) == ("mine.bin", "analysing")
    assert served.http.get(answer.headers["Location"]).json() == created


@KINDS
def test_a_form_with_one_file_does_the_same(served: Served, kind: str) -> None:
    """Part `file` carries the bytes and the name."""
    answer = served.http.post(f"/v1/{kind}", files={"file": ("folder/net.bin", CONTENT[kind])})

    assert answer.status_code == 201
    assert answer.json()["name"] == "net.bin"
    assert answer.json()["sha256"] == hashlib.sha256(CONTENT[kind]).hexdigest()


@KINDS
def test_the_same_bytes_are_the_same_resource(served: Served, kind: str) -> None:
    """The second upload answers 200 with the first one's resource, whatever its form and name."""
    first = served.http.post(f"/v1/{kind}", content=CONTENT[kind])
    second = served.http.post(f"/v1/{kind}", files={"file": ("other", CONTENT[kind])})

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()


def test_an_analysis_is_shown_once_it_is_there(served: Served) -> None:
    """A ready model carries its analysis, and not the private cost model."""
    created = served.http.post("/v1/models", content=ONNX).json()
    claimed = claim(served.services)
    served.services.attempts.finish(claimed.job_id, claimed.epoch, {**ANALYSIS, "cost_model": {}})

    found = served.http.get(f"/v1/models/{created['id']}").json()

    assert found["state"] == "ready"
    assert found["analysis"] == ANALYSIS


@KINDS
def test_an_empty_body_is_refused(served: Served, kind: str) -> None:
    """No bytes: 422, raw and in a form."""
    raw = served.http.post(f"/v1/{kind}", content=b"")
    form = served.http.post(f"/v1/{kind}", files={"file": ("net.onnx", b"")})

    assert [raw.json()["type"], form.json()["type"]] == ["empty-upload", "empty-upload"]
    assert (raw.status_code, form.status_code) == (422, 422)


def test_code_is_refused_at_the_door(served: Served, tmp_path: Path) -> None:
    """A pickle is refused by its first bytes, with the way to ONNX, and nothing of it stays."""
    answer = served.http.post("/v1/models", content=A_PICKLE)

    assert answer.status_code == 415
    assert "pickle" in answer.json()["detail"]
    assert "torch.onnx.export" in answer.json()["detail"]
    assert stored_files(tmp_path) == []


def test_a_dataset_that_is_no_archive_is_refused(served: Served) -> None:
    """Only zip and npz are datasets."""
    answer = served.http.post("/v1/datasets", content=b"a,b,c\n1,2,3\n")

    assert answer.status_code == 415
    assert "neither a zip nor an .npz" in answer.json()["detail"]


@pytest.fixture
def small(services: Services, tmp_path: Path) -> Services:
    """Services that take models of up to 100,000 bytes."""
    settings = settings_with(data_dir=tmp_path, max_model_bytes=100_000, max_dataset_bytes=100_000)
    return replace(services, settings=settings, uploads=replace(services.uploads, settings=settings))


def test_a_length_above_the_limit_is_refused_before_the_body_is_read(host: Host, small: Services) -> None:
    """The answer comes although not a byte of the body was sent."""
    with host.serving(small) as served, socket.create_connection(served.address, timeout=5) as connection:
        head = "POST /v1/models HTTP/1.1\r\nHost: test\r\nContent-Length: 9999999999\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"allowed are 100000" in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("form", [False, True])
def test_a_body_without_length_is_counted(host: Host, small: Services, tmp_path: Path, *, form: bool) -> None:
    """A chunked body is refused once it passes the limit, and nothing of it stays."""
    with host.serving(small) as served:
        if form:
            request = served.http.build_request("POST", "/v1/models", files={"file": ("net", ONNX * 1000)})
            headers = {"Content-Type": request.headers["Content-Type"]}
            body = iter([request.read()])
        else:
            headers, body = {}, iter([ONNX] * 1000)
        answer = served.http.post("/v1/models", content=body, headers=headers)

    assert answer.status_code == 413
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize("form", [False, True])
def test_a_connection_that_breaks_leaves_nothing(served: Served, tmp_path: Path, *, form: bool) -> None:
    """Half a body and a closed connection: no row, no file, and the server goes on."""
    content_type = "multipart/form-data; boundary=b" if form else "application/octet-stream"
    opening = b'--b\r\nContent-Disposition: form-data; name="file"; filename="net.onnx"\r\n\r\n' if form else b""
    head = f"POST /v1/models HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\nContent-Length: 5000000\r\n\r\n"
    with socket.create_connection(served.address, timeout=5) as connection:
        connection.sendall(head.encode() + opening + ONNX * 3000)
    deadline = time.monotonic() + 5
    while stored_files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert stored_files(tmp_path) == []
    assert served.http.get("/v1/models").json()["data"] == []


def test_a_digest_that_was_sent_must_be_that_of_the_bytes(served: Served) -> None:
    """Repr-Digest (RFC 9530) is held against what came: equal passes, other bytes are refused."""
    right = base64.b64encode(hashlib.sha256(ONNX).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()

    refused = served.http.post("/v1/models", content=ONNX, headers={"Repr-Digest": f"sha-256=:{wrong}:"})
    taken = served.http.post("/v1/models", content=ONNX, headers={"Repr-Digest": f"sha-256=:{right}:"})

    assert (refused.status_code, refused.json()["type"]) == (400, "digest-mismatch")
    assert taken.status_code == 201


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"file": ("a", ONNX), "extra": ("b", b"x")}, "a part 'extra'; known are file"),
        ({"other": ("a", ONNX)}, "a part 'other'; known are file"),
    ],
)
def test_unknown_parts_are_refused_by_name(served: Served, files: dict[str, tuple[str, bytes]], message: str) -> None:
    """A misspelt part is named, and so is the one that is known."""
    answer = served.http.post("/v1/models", files=files)

    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_form_without_its_end_is_refused(served: Served) -> None:
    """A body that its sender cut off before the closing boundary is malformed."""
    request = served.http.build_request("POST", "/v1/models", files={"file": ("net", ONNX)})
    answer = served.http.post(
        "/v1/models", content=request.read()[:-20], headers={"Content-Type": request.headers["Content-Type"]}
    )

    assert (answer.status_code, answer.json()["type"]) == (400, "malformed-body")


def test_a_key_makes_an_upload_repeatable(served: Served) -> None:
    """The same key and bytes give the first answer again, other bytes are refused."""
    headers = {"Idempotency-Key": "k-1"}
    first = served.http.post("/v1/models", content=ONNX, headers=headers)
    again = served.http.post("/v1/models", content=ONNX, headers=headers)
    other = served.http.post("/v1/models", content=ONNX + b"x", headers=headers)

    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json()["type"]) == (422, "idempotency-mismatch")


def test_a_key_has_at_most_255_printable_characters(served: Served) -> None:
    """Longer keys and keys with blanks are refused, naming the header."""
    for key in ("x" * 256, "a b"):
        answer = served.http.post("/v1/models", content=ONNX, headers={"Idempotency-Key": key})

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


@KINDS
def test_lists_are_walked_by_cursor(served: Served, kind: str) -> None:
    """Pages hold the newest first, say whether more follow, and together hold everything once."""
    made = [
        served.http.post(f"/v1/{kind}", content=CONTENT[kind] + bytes([number])).json()["id"] for number in range(5)
    ]
    found: list[str] = []
    page = served.http.get(f"/v1/{kind}", params={"limit": 2}).json()
    while True:
        found += [entry["id"] for entry in page["data"]]
        if not page["has_more"]:
            break
        page = served.http.get(f"/v1/{kind}", params={"limit": 2, "after": page["last_id"]}).json()

    assert found == made[::-1]


def test_a_limit_is_capped_and_nonsense_refused(served: Served) -> None:
    """A huge limit is taken as the largest; zero and unknown parameters are refused by name."""
    assert served.http.get("/v1/models", params={"limit": 10**12}).status_code == 200

    for params in ({"limit": 0}, {"limt": 1}, {"after": "x\x00"}):
        answer = served.http.get("/v1/models", params=params)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(params))}"


@KINDS
def test_what_is_deleted_is_gone(served: Served, kind: str) -> None:
    """DELETE answers 204, then 404; the same bytes may come again."""
    created = served.http.post(f"/v1/{kind}", content=CONTENT[kind]).json()
    path = f"/v1/{kind}/{created['id']}"

    assert served.http.delete(path).status_code == 204
    assert served.http.delete(path).status_code == 404
    assert served.http.get(path).status_code == 404
    assert served.http.post(f"/v1/{kind}", content=CONTENT[kind]).status_code == 201


def test_another_tenants_model_is_not_there(served: Served) -> None:
    """Looking, deleting and using it answer as for an id that does not exist."""
    foreign = upload_model(served.services, tenant="other").id

    asked: list[httpx.Response] = [
        served.http.get(f"/v1/models/{foreign}"),
        served.http.delete(f"/v1/models/{foreign}"),
        served.http.post("/v1/jobs", json={"model": foreign, "target": "flops=50%"}),
        served.http.post("/v1/jobs/estimate", json={"model": foreign, "target": "flops=50%"}),
    ]

    assert [answer.status_code for answer in asked] == [404] * 4
    assert served.http.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize(
    "identifier", ["x", "mdl_", "dst_01k9z3v3n3q3v3n3q3v3n3q3v3", "mdl_%00", "mdl_%ff", "%F0%9F%8C%B3"]
)
def test_what_is_no_id_is_not_found(served: Served, identifier: str) -> None:
    """Any text in place of an id answers 404."""
    assert served.http.get(f"/v1/models/{identifier}").status_code == 404
