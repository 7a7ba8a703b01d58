"""The client speaks to the real service: it uploads, waits, downloads, and gets over connections that break."""

import hashlib
import json
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli import main
from app.client import Client, RequestFailed
from app.domain.job import Phase
from app.services.assembly import Services
from app.services.claims import Progress
from tests.app.api.served import Host, Served, hosting
from tests.builders import analysed_model, artifact, claim, job

ONNX = b"\x08\x07" + b"network" * 100
CONTENT = bytes(range(256)) * 12_000
RESULT = {
    "before": {"macs": 2, "flops": 4, "params": 2, "size_bytes": 2, "peak_activation_bytes": 2},
    "after": {"macs": 1, "flops": 2, "params": 1, "size_bytes": 1, "peak_activation_bytes": 1},
    "target_met": True,
    "stopped_by": "target",
}


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A running server."""
    with hosting() as found:
        yield found


@pytest.fixture(params=["sqlite"])
def database_url(tmp_path: Path, sqlite_template: bytes) -> str:
    """SQLite alone: what differs between databases is behind HTTP."""
    path = tmp_path / "espalier.sqlite3"
    path.write_bytes(sqlite_template)
    return f"sqlite:///{path}"


@pytest.fixture
def served(host: Host, services: Services) -> Iterator[Served]:
    """The service over HTTP."""
    with host.serving(services) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    """A client of it."""
    with Client(served.url) as found:
        yield found


def finished(served: Served) -> str:
    """A finished job with one artifact."""
    row = job(served.services)
    claimed = claim(served.services)
    served.services.attempts.finish(
        claimed.job_id, claimed.epoch, RESULT, artifacts=[artifact(served.services, CONTENT)]
    )
    return row.id


def test_a_file_is_uploaded_under_its_name(client: Client, tmp_path: Path) -> None:
    """The model has the file's name and digest; uploading it again gives the same model."""
    path = tmp_path / "net.onnx"
    path.write_bytes(ONNX)

    model = client.upload_model(path)

    assert (model["name"], model["sha256"]) == ("net.onnx", hashlib.sha256(ONNX).hexdigest())
    assert client.upload_model(str(path), name="other")["id"] == model["id"]
    assert client.model(model) == model
    assert [entry["id"] for entry in client.models()] == [model["id"]]


def test_arrays_are_uploaded_as_an_npz(client: Client, served: Served, tmp_path: Path) -> None:
    """A dictionary of arrays becomes an .npz without pickles that holds them."""
    dataset = client.upload_dataset({"x": np.ones((4, 2), np.float32), "y": np.arange(4)}, name="mine.npz")
    target = tmp_path / "copy.npz"
    served.services.store.fetch(dataset["sha256"], target)

    with np.load(target, allow_pickle=False) as found:
        assert found["x"].shape == (4, 2)
        assert found["y"].tolist() == [0, 1, 2, 3]
    assert client.dataset(dataset["id"])["name"] == "mine.npz"


def test_a_dataset_file_is_uploaded_as_it_is(client: Client, tmp_path: Path) -> None:
    """A zip keeps its bytes."""
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.png", b"x")

    assert client.upload_dataset(path)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_job_is_submitted_listed_planned_and_cancelled(client: Client, served: Served) -> None:
    """Models and datasets may be given as documents or as ids."""
    model = client.model(analysed_model(served.services).id)

    plan = client.estimate(model=model, target="macs=50%")
    submitted = client.submit(model=model, target={"metric": "flops", "ratio": 0.5}, seed=3)

    assert plan["refusals"] == []
    assert client.job(submitted) == submitted
    assert [entry["id"] for entry in client.jobs(state="queued")] == [submitted["id"]]
    assert client.cancel(submitted["id"])["state"] == "cancelled"
    assert [event["type"] for event in client.events(submitted)] == ["queued", "cancelled"]
    assert client.artifacts(submitted) == []


def test_waiting_shows_every_change_and_ends_with_the_job(client: Client, served: Served) -> None:
    """The callback sees the job as it was, as it ran, and as it ended."""
    row = job(served.services)
    seen: list[str] = []

    def work() -> None:
        time.sleep(0.4)
        claimed = claim(served.services)
        served.services.attempts.progress(claimed.job_id, claimed.epoch, Progress(phase=Phase.SCORE, fraction=0.5))
        time.sleep(0.6)
        served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT)

    worker = threading.Thread(target=work)
    worker.start()
    ended = client.wait(row.id, timeout=20, on_progress=lambda found: seen.append(found["state"]))
    worker.join()

    assert ended["state"] == "succeeded"
    assert seen == ["queued", "running", "succeeded"]


def test_waiting_has_an_end(client: Client, served: Served) -> None:
    """A job that does not end within the time raises TimeoutError, and goes on."""
    row = job(served.services)

    with pytest.raises(TimeoutError, match="it goes on"):
        client.wait(row.id, timeout=0.1)

    assert client.job(row.id)["state"] == "queued"


def test_a_download_is_whole_verified_and_resumed(client: Client, served: Served, tmp_path: Path) -> None:
    """A job's network is put in place at once; what an earlier attempt left is not fetched again."""
    identifier = finished(served)
    target = tmp_path / "smaller.onnx"
    part = tmp_path / f".smaller.onnx.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(CONTENT[:1_000_000])

    assert client.download(identifier, target) == target
    assert target.read_bytes() == CONTENT
    assert not part.exists()

    second = client.download(client.artifacts(identifier)[0], tmp_path / "again.onnx")
    assert second.read_bytes() == CONTENT


def test_the_report_is_downloaded_by_its_name(client: Client, served: Served, tmp_path: Path) -> None:
    """Of a job's artifacts the one with the wanted ending comes, by the client and by the command."""
    row = job(served.services)
    claimed = claim(served.services)
    left = [
        artifact(served.services, CONTENT),
        artifact(served.services, b"{}", kind="report", name="report.json"),
        artifact(served.services, b"<!doctype html>", kind="report", name="report.html"),
    ]
    served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=left)
    by_command = ["report", row.id, "-o", str(tmp_path / "page.html"), "--url", served.url]
    done = CliRunner().invoke(main, by_command)

    assert client.download(row.id, tmp_path / "report", ending="report.json").read_bytes() == b"{}"
    assert (done.exit_code, (tmp_path / "page.html").read_bytes()) == (0, b"<!doctype html>")


def test_a_job_is_submitted_by_command_without_a_target(served: Served, tmp_path: Path) -> None:
    """An allowed drop of accuracy is enough, and what the outputs mean goes with it; the network is fetched."""
    analysed_model(served.services, ONNX)
    network, smaller = tmp_path / "net.onnx", tmp_path / "smaller.onnx"
    network.write_bytes(ONNX)
    asked: list[dict[str, Any]] = []

    def work() -> None:
        while (claimed := served.services.attempts.claim("worker-1", ["cpu"])) is None:
            time.sleep(0.05)
        asked.append(dict(claimed.spec))
        left = [artifact(served.services, CONTENT)]
        served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=left)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    options = ["--max-accuracy-drop", "0.02", "--head", "classifier", "-o", str(smaller), "--url", served.url]
    done = CliRunner().invoke(main, ["prune", str(network), *options])
    worker.join(20)

    assert done.exit_code == 0, done.output
    assert smaller.read_bytes() == CONTENT
    assert (asked[0]["head"], asked[0]["max_accuracy_drop"]) == ("classifier", 0.02)


def test_a_damaged_download_is_refused_and_removed(client: Client, served: Served, tmp_path: Path) -> None:
    """Bytes that are not those of the digest never get the name that was asked for."""
    identifier = finished(served)
    part = tmp_path / f".net.onnx.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(b"x" * 1000)

    with pytest.raises(RequestFailed, match="was damaged"):
        client.download(identifier, tmp_path / "net.onnx")

    assert list(tmp_path.glob("*net.onnx*")) == []


def test_a_job_without_a_network_cannot_be_downloaded(client: Client, served: Served, tmp_path: Path) -> None:
    """The refusal says in which state the job is, or why it failed."""
    waiting = job(served.services).id
    with pytest.raises(RequestFailed, match=r"is queued and has no \.onnx artifact"):
        client.download(waiting, tmp_path / "net.onnx")

    claimed = claim(served.services)
    problem = {"type": "out-of-memory", "title": "Out of memory", "detail": "9 GB were not enough", "retryable": False}
    served.services.attempts.fail(claimed.job_id, claimed.epoch, problem, retryable=False)
    with pytest.raises(RequestFailed, match="Out of memory: 9 GB were not enough"):
        client.download(waiting, tmp_path / "net.onnx")


def test_a_refusal_is_one_exception_with_the_problem(client: Client) -> None:
    """Message for people, fields for programs."""
    with pytest.raises(RequestFailed) as caught:
        client.submit(model="mdl_1", target="half", seed=-1)

    error = caught.value
    assert (error.status, error.type, error.retryable) == (422, "validation-failed", False)
    assert "/seed" in str(error)
    assert error.problem["instance"] in str(error)


def test_what_is_no_json_fails_at_its_cause(client: Client) -> None:
    """An argument that JSON does not know raises before anything is sent."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        client.submit(model="mdl_1", target="flops=50%", metadata={"a": object()})


@contextmanager
def breaking(address: tuple[str, int], cut: Callable[[int], int | None]) -> Iterator[str]:
    """A relay to the service that closes its n-th connection once `cut(n)` bytes of the answer went by."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay(number: int, near: socket.socket) -> None:
            left = cut(number)
            with near, socket.create_connection(address) as far:
                sender = threading.Thread(target=_copy, args=(near, far), daemon=True)
                sender.start()
                _copy(far, near, left)

        def accept() -> None:
            number = 0
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=relay, args=(number, near), daemon=True).start()
                number += 1

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket, limit: int | None = None) -> None:
    passed = 0
    try:
        while limit is None or passed < limit:
            chunk = source.recv(65536 if limit is None else min(65536, limit - passed))
            if not chunk:
                break
            target.sendall(chunk)
            passed += len(chunk)
    except OSError:
        pass
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_a_lost_answer_makes_nothing_twice(served: Served) -> None:
    """The connection closes before the answer: the request is sent again with its key, and there is one job."""
    model = analysed_model(served.services)
    with breaking(served.address, lambda number: 0 if number == 0 else None) as url, Client(url) as client:
        submitted = client.submit(model=model.id, target="flops=50%")

        assert [entry["id"] for entry in client.jobs()] == [submitted["id"]]


def test_a_download_that_is_cut_goes_on(served: Served, tmp_path: Path) -> None:
    """Connections that close in the middle of the content: the rest is fetched, and the whole is verified."""
    made = served.http.get(f"/v1/jobs/{finished(served)}/artifacts").json()["data"][0]
    with breaking(served.address, lambda number: 1_200_000 if number < 2 else None) as url, Client(url) as client:
        client.download(made["id"], tmp_path / "net.onnx")

    assert (tmp_path / "net.onnx").read_bytes() == CONTENT


def test_a_service_that_is_not_there_says_so() -> None:
    """After the last attempt the problem names the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Client(url) as client, pytest.raises(RequestFailed, match="is the service running") as caught:
        client.job("job_1")

    assert caught.value.problem["retryable"] is True
    assert json.dumps(caught.value.problem)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_torch_module_is_converted_here_and_takes_any_batch(client: Client, served: Served, tmp_path: Path) -> None:
    """The uploaded network answers as the module in evaluation mode does, for another batch size than the example's."""
    import onnxruntime
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    model: dict[str, Any] = client.upload_torch(module, [torch.ones(1, 3, 8, 8)])
    target = tmp_path / "net.onnx"
    served.services.store.fetch(model["sha256"], target)
    sample = torch.rand(5, 3, 8, 8)
    session = onnxruntime.InferenceSession(target.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: sample.numpy()})

    assert model["name"] == "Sequential.onnx"
    assert module.training
    np.testing.assert_allclose(found, module.eval()(sample).detach().numpy(), rtol=1e-4, atol=1e-5)
