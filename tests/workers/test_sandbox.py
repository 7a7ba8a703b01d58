"""The sandbox from inside: what a process can no longer do once it has entered."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workers import landlock
from workers.sandbox import Limits, SandboxIncomplete, child_environment, enter

PRELUDE = """
import json, os, socket, sys
from pathlib import Path
from workers.sandbox import Limits, enter
folder = Path(sys.argv[1])
limits = Limits(memory_bytes=2 * 2**30, cpu_seconds=30, file_bytes=2**20, open_files=64)
states = enter(limits, read=[], write=[folder])
def tried(action):
    try:
        action()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "done"
"""


def inside(folder: Path, expression: str) -> object:
    """The value of an expression that a process inside the sandbox evaluates."""
    program = f"{PRELUDE}\nprint(json.dumps({expression}))"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", program, str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)


needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel offers no Landlock")


def test_every_layer_states_whether_it_is_active_or_why_not(tmp_path) -> None:
    """No layer is silent: each is either active or says what is missing."""
    states = inside(tmp_path, "states")

    assert {
        "network", "first_oom_victim", "no_new_privileges", "filesystem", "memory", "cpu_time", "file_size",
        "open_files", "no_core_dump", "processes", "nice",
    } == set(states)  # fmt: skip
    assert [] == [state for state in states.values() if not state.startswith(("active", "unavailable: "))]
    assert states["no_new_privileges"] == "active"


@needs_landlock
@pytest.mark.parametrize(
    "action",
    [
        "open('/etc/passwd')",
        "open(f'/proc/{os.getppid()}/environ').read()",
        "open('/tmp/espalier-escape', 'w')",
        "open(folder.parent / 'beside', 'w')",
        "os.kill(os.getppid(), 0)",
        "os.mkdir('/dev/shm/espalier-escape')",
    ],
)
def test_nothing_outside_the_job_folder_is_reachable(tmp_path, action) -> None:
    """Secrets of the host, the supervisor's environment, other jobs' folders and other processes are out of reach."""
    folder = tmp_path / "job"
    folder.mkdir()

    assert "PermissionError" == inside(folder, f"tried(lambda: {action})")


def test_the_job_folder_is_writable(tmp_path) -> None:
    """Checkpoints are written beside their place and renamed."""
    (tmp_path / "a").write_text("x")
    action = "(open(folder / 'b', 'w').close(), os.replace(folder / 'b', folder / 'a'), os.remove(folder / 'a'))"

    assert "done" == inside(tmp_path, f"tried(lambda: {action})")


def test_there_is_no_network(tmp_path) -> None:
    """Neither a name server nor a service on this very host can be reached."""
    if not inside(tmp_path, "states['network']").startswith("active"):
        pytest.skip("this user may not enter a network namespace")
    packet = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))"
    local = "socket.create_connection(('127.0.0.1', 22), timeout=2)"

    assert "OSError" == inside(tmp_path, f"tried(lambda: {packet})")
    assert inside(tmp_path, f"tried(lambda: {local})") in {"OSError", "PermissionError"}


def test_memory_and_files_end_at_their_limits(tmp_path) -> None:
    """3 GiB do not fit into 2 GiB of address space, nor 2 MiB into a file of 1 MiB."""
    assert "MemoryError" == inside(tmp_path, "tried(lambda: bytearray(3 * 2**30))")
    assert "OSError" == inside(tmp_path, "tried(lambda: (folder / 'big').write_bytes(bytes(2**21)))")
    assert 2**20 == (tmp_path / "big").stat().st_size


def test_a_required_layer_that_is_missing_names_itself_and_its_reason() -> None:
    """Fail closed, with the reason for the operator."""
    limits = Limits(memory_bytes=None, cpu_seconds=None, file_bytes=None, open_files=None, nice=0, required=("memory",))
    child = os.fork()
    if child == 0:  # entering cannot be undone, so a copy of this process does it
        try:
            enter(limits, read=[], write=[])
        except SandboxIncomplete as error:
            os._exit(0 if "memory: unavailable: no limit is set" in str(error) else 2)
        os._exit(1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_environment_of_a_child_holds_no_credentials(tmp_path) -> None:
    """An allow-list: what is not on it does not reach the child, whatever it is called."""
    source = {"PATH": "/bin", "ESPALIER_DATABASE_URL": "postgresql://u:p@h/d", "AWS_SECRET_ACCESS_KEY": "k"}
    given = child_environment(source, scratch=tmp_path, num_threads=3)

    assert "/bin" == given["PATH"]
    assert ("3", "PASSIVE", str(tmp_path)) == (given["OMP_NUM_THREADS"], given["OMP_WAIT_POLICY"], given["TMPDIR"])
    assert set() == {"ESPALIER_DATABASE_URL", "AWS_SECRET_ACCESS_KEY"} & set(given)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give up capabilities")
@pytest.mark.parametrize("without", ["-sys_admin", "-all"])
def test_a_worker_without_privileges_still_keeps_its_child_from_the_network(tmp_path, without) -> None:
    """Where the right to a network namespace is missing, a user namespace grants it; files stay readable."""
    program = f"{PRELUDE}\n(folder / 'a').write_text('x')\nprint(json.dumps([states['network'], os.getuid()]))"
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(tmp_path)}
    limited = ["setpriv", f"--bounding-set={without}", "--inh-caps=-all"]
    command = [*limited, sys.executable, "-c", program, str(tmp_path)]
    network, _ = json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    if network.startswith("unavailable"):
        pytest.skip("this kernel grants no user namespaces")

    assert network.startswith("active: own user and network namespace")
    assert "x" == (tmp_path / "a").read_text()
