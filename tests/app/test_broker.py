"""The bell: rings where there is a broker, says so where there is none, never holds a request up."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.broker import CELERY_SETTINGS, CeleryBell, SilentBell, open_bell
from app.valkey import Valkey, ValkeyMissing, prepare
from tests.builders import settings_with
from tests.waiting import wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey of this test."""
    try:
        prepared = prepare(tmp_path / "valkey")
    except ValkeyMissing as error:
        pytest.skip(f"no Valkey starts here: {error}")
    with subprocess.Popen(prepared.command) as process:
        wait_for(prepared.answers, 5)
        yield prepared
        process.kill()


def test_a_ring_is_a_task_by_name(server: Valkey) -> None:
    """One JSON message in the queue's own list: the task's name and the queue, nothing of the job."""
    bell = CeleryBell(f"redis+socket://{server.socket}")

    assert bell.answers()
    assert bell.ring("cpu")
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        (raw,) = client.lrange("espalier.cpu", 0, -1)
    message = json.loads(raw)

    assert message["headers"]["task"] == "espalier.look"
    assert message["headers"]["argsrepr"] == "['cpu']"
    assert message["content-type"] == "application/json"
    bell.close()


def test_a_bell_without_a_server_says_so_quickly(tmp_path: Path) -> None:
    """Rings fail and raise nothing: a retry without end would never return."""
    bell = CeleryBell(f"redis+socket://{tmp_path / 'nobody.sock'}")
    assert bell.ring("cpu") is False
    assert bell.ring("cpu") is False
    assert bell.answers() is False
    bell.close()


def test_no_broker_means_silence() -> None:
    """Without a URL workers look by themselves, and ringing always succeeds."""
    bell = open_bell(settings_with())

    assert isinstance(bell, SilentBell)
    assert (bell.ring("cpu"), bell.answers()) == (True, True)


def test_a_url_means_celery() -> None:
    """The configured broker is used; nothing is connected yet."""
    assert isinstance(open_bell(settings_with(redis_url="redis://nowhere.invalid/0")), CeleryBell)


def test_messages_cannot_carry_code() -> None:
    """JSON is all that is written and all that is read; the database, not the broker, holds a running job."""
    assert CELERY_SETTINGS["accept_content"] == ["json"]
    assert CELERY_SETTINGS["task_acks_late"] is False
