"""What is downloaded is what was made: whole or in pieces, named by its digest, and never once it is damaged."""

import base64
import hashlib
from pathlib import Path

import pytest

from app.services.results import NewArtifact
from tests.app.api.served import Served
from tests.builders import artifact, claim, job

CONTENT = bytes(range(256)) * 12_000  # three chunks of the store
RESULT = {
    "before": {"macs": 2, "flops": 4, "params": 2, "size_bytes": 2, "peak_activation_bytes": 2},
    "after": {"macs": 1, "flops": 2, "params": 1, "size_bytes": 1, "peak_activation_bytes": 1},
    "target_met": True,
    "stopped_by": "target",
}
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"sha256-{SHA256}"'


def made(served: Served, *artifacts: NewArtifact) -> str:
    """A finished job with these artifacts; gives its id."""
    row = job(served.services)
    claimed = claim(served.services)
    served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=list(artifacts))
    return row.id


@pytest.fixture
def content(served: Served) -> str:
    """Where the bytes of an artifact are."""
    identifier = made(served, artifact(served.services, CONTENT))
    listed = served.http.get(f"/v1/jobs/{identifier}/artifacts").json()["data"]
    path: str = listed[0]["links"]["content"]
    return path


def test_artifacts_are_listed_and_described(served: Served) -> None:
    """A job lists what it made, each with digest and size; one alone is the same."""
    target = [{"metric": "flops", "ratio": 0.5}]
    identifier = made(
        served,
        artifact(served.services, CONTENT, target=target),
        artifact(served.services, b"{}", kind="report", name="report.json"),
    )

    listed = served.http.get(f"/v1/jobs/{identifier}/artifacts").json()["data"]

    assert {entry["kind"] for entry in listed} == {"onnx", "report"}
    network = next(entry for entry in listed if entry["kind"] == "onnx")
    assert (network["sha256"], network["size_bytes"], network["job"]) == (SHA256, len(CONTENT), identifier)
    assert served.http.get(network["links"]["self"]).json() == network


def test_the_bytes_come_with_their_digest_and_a_name(served: Served, content: str) -> None:
    """The whole content, its SHA-256 as ETag and Repr-Digest, a name to save under, and no sniffing."""
    answer = served.http.get(content)

    assert answer.content == CONTENT
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="net-pruned.onnx"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Length"] == str(len(CONTENT))


def test_head_gives_the_same_headers_and_no_bytes(served: Served, content: str) -> None:
    """HEAD differs from GET in the body and the id of the request only."""
    head, get = served.http.head(content), served.http.get(content)

    differing = {"x-request-id", "date"}
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in differing} == {
        k: v for k, v in get.headers.items() if k not in differing
    }


def test_known_content_is_not_sent_again(served: Served, content: str) -> None:
    """If-None-Match with the digest answers 304, for GET and HEAD."""
    for method in ("GET", "HEAD"):
        answer = served.http.request(method, content, headers={"If-None-Match": ETAG})

        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", ETAG)


def test_pieces_make_the_whole(served: Served, content: str) -> None:
    """Ranges over the borders of the store's chunks put together have the artifact's digest."""
    pieces, start = [], 0
    while start < len(CONTENT):
        answer = served.http.get(content, headers={"Range": f"bytes={start}-{start + 700_000}", "If-Range": ETAG})
        stop = min(start + 700_001, len(CONTENT))
        assert answer.status_code == 206
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        pieces.append(answer.content)
        start = stop

    assert hashlib.sha256(b"".join(pieces)).hexdigest() == SHA256


@pytest.mark.parametrize(
    "headers", [{"Range": "bytes=5-1"}, {"Range": "bytes=0-1,4-5"}, {"Range": "bytes=0-1", "If-Range": '"x"'}]
)
def test_ranges_that_do_not_apply_send_the_whole(served: Served, content: str, headers: dict[str, str]) -> None:
    """Senseless ranges, several ranges, and ranges meant for other content are ignored."""
    answer = served.http.get(content, headers=headers)

    assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


def test_a_range_behind_the_end_is_refused(served: Served, content: str) -> None:
    """416 states the size."""
    answer = served.http.get(content, headers={"Range": f"bytes={len(CONTENT)}-"})

    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_damaged_content_is_never_sent(served: Served, content: str, tmp_path: Path, damage: str) -> None:
    """Bytes that are not those of the digest answer 500 with the kind of damage."""
    path = tmp_path / "store" / "sha256" / SHA256[:2] / SHA256
    path.chmod(0o640)
    if damage == "cut":
        path.write_bytes(CONTENT[:-1])
    elif damage == "changed":
        path.write_bytes(b"x" + CONTENT[1:])
    else:
        path.unlink()

    answer = served.http.get(content)

    assert answer.status_code == 500
    assert answer.json()["type"] == ("content-missing" if damage == "missing" else "content-corrupt")


@pytest.mark.parametrize("identifier", ["art_01k9z3v3n3q3v3n3q3v3n3q3v3", "job_01k9z3v3n3q3v3n3q3v3n3q3v3", "x"])
def test_unknown_artifacts_are_not_found(served: Served, identifier: str) -> None:
    """Neither described nor sent."""
    assert served.http.get(f"/v1/artifacts/{identifier}").status_code == 404
    assert served.http.get(f"/v1/artifacts/{identifier}/content").status_code == 404
