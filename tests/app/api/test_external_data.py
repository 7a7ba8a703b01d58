"""A network whose weights lie in a companion file: taken in together, told apart by both."""

import hashlib

from tests.app.api.served import Served
from tests.builders import claim

ONNX = b"\x08\x07" + b"network" * 100
WEIGHTS, OTHER = b"weights" * 999, b"other weights" * 99


def upload(served: Served, weights: bytes | None) -> dict[str, object]:
    """Send the network with this companion; gives the model."""
    files = {"file": ("net.onnx", ONNX)}
    if weights is not None:
        files["external_data"] = ("net.onnx.data", weights)
    answer = served.http.post("/v1/models", files=files)
    assert answer.is_success, answer.text
    document: dict[str, object] = answer.json()
    return document


def test_a_companion_is_stated_by_digest_and_size(served: Served) -> None:
    """The model's own digest stays that of the ONNX file."""
    model = upload(served, WEIGHTS)

    assert model["sha256"] == hashlib.sha256(ONNX).hexdigest()
    assert model["external_data"] == {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size_bytes": len(WEIGHTS)}


def test_the_same_network_with_other_weights_is_another_model(served: Served) -> None:
    """And with the same weights the same one."""
    first, again, other, alone = (upload(served, weights) for weights in (WEIGHTS, WEIGHTS, OTHER, None))

    assert first["id"] == again["id"]
    assert len({first["id"], other["id"], alone["id"]}) == 3
    assert alone["external_data"] is None


def test_a_worker_is_given_both_files(served: Served) -> None:
    """By digest, as they lie in the store."""
    upload(served, WEIGHTS)

    source = claim(served.services).network

    assert source is not None
    assert source.sha256 == hashlib.sha256(ONNX).hexdigest()
    assert source.external_data == hashlib.sha256(WEIGHTS).hexdigest()
    assert b"".join(served.services.store.open(source.external_data)) == WEIGHTS


def test_a_job_may_bring_network_and_companion_along(served: Served) -> None:
    """The one-line form takes the part too."""
    files = {"model": ("net.onnx", ONNX), "external_data": ("w.bin", WEIGHTS)}

    answer = served.http.post("/v1/jobs", files=files, data={"target": "flops=50%"})

    assert answer.status_code == 202, answer.text
    model = served.http.get(f"/v1/models/{answer.json()['model']}").json()
    assert model["external_data"]["size_bytes"] == len(WEIGHTS)


def test_a_companion_without_its_network_is_refused(served: Served) -> None:
    """The missing part is named, for an upload and for a job."""
    alone = served.http.post("/v1/models", files={"external_data": ("w.bin", WEIGHTS)})
    with_id = served.http.post(
        "/v1/jobs",
        files={"external_data": ("w.bin", WEIGHTS)},
        data={"target": "flops=50%", "spec": f'{{"model": "{upload(served, None)["id"]}"}}'},
    )

    assert (alone.status_code, alone.json()["errors"][0]["pointer"]) == (422, "/file")
    assert (with_id.status_code, with_id.json()["errors"][0]["pointer"]) == (422, "/model")


def test_a_dataset_has_no_companion(served: Served) -> None:
    """The part is unknown there."""
    answer = served.http.post("/v1/datasets", files={"external_data": ("w.bin", WEIGHTS)})

    assert answer.status_code == 422
    assert "external_data" in answer.json()["detail"]
