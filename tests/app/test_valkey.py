"""The embedded doorbell: started with our configuration, reached over its socket only."""

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import redis

from app.valkey import Valkey, ValkeyMissing, binary, prepare
from tests.waiting import wait_for

try:
    binary()
except ValkeyMissing:
    pytest.skip("the embedded Valkey is not installed for this machine", allow_module_level=True)


@contextmanager
def running(server: Valkey) -> Iterator[subprocess.Popen[bytes]]:
    """The server, answering."""
    with subprocess.Popen(server.command) as process:
        wait_for(server.answers, 5)
        try:
            yield process
        finally:
            process.kill()


def test_the_server_listens_on_a_private_socket_and_on_no_port(tmp_path) -> None:
    """Nobody but this user reaches it: folder 0700, no TCP port."""
    server = prepare(tmp_path / "valkey")
    with running(server) as process:
        listening = [c for c in psutil.Process(process.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]

        assert [] == listening
        assert 0o700 == stat.S_IMODE(server.socket.parent.stat().st_mode)


def test_what_was_written_a_second_ago_survives_a_kill(tmp_path) -> None:
    """The append-only file keeps queued bells across kill -9."""
    server = prepare(tmp_path / "valkey")
    with running(server), redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.rpush("queue", *range(100))
        time.sleep(1.2)  # appendfsync everysec
    with running(prepare(tmp_path / "valkey")), redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert 100 == client.llen("queue")


def test_it_never_evicts(tmp_path) -> None:
    """A full memory is an error to whoever writes, not a lost bell; `appendonly` is on and snapshots are off."""
    server = prepare(tmp_path / "valkey")
    with running(server), redis.Redis(unix_socket_path=str(server.socket), decode_responses=True) as client:
        settings = client.config_get("maxmemory-policy") | client.config_get("appendonly") | client.config_get("save")

        assert {"maxmemory-policy": "noeviction", "appendonly": "yes", "save": ""} == settings


def test_a_folder_too_deep_for_a_socket_gets_a_short_one_elsewhere(tmp_path) -> None:
    """The kernel allows 108 bytes for a socket's path; a deep data directory must not prevent the start."""
    deep = tmp_path / ("x" * 60) / ("y" * 60) / "valkey"
    server = prepare(deep)

    assert len(os.fsencode(server.socket)) <= 100
    assert 0o700 == stat.S_IMODE(server.socket.parent.stat().st_mode)
    with running(server):
        assert server.answers()
        assert (deep / "appendonlydir").is_dir()
    server.socket.unlink(missing_ok=True)
    server.socket.parent.rmdir()


def test_names_with_blanks_and_quotes_are_written_so_that_the_server_reads_them(tmp_path) -> None:
    """A folder's name is the user's business."""
    with running(prepare(tmp_path / 'my "data"' / "valkey")):
        assert (tmp_path / 'my "data"' / "valkey" / "appendonlydir").is_dir()


def test_an_absent_server_does_not_answer(tmp_path) -> None:
    """No server, no answer, no exception."""
    assert not prepare(tmp_path).answers()


def test_a_machine_without_the_wheel_is_told_what_to_do(monkeypatch) -> None:
    """Without the server the service still runs; the message says how to get it."""
    monkeypatch.setattr("app.valkey.find_spec", lambda _: None)

    with pytest.raises(ValkeyMissing, match="extra `embedded`"):
        binary()
