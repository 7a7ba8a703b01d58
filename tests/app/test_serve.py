"""The one-machine service as a process tree: it starts, heals, refuses to start twice, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from app.serve import environment_of
from app.settings import Settings
from app.valkey import ValkeyMissing, binary
from tests.builders import settings_with
from tests.waiting import alive, descendants, wait_for
from tests.workers.processes import free_port

try:
    binary()
    EMBEDDED = True
except ValkeyMissing:
    EMBEDDED = False


@contextmanager
def serving(settings: Settings, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m app.serve` in a session of its own; whatever is left of it goes at the end."""
    environment = {**environment_of(settings), "PYTHONPATH": str(Path.cwd())}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.serve"], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        family = descendants(process.pid)
        process.kill()
        process.wait()
        for each in family:
            with suppress(psutil.Error):
                each.kill()


def ready(port: int) -> bool:
    """Whether the service says that it is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False


def part(pid: int, name: str) -> psutil.Process | None:
    """The living process of a part, by a word of its command line."""
    for each in descendants(pid):
        with suppress(psutil.Error):
            command = each.cmdline()
            if any(name in word for word in command) and "lifeline" not in " ".join(command):
                return each
    return None


def quick_settings(folder: Path, **changes: object) -> Settings:
    """A service in a folder on a free port."""
    return settings_with(**{"data_dir": folder / "data", "port": free_port(), **changes})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A service in a folder on a free port."""
    return quick_settings(tmp_path)


def test_it_starts_heals_refuses_a_second_one_and_stops(settings, tmp_path) -> None:
    """One life of the service: ready, a killed web process and doorbell come back, a second service is refused."""
    log = tmp_path / "serve.log"
    with serving(settings, log) as process:
        wait_for(lambda: ready(settings.port), 60)
        wait_for(lambda: "service.ready" in log.read_text())
        second = [sys.executable, "-m", "app.serve"]
        for other, said in (
            (settings.model_copy(update={"port": free_port()}), f"in use by process {process.pid}"),
            (settings.model_copy(update={"data_dir": tmp_path / "other"}), "Choose another ESPALIER_PORT"),
        ):
            done = subprocess.run(second, env=environment_of(other), capture_output=True, text=True, check=False)
            assert (2, True) == (done.returncode, said in done.stderr), done.stderr
        for name in ("web_process", *(["valkey-server"] if EMBEDDED else []), "housekeeping"):
            victim = part(process.pid, name)
            victim.kill()
            wait_for(lambda name=name, victim=victim: (p := part(process.pid, name)) and p.pid != victim.pid)
        assert httpx.get(f"http://127.0.0.1:{settings.port}/livez", timeout=60).is_success
        wait_for(lambda: ready(settings.port), 60)
        family = descendants(process.pid)
        process.send_signal(signal.SIGTERM)

        assert 0 == process.wait(120)
        assert [] == alive(family)


def test_nothing_outlives_a_killed_service_and_a_new_one_starts_at_once(settings, tmp_path) -> None:
    """kill -9 of the root ends every part; the lock of the data directory goes with it."""
    with serving(settings, tmp_path / "serve.log") as process:
        wait_for(lambda: part(process.pid, "web_process") and part(process.pid, "housekeeping"), 60)
        family = descendants(process.pid)
        process.kill()
        process.wait()

        wait_for(lambda: not alive(family))
    assert len(family) >= 3
    with serving(settings, tmp_path / "again.log"):
        wait_for(lambda: ready(settings.port), 60)


def test_parts_read_the_very_settings_that_were_given(tmp_path) -> None:
    """What was chosen on the command line reaches every part through its environment, secrets included."""
    given = settings_with(
        data_dir=tmp_path,
        lease_seconds=timedelta(seconds=12.5),
        heartbeat_seconds=timedelta(seconds=1),
        redis_url=SecretStr("redis://:secret@host/0"),
        log_json=False,
        child_memory_bytes=None,
        workers=3,
    )
    environment = environment_of(given)
    program = "from app.settings import Settings; import sys; sys.stdout.write(repr(Settings().model_dump()))"
    read = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert repr(given.model_dump()) == read.stdout
    assert "redis://:secret@host/0" == environment["ESPALIER_REDIS_URL"]


def test_settings_of_the_surroundings_do_not_leak_in(tmp_path, monkeypatch) -> None:
    """A variable that was overridden by an argument must not come back in a part."""
    monkeypatch.setenv("ESPALIER_REDIS_URL", "redis://elsewhere")

    assert "ESPALIER_REDIS_URL" not in environment_of(settings_with(data_dir=tmp_path, redis_url=None))
    assert os.environ["ESPALIER_REDIS_URL"]


@pytest.mark.slow
def test_a_killed_web_process_refuses_no_request(settings, tmp_path) -> None:
    """The listening socket outlives the web process: a request sent while it is down is answered late, not refused."""
    with serving(settings, tmp_path / "serve.log") as process:
        wait_for(lambda: ready(settings.port), 60)
        for _ in range(3):
            part(process.pid, "web_process").kill()
            assert httpx.get(f"http://127.0.0.1:{settings.port}/livez", timeout=60).is_success
            time.sleep(0.5)
