"""The page at /: what it may load, and that it shows jobs as text."""

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from app.api.index import content_policy
from app.domain.device import DeviceSpec
from tests.app.api.served import Served
from tests.builders import TENANT, analysed_model, artifact, claim

NAME, BOARD = "<img src=x onerror=alert(1)>", "<b>board</b>"
RESULT = {
    "before": {
        "macs": 3_034_368,
        "flops": 2,
        "params": 10,
        "size_bytes": 20,
        "peak_activation_bytes": 2,
        "accuracy": 0.9,
    },
    "after": {
        "macs": 1_509_472,
        "flops": 1,
        "params": 4,
        "size_bytes": 9,
        "peak_activation_bytes": 1,
        "accuracy": 0.89,
    },
    "target_met": True,
    "stopped_by": "target",
    "warnings": ["mind this"],
}


def test_the_page_may_run_its_own_script_and_nothing_else(served: Served) -> None:
    """The policy names the digests of one script and one style, asks this host only, and is not framed."""
    answer = served.http.get("/")
    policy = answer.headers["Content-Security-Policy"]

    assert policy == content_policy(answer.text)
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/]{43}='", policy)) == 2
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_comes_from_one_place(served: Served) -> None:
    """No handler or style sits in an attribute, nothing is loaded from elsewhere, and no answer becomes markup."""
    page = served.http.get("/").text

    assert not re.search(r"<[^>]*\s(on\w+|style)\s*=", page.split("<script>")[0])
    assert {"http://localhost:8000"} == set(re.findall(r"https?://[^/\s'\"]+", page))  # of the commands to copy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert not re.search(r"<(link|img|iframe|object|script src)", page)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium to look with")
def test_a_browser_shows_jobs_as_text(served: Served, tmp_path: Path) -> None:
    """A finished job appears with its figures and downloads, a device with its state; hostile names are text."""
    model = analysed_model(served.services)
    served.http.post("/v1/jobs", json={"model": model.id, "target": "flops=50%", "name": NAME})
    claimed = claim(served.services)
    left = [artifact(served.services)]
    served.services.devices.register(TENANT, DeviceSpec(name=BOARD))
    served.services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=left)
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    )
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", f"{served.url}/"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert f"<h3>{escape(NAME, quote=False)}</h3>" in shown.stdout
    for text in ("3.03&nbsp;M", "1.51&nbsp;M", "49.7&nbsp;%", "−1.0 points", "mind this", "net-pruned.onnx"):
        assert text in shown.stdout
    assert f"<h3>{escape(BOARD, quote=False)}</h3>" in shown.stdout
    assert "<h3>local</h3>" in shown.stdout
    assert "CONSOLE" not in shown.stderr
