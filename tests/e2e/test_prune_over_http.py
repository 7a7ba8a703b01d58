"""The main job, as the README's transcript does it: a real network goes in, a smaller ONNX comes out."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime as ort
import pytest

TERMINAL = {"succeeded", "failed", "cancelled"}
PATIENCE_S = 600.0  # a quiet machine takes half a minute


@pytest.fixture(scope="module")
def finished(service_url: str, digits: Path) -> dict[str, Any]:
    """The job of the one-line form, polled to its end."""
    with (digits / "digits.onnx").open("rb") as network, (digits / "digits.npz").open("rb") as data:
        answer = httpx.post(
            f"{service_url}/v1/jobs",
            files={"model": ("digits.onnx", network), "dataset": ("digits.npz", data)},
            data={"target": "flops=50%"},
            timeout=60,
        )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    deadline = time.monotonic() + PATIENCE_S
    while job["state"] not in TERMINAL and time.monotonic() < deadline:
        job = httpx.get(f"{service_url}/v1/jobs/{job['id']}", params={"wait": 10}, timeout=30).json()
    return job


def _content(url: str, job: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    artifact = next(a for a in job["result"]["artifacts"] if a["kind"] == "onnx")
    answer = httpx.get(f"{url}/v1/artifacts/{artifact['id']}/content", timeout=60)
    answer.raise_for_status()
    return answer.content, artifact


def test_half_the_flops_are_left_and_the_figures_are_measured(finished: dict[str, Any]) -> None:
    """The target is met, never exceeded, and the report carries accuracy, agreement and latency."""
    assert finished["state"] == "succeeded", finished["problem"]
    before, after = finished["result"]["before"], finished["result"]["after"]

    assert after["flops"] <= 0.5 * before["flops"]
    assert finished["result"]["target_met"]
    assert before["accuracy"] - after["accuracy"] < 0.05
    assert after["latency_ms"] is not None
    assert after["size_bytes"] < before["size_bytes"]


def test_the_artifact_is_what_was_promised(finished: dict[str, Any], service_url: str, digits: Path) -> None:
    """Same names, types and dynamic batch as the original; the digest holds; ONNX Runtime runs it at any batch."""
    content, artifact = _content(service_url, finished)
    original = onnx.load(digits / "digits.onnx")
    pruned = onnx.load_from_string(content)
    onnx.checker.check_model(pruned, full_check=True)

    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    assert [v.name for v in pruned.graph.input] == [v.name for v in original.graph.input]
    assert [v.name for v in pruned.graph.output] == [v.name for v in original.graph.output]
    assert {p.key for p in pruned.metadata_props} >= {"espalier.source_sha256", "espalier.method", "espalier.seed"}
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    arrays = np.load(digits / "digits.npz")
    logits = session.run(None, {session.get_inputs()[0].name: arrays["x_val"]})[0]
    measured = float((logits.argmax(1) == arrays["y_val"]).mean())
    assert measured == pytest.approx(finished["result"]["after"]["accuracy"], abs=1e-6)


def test_weights_beside_the_network_come_back_beside_it(service_url: str, digits: Path, tmp_path: Path) -> None:
    """As a network of more than 2 GiB has to come: two files in, two files out, and they belong together."""
    onnx.save_model(
        onnx.load(digits / "digits.onnx"),
        str(tmp_path / "net.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with (tmp_path / "net.onnx").open("rb") as network, (tmp_path / "weights.bin").open("rb") as weights:
        answer = httpx.post(
            f"{service_url}/v1/jobs",
            files={"model": ("net.onnx", network), "external_data": ("weights.bin", weights)},
            data={"target": "flops=50%", "spec": '{"finetune": {"steps": 0}}'},
            timeout=60,
        )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    deadline = time.monotonic() + PATIENCE_S
    while job["state"] not in TERMINAL and time.monotonic() < deadline:
        job = httpx.get(f"{service_url}/v1/jobs/{job['id']}", params={"wait": 10}, timeout=30).json()
    assert job["state"] == "succeeded", job["problem"]
    for artifact in job["result"]["artifacts"]:
        content = httpx.get(f"{service_url}/v1/artifacts/{artifact['id']}/content", timeout=60).content
        (tmp_path / artifact["name"]).write_bytes(content)

    onnx.checker.check_model(str(tmp_path / "pruned.onnx"), full_check=True)
    session = ort.InferenceSession(str(tmp_path / "pruned.onnx"), providers=["CPUExecutionProvider"])
    images = np.load(digits / "digits.npz")["x_val"][:3]
    assert session.run(None, {session.get_inputs()[0].name: images})[0].shape == (3, 10)
    assert {artifact["kind"] for artifact in job["result"]["artifacts"]} == {"onnx", "external_data", "report"}


def test_the_command_line_does_the_same_without_a_service(digits: Path, tmp_path: Path) -> None:
    """`espalier prune --local` writes a pruned network and prints the table."""
    out = tmp_path / "small.onnx"
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "prune",
        str(digits / "digits.onnx"),
        "--data",
        str(digits / "digits.npz"),
    ]
    done = subprocess.run(
        [*command, "--target", "flops=60%", "--steps", "10", "-o", str(out), "--local"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert done.returncode == 0, done.stderr
    assert "MACs" in done.stdout
    assert onnx.load(out).graph.node


def test_the_command_line_uploads_watches_downloads_and_verifies(
    service_url: str, digits: Path, tmp_path: Path
) -> None:
    """`espalier prune --url` leaves the file that the service made."""
    out = tmp_path / "small.onnx"
    command = [sys.executable, "-m", "app.cli", "prune", str(digits / "digits.onnx"), "--url", service_url]
    done = subprocess.run(
        [*command, "--data", str(digits / "digits.npz"), "--target", "flops=60%", "--steps", "10", "-o", str(out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert done.returncode == 0, done.stderr
    assert onnx.load(out).graph.node


def test_a_refused_target_says_what_to_do_on_the_command_line(service_url: str, digits: Path, tmp_path: Path) -> None:
    """A target that does not parse ends with status 1 and the grammar, not with a traceback."""
    command = [sys.executable, "-m", "app.cli", "prune", str(digits / "digits.onnx"), "--url", service_url]
    done = subprocess.run(
        [*command, "--target", "flops=fast", "-o", str(tmp_path / "x.onnx")],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 1
    assert "flops=50%" in done.stderr
    assert "Traceback" not in done.stderr
