"""The web process's memory does not grow with what goes through it: measured on a process of its own."""

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.broker import SilentBell
from app.db.session import open_database
from app.services.assembly import Services
from app.storage.local import LocalStore
from benchmarks.polling import started
from benchmarks.upload import Watch, send
from tests.builders import artifact, claim, job, settings_with

# What one upload or download may hold at a time; the promise is for a body of 1 GiB.
GROWTH_MIB = 16
RESULT = {
    "before": {"macs": 2, "flops": 4, "params": 2, "size_bytes": 2, "peak_activation_bytes": 2},
    "after": {"macs": 1, "flops": 2, "params": 1, "size_bytes": 1, "peak_activation_bytes": 1},
    "target_met": True,
    "stopped_by": "target",
}


@pytest.fixture
def process(tmp_path: Path, sqlite_template: bytes) -> Iterator[tuple[int, int]]:
    """A web process that has served both kinds of upload once; its port and process id."""
    (tmp_path / "espalier.sqlite3").write_bytes(sqlite_template)
    settings = {"ESPALIER_DATA_DIR": str(tmp_path), "ESPALIER_LOG_LEVEL": "ERROR"}
    with started("app.main:from_environment", "--factory", **settings) as (port, pid):
        for form in (False, True):
            send(port, "/v1/models", 4, form=form)
        yield port, pid


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("megabytes", [200, pytest.param(1024, marks=pytest.mark.slow)])
def test_an_upload_is_not_held_in_memory(process: tuple[int, int], megabytes: int, *, form: bool) -> None:
    """However large the body, as it is or as a form: at most 16 MiB more than before it."""
    port, pid = process
    with Watch(pid) as watch:
        send(port, "/v1/models", megabytes, form=form)

    assert watch.growth <= GROWTH_MIB


def test_a_download_is_not_held_in_memory(process: tuple[int, int], tmp_path: Path) -> None:
    """The same for the bytes of an artifact on their way out; they arrive as they were stored."""
    port, pid = process
    content = b"x" * 150 * 1024 * 1024
    settings = settings_with(data_dir=tmp_path)
    services = Services.of(
        settings, database=open_database(settings), store=LocalStore(tmp_path / "store"), bell=SilentBell()
    )
    for _ in range(2):  # the uploads that warmed the process up wait for their analysis
        warming = claim(services)
        services.attempts.finish(warming.job_id, warming.epoch, {})
    row = job(services)
    claimed = claim(services)
    services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=[artifact(services, content)])
    services.close()
    listed = json.loads(_get(port, f"/v1/jobs/{row.id}/artifacts"))["data"][0]
    with Watch(pid) as watch:
        found = hashlib.sha256(_get(port, listed["links"]["content"])).hexdigest()

    assert found == listed["sha256"] == hashlib.sha256(content).hexdigest()
    assert watch.growth <= GROWTH_MIB


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body
