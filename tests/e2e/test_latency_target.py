"""A latency as the target, with everything real: the service, its workers, the engine, an agent with its own token."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = {"succeeded", "failed", "cancelled"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def inputs(service_url: str, digits: Path) -> dict[str, str]:
    """The ids of the uploaded network and data."""
    found = {}
    for kind, name in (("model", "digits.onnx"), ("dataset", "digits.npz")):
        content, headers = (digits / name).read_bytes(), {"Content-Type": "application/octet-stream"}
        answer = httpx.post(f"{service_url}/v1/{kind}s", content=content, headers=headers, timeout=60)
        found[kind] = answer.json()["id"]
    return found


def submitted(url: str, inputs: dict[str, str], **asked: Any) -> str:
    """A job that trains hardly at all."""
    answer = httpx.post(f"{url}/v1/jobs", json={**inputs, "finetune": {"steps": 0}, **asked}, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(url: str, job_id: str, wait: int = 0) -> dict[str, Any]:
    """A job as it is now, or once it has ended."""
    found: dict[str, Any] = httpx.get(f"{url}/v1/jobs/{job_id}", params={"wait": wait}, timeout=60).json()
    return found


def ended(url: str, job_id: str, seconds: float = 400) -> dict[str, Any]:
    """A job that has ended."""
    until = time.monotonic() + seconds
    while (found := job(url, job_id, wait=10))["state"] not in TERMINAL:
        assert time.monotonic() < until, found["progress"]
    return found


@contextmanager
def agent(url: str, token: str, folder: Path) -> Iterator[None]:
    """An agent at work."""
    command = [sys.executable, "-m", "workers.edge_agent", "--url", url, "--work-dir", str(folder)]
    environment = {**os.environ, "ESPALIER_DEVICE_TOKEN": token}
    with (folder.parent / "agent.log").open("wb") as log:
        started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        started.terminate()
        started.wait(60)


def test_the_workers_own_processor(service_url: str, inputs: dict[str, str]) -> None:
    """60 % of the latency: what was measured at the end is stated, and every layer is in the record."""
    found = ended(service_url, submitted(service_url, inputs, target="latency=60%"))
    result = found["result"]
    (target,) = result["targets"]
    which = {"device": "dev_local", "limit": 100}
    rows = httpx.get(f"{service_url}/v1/measurements", params=which, timeout=60).json()["data"]
    of_job = [row for row in rows if row["job"] == found["id"]]

    assert found["state"] == "succeeded", found["problem"]
    assert target["limit"] == pytest.approx(0.6 * result["before"]["latency_ms"])
    assert target["reached"] == result["after"]["latency_ms"]
    assert target["reached"] < 0.7 * result["before"]["latency_ms"]
    assert {row["kind"] for row in of_job} == {"layer", "network"}
    assert all(row["host"]["alone"] is True for row in of_job)


def test_a_device_that_comes_late(service_url: str, inputs: dict[str, str], tmp_path: Path) -> None:
    """The job waits for its device, says so, and goes on when the agent calls; a second limit holds as well."""
    made = httpx.post(f"{service_url}/v1/devices", json={"name": "late"}, timeout=60).json()
    job_id = submitted(service_url, inputs, target=f"latency=60%@{made['id']},params=70%")
    until = time.monotonic() + 120
    while "gives up at" not in (job(service_url, job_id)["progress"]["message"] or ""):
        assert time.monotonic() < until
        time.sleep(0.5)
    with agent(service_url, made["token"], tmp_path / "agent"):
        found = ended(service_url, job_id)
    result = found["result"]

    assert found["state"] == "succeeded", found["problem"]
    assert [entry["device"] for entry in result["devices"]] == ["dev_local", made["id"]]
    assert result["after"]["params"] <= 0.7 * result["before"]["params"]
    assert result["devices"][1]["ratio"] < 0.7


def test_what_no_width_reaches(service_url: str, inputs: dict[str, str]) -> None:
    """A hundredth of the latency: the job fails by name, and says what the smallest network takes."""
    found = ended(service_url, submitted(service_url, inputs, target="latency=1%"))

    assert (found["state"], found["problem"]["type"]) == ("failed", "target-unreachable")
    assert "smallest" in found["problem"]["detail"]
    assert " ms" in found["problem"]["detail"]
