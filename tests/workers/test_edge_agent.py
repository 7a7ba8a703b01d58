"""A real agent process against a real server, on both databases: what it measures, and what it outlives."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from app.client import Client
from app.domain.batch import BatchItem, BatchSpec
from app.domain.device import DeviceSpec, MeasurementSpec
from app.domain.record import Which
from app.main import create_app
from app.services.assembly import Services
from app.settings import Settings
from tests.app.api.served import listening
from tests.builders import TENANT, upload_model
from tests.networks import CHAIN, onnx_bytes
from tests.waiting import descendants, runs, wait_for
from tests.workers.conftest import ON_SQLITE, quick
from tests.workers.processes import free_port, process
from workers.edge_bundle import bundle

ROOT = Path(__file__).resolve().parents[2]
NETWORK = onnx_bytes(CHAIN)
SLOW = {"repeats": 10_000, "warmup": 1000}  # long enough to be killed in the middle
UNEVEN = "uneven (float[N,4] x) => (float[3,4] y) <float[3,4] w> { [add] y = Add (x, w) }"
SECOND = onnx_bytes(CHAIN.replace("chain (", "second ("))
DEADLY = onnx_bytes(CHAIN.replace("chain (", "deadly ("))
FOREIGN = onnx_bytes(CHAIN.replace("Relu (c1)", "Frobnicate (c1)"))


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Short leases and polls."""
    patient = {"database_timeout": 5, "device_attempts": 50}  # kills from outside are no fault of a network's
    return quick(tmp_path, database_url, device_lease=2, max_wait_seconds=20, **patient)


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    """The service behind a real socket, in this process."""
    with served(services) as found:
        yield found


@contextmanager
def served(services: Services) -> Iterator[str]:
    """The same, for as long as the block lasts; the services stay open."""
    app = create_app(services.settings, _Kept(services))
    with listening(app) as found:
        yield found


class _Kept:
    """Services that a server does not close when it stops."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services, name)

    def close(self) -> None:
        """Leave them open: the test goes on."""


@dataclass(slots=True)
class Bench:
    """A device with its agent's command line."""

    services: Services
    folder: Path
    token: str = ""
    device: str = ""
    log: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        made = self.services.devices.register(TENANT, DeviceSpec(name="bench"))
        self.token, self.device, self.log = made.token, made.device.id, self.folder / "agent.log"

    def ask(self, network: bytes = NETWORK, **changes: Any) -> str:
        """A measurement that waits; gives its id."""
        model = upload_model(self.services, network)
        values = {"model": model.id, "repeats": 6, "warmup": 1, **changes}
        return self.services.devices.ask(TENANT, self.device, MeasurementSpec(**values)).id

    def request(self, request_id: str) -> Any:
        """How far it is."""
        return self.services.devices.request(TENANT, self.device, request_id)

    def measured(self) -> list[Any]:
        """Every measurement of this device."""
        return list(self.services.measurements.page(TENANT, Which(device=self.device), limit=100)[0])

    def command(self, url: str, *more: str) -> tuple[str, ...]:
        """The agent's arguments."""
        folder = str(self.folder / "agent")
        return ("-m", "workers.edge_agent", "--url", url, "--token", self.token, "--work-dir", folder, *more)

    def agent(self, url: str) -> "contextmanager[subprocess.Popen[bytes]]":
        """The agent at work."""
        return process(self.services.settings, *self.command(url), log=self.log)

    def once(
        self, url: str, *more: str, environment: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """The agent until there is nothing to do."""
        return subprocess.run(
            [sys.executable, *self.command(url, "--once", *more)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def bench(services: Services, tmp_path: Path) -> Bench:
    """A registered device."""
    return Bench(services, tmp_path)


def ended(bench: Bench, request: str) -> Callable[[], bool]:
    return lambda: bench.request(request).finished_at is not None


def test_an_agent_measures_what_is_asked(bench: Bench, url: str) -> None:
    """Every sample, the host, load time and memory arrive; the agent's report becomes the device's attributes."""
    request = bench.ask(repeats=20, batch=3, threads=1)
    done = bench.once(url, "--threads", "2")

    assert done.returncode == 0, done.stderr
    row = bench.request(request)
    assert (row.state, row.problem) == ("measured", None)
    kept = bench.services.devices.measurement(TENANT, row.measurement_id)
    assert (kept.threads, kept.batch, kept.warmup, len(kept.samples_ms)) == (1, 3, 1, 20)
    assert kept.sha256 == hashlib.sha256(NETWORK).hexdigest()
    assert min(kept.samples_ms) > 0
    assert kept.load_ms > 0
    assert 10e6 < (kept.peak_rss_bytes or 0) < 400e6
    assert kept.host["num_usable_cpus"] == len(os.sched_getaffinity(0))
    assert {"cpu", "os", "before", "after", "pinned_cpus", "load_average", "on_cpu_share"} <= set(kept.host)
    device = bench.services.devices.get(TENANT, bench.device)
    assert device.state == "online"
    assert device.attributes is not None
    assert device.attributes["threads"] == 2
    assert "CPUExecutionProvider" in device.attributes["providers"]  # type: ignore[operator]


def _asked_together(bench: Bench, networks: dict[str, bytes], **changes: Any) -> str:
    """One request for these networks by name; gives its id."""
    items = []
    for name, content in networks.items():
        model = upload_model(bench.services, content)
        items.append(BatchItem(name=name, sha256=model.sha256, size_bytes=len(content), model=model.id))
    spec = BatchSpec(items=tuple(items), **{"repeats": 12, "warmup": 1, **changes})
    return bench.services.devices.ask_batch(TENANT, bench.device, spec).id


@ON_SQLITE
def test_networks_of_one_lease_take_turns(bench: Bench, url: str) -> None:
    """Each has as many samples as asked, in the same rounds; one that does not load fails alone, in its own words."""
    networks = {"first": NETWORK, "foreign": FOREIGN, "second": SECOND}
    request = _asked_together(bench, networks, repeats=10, profile=True)
    done = bench.once(url)

    assert done.returncode == 0, done.stderr
    found = bench.services.devices.batch(TENANT, bench.device, request)
    assert found.request.state == "measured"
    kept = {item.name: row for item, row in found.items}
    for name in ("first", "second"):
        row = kept[name]
        assert row is not None
        assert row.sha256 == hashlib.sha256(networks[name]).hexdigest()
        assert (len(row.samples_ms), row.host["runs_per_round"], row.host["side_by_side"]) == (10, 4, 3)
        assert row.peak_rss_bytes is None  # they share one process
        assert 0 < row.host["on_cpu_share"] <= 1
        assert {"Conv", "Gemm"} <= {one["operator"] for one in row.profile or ()}
    assert kept["foreign"] is None
    (problem,) = [item.problem for item, _ in found.items if item.name == "foreign"]
    assert problem is not None
    assert problem["reason"] == "load"
    assert "Frobnicate" in str(problem["detail"])


@ON_SQLITE
def test_a_profile_tells_what_each_operator_takes(bench: Bench, url: str) -> None:
    """Slowest first, with the provider that ran it; without the wish there is none."""
    requests = [bench.ask(profile=True), bench.ask()]
    bench.once(url)
    asked, other = (
        bench.services.devices.measurement(TENANT, bench.request(request).measurement_id) for request in requests
    )

    assert other.profile is None
    assert asked.profile is not None
    spent = [one["ms"] for one in asked.profile]
    assert spent == sorted(spent, reverse=True)
    assert {one["provider"] for one in asked.profile} == {"CPUExecutionProvider"}
    assert "fc" in {one["node"] for one in asked.profile}


@ON_SQLITE
def test_a_network_that_kills_the_process_fails_alone(bench: Bench, url: str) -> None:
    """The runtime dies while it loads one of three: that one fails with the signal, the others are measured."""
    networks = {"first": NETWORK, "deadly": DEADLY, "second": SECOND}
    request = _asked_together(bench, networks)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "workers" / "deadly_runtime")}
    done = bench.once(url, environment=environment)

    assert done.returncode == 0, done.stderr
    found = bench.services.devices.batch(TENANT, bench.device, request)
    assert [item.name for item, row in found.items if row is not None] == ["first", "second"]
    (problem,) = [item.problem for item, row in found.items if row is None]
    assert problem is not None
    assert (problem["reason"], "SIGSEGV" in str(problem["detail"])) == ("crash", True)


@ON_SQLITE
def test_a_provider_that_the_device_lacks_ends_the_agent(bench: Bench, url: str) -> None:
    """An agent that is told to compute with what its runtime lacks says what it has, and ends with status 3."""
    done = bench.once(url, "--provider", "cuda")

    assert done.returncode == 3
    assert "CPUExecutionProvider" in done.stderr


@ON_SQLITE
def test_what_the_runtime_cannot_load_reaches_the_user_in_its_words(bench: Bench, url: str) -> None:
    """An operator that it lacks, a provider that it lacks, bytes that are no network, a batch that does not fit."""
    requests = [
        bench.ask(FOREIGN),
        bench.ask(provider="CUDAExecutionProvider"),
        bench.ask(b"no network at all"),
        bench.ask(onnx_bytes(UNEVEN), batch=2),
    ]
    done = bench.once(url)

    assert done.returncode == 0, done.stderr
    problems = [bench.request(request).problem for request in requests]
    assert [problem["reason"] for problem in problems] == ["load", "load", "load", "run"]
    assert "Frobnicate" in problems[0]["detail"]
    assert "CUDAExecutionProvider" in problems[1]["detail"]
    assert "INVALID_PROTOBUF" in problems[2]["detail"]
    assert "broadcast" in problems[3]["detail"]
    assert bench.measured() == []


def test_an_agent_killed_in_the_middle_is_followed_by_another(bench: Bench, url: str) -> None:
    """kill -9 while it measures: its child ends with it, its successor has the work at once, nothing is doubled."""
    request = bench.ask(**SLOW)
    with bench.agent(url) as agent:
        wait_for(lambda: len(_children(agent.pid)) == 1 and bench.request(request).state == "leased")
        child = _children(agent.pid)[0]
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
        wait_for(lambda: not runs(child))
    bench.services.devices.cancel(TENANT, bench.device, request)
    second = bench.ask()
    with bench.agent(url):
        wait_for(ended(bench, second))

    assert [bench.request(second).measurement_id] == [row.id for row in bench.measured()]


@ON_SQLITE
def test_the_same_request_is_taken_up_after_a_kill(bench: Bench, url: str) -> None:
    """The successor in the same folder is given the same lease again, before it runs out."""
    request = bench.ask(repeats=3000)
    with bench.agent(url) as agent:
        wait_for(lambda: len(_children(agent.pid)) == 1 and bench.request(request).state == "leased")
        lease = bench.request(request).lease_id
        os.kill(agent.pid, signal.SIGKILL)
    done = bench.once(url)

    assert done.returncode == 0, done.stderr
    row = bench.request(request)
    assert (row.state, row.lease_id, row.attempts) == ("measured", lease, 2)
    assert len(bench.measured()) == 1


@ON_SQLITE
def test_an_answer_waits_for_the_service(bench: Bench, services: Services) -> None:
    """The server goes while the agent measures and comes back later: the answer arrives, once."""
    request = bench.ask(repeats=2000)
    port = free_port()
    with _server(services.settings, port) as first:
        agent_scope = bench.agent(f"http://127.0.0.1:{port}")
        agent = agent_scope.__enter__()
        try:
            wait_for(lambda: bench.request(request).state == "leased" and _children(agent.pid))
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            wait_for((bench.folder / "agent" / "answer.json").exists)
            with _server(services.settings, port):
                wait_for(ended(bench, request))
                wait_for(lambda: not (bench.folder / "agent" / "answer.json").exists())
        finally:
            agent_scope.__exit__(None, None, None)

    assert bench.request(request).state == "measured"
    assert len(bench.measured()) == 1


@ON_SQLITE
def test_a_full_disk_is_told(bench: Bench, url: str) -> None:
    """The network cannot be stored: the request fails with the device's words, and the agent goes on."""
    folder = bench.folder / "agent" / "networks"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(NETWORK).hexdigest()
    (folder / digest).symlink_to("/dev/full")  # every write to it says that the device is full
    request = bench.ask()
    done = bench.once(url)

    assert done.returncode == 0, done.stderr
    problem = bench.request(request).problem
    assert problem["reason"] == "storage"
    assert "No space left" in problem["detail"]


@ON_SQLITE
def test_a_runtime_that_crashes_is_a_result(bench: Bench, url: str) -> None:
    """The measuring process is killed: its signal is the request's problem, and the agent measures the next one."""
    request = bench.ask(**SLOW)
    with bench.agent(url) as agent:
        wait_for(lambda: len(_children(agent.pid)) == 1 and bench.request(request).state == "leased")
        time.sleep(0.3)
        _children(agent.pid)[0].send_signal(signal.SIGSEGV)
        wait_for(ended(bench, request))
        second = bench.ask()
        wait_for(ended(bench, second))

    problem = bench.request(request).problem
    assert (problem["reason"], bench.request(second).state) == ("crash", "measured")
    assert "SIGSEGV" in problem["detail"]


@ON_SQLITE
def test_a_cancelled_measurement_ends_its_process(bench: Bench, url: str) -> None:
    """What was cancelled while it was measured leaves nothing behind; the answer is not taken."""
    request = bench.ask(repeats=3000)
    with bench.agent(url) as agent:
        wait_for(lambda: len(_children(agent.pid)) == 1 and bench.request(request).state == "leased")
        bench.services.devices.cancel(TENANT, bench.device, request)
        second = bench.ask()
        wait_for(ended(bench, second))

    assert [row.id for row in bench.measured()] == [bench.request(second).measurement_id]
    assert bench.request(request).state == "cancelled"


@ON_SQLITE
def test_a_wrong_or_revoked_token_ends_the_agent(bench: Bench, url: str) -> None:
    """It says so and ends with status 2, instead of asking for ever."""
    bench.services.devices.revoke(TENANT, bench.device)
    done = bench.once(url)

    assert done.returncode == 2
    assert "was revoked" in done.stderr


@ON_SQLITE
def test_two_agents_do_not_share_a_folder(bench: Bench, url: str) -> None:
    """The second one is told to take its own."""
    with bench.agent(url):
        wait_for((bench.folder / "agent" / "agent").exists)
        done = bench.once(url)

    assert done.returncode == 3
    assert "--work-dir" in done.stderr


@ON_SQLITE
def test_an_agent_that_waits_stops_when_told(bench: Bench, url: str) -> None:
    """SIGTERM in the middle of a long poll ends it with status 0, without waiting for the poll's end."""
    with bench.agent(url) as agent:
        wait_for(lambda: bench.services.devices.get(TENANT, bench.device).state == "online")
        agent.terminate()

        assert agent.wait(60) == 0


@ON_SQLITE
def test_the_agent_runs_as_one_copied_file(bench: Bench, url: str, tmp_path: Path) -> None:
    """The bundle alone, far from the sources, measures; twice written, it has the same bytes."""
    alone = tmp_path / "alone"
    alone.mkdir()
    bundle(alone / "agent.pyz")
    bundle(tmp_path / "again.pyz")
    request = bench.ask()
    environment = {**os.environ, "ESPALIER_DEVICE_TOKEN": bench.token, "HOME": str(alone)}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-P", str(alone / "agent.pyz"), "--url", url, "--once"]
    done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert bench.request(request).state == "measured"
    assert (alone / "agent.pyz").read_bytes() == (tmp_path / "again.pyz").read_bytes()


@ON_SQLITE
def test_the_command_line_covers_a_devices_life(bench: Bench, url: str, tmp_path: Path) -> None:
    """Register, ask, run the agent, list, revoke: each by `espalier`."""
    made = json.loads(_espalier("devices", "--register", "cli", "--url", url).stdout)
    network = tmp_path / "net.onnx"
    network.write_bytes(NETWORK)
    with Client(url) as client:
        model = client.upload_model(network)
        asked = json.loads(_espalier("devices", model["id"], "--on", made["id"], "--url", url).stdout)
        folder = ("--work-dir", str(tmp_path / "cli"))
        done = _espalier("agent", "--url", url, "--once", *folder, ESPALIER_DEVICE_TOKEN=made["token"])
        kept = list(client.measurements(device=made["id"]))

    assert done.returncode == 0, done.stderr
    assert asked["device"] == made["id"]
    assert [row["model"] for row in kept] == [model["id"]]
    assert _espalier("devices", "--revoke", made["id"], "--url", url).returncode == 0
    assert "revoked" in _espalier("devices", "--url", url).stdout
    assert _espalier("agent", "--url", url).returncode == 2  # no token
    assert _espalier("devices", "mdl_1", "--url", url).returncode == 2  # no device


def _espalier(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_importing_the_agent_is_quick_and_light() -> None:
    """Less than a second of processor time and 80 MB, without numpy, ONNX Runtime or anything of the service."""
    code = (
        "import time; start = time.process_time(); import workers.edge_agent; import sys;"
        "status = open('/proc/self/status').read(); peak = status.split('VmHWM:')[1].split()[0];"
        "print(time.process_time() - start, int(peak) / 1024, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, megabytes, *loaded = done.stdout.split()

    assert float(seconds) < 1
    assert float(megabytes) < 80
    heavy = {"numpy", "onnxruntime", "torch", "onnx", "pydantic", "sqlalchemy", "celery", "redis", "app"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_many_cycles_with_kills_lose_and_double_nothing(
    bench: Bench, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,000 requests (ESPALIER_TEST_CYCLES), agent and server killed every few seconds: each is measured once.

    Every fifth is of two networks in turn. Kills go on, of both by turns, until the last request has ended.
    """
    cycles, both = int(os.environ.get("ESPALIER_TEST_CYCLES", "1000")), {"first": NETWORK, "second": SECOND}
    requests = [
        bench.ask(repeats=6, warmup=0) if number % 5 else _asked_together(bench, both, repeats=6, warmup=0)
        for number in range(cycles)
    ]
    begun = time.monotonic()
    kills = _killing_both(bench, services, until=ended(bench, requests[-1]), patience=12 * cycles + 120)
    rows = [bench.request(request) for request in requests]
    kept = _all_measurements(services, bench.device)
    with capsys.disabled():
        sys.stderr.write(
            f"\n{cycles} requests, {kills['agent']} kills of the agent, {kills['server']} kills of the server,"
            f" {len(kept)} measurements, {len(set(kept))} distinct, {time.monotonic() - begun:.0f} s\n"
        )

    assert [row.problem for row in rows if row.state != "measured"] == []
    assert len(kept) == len(set(kept)) == cycles + len(range(0, cycles, 5))
    assert min(kills.values()) > 0


def _killing_both(bench: Bench, services: Services, *, until: Callable[[], bool], patience: float) -> dict[str, int]:
    """Run server and agent and kill one after the other, at random moments; gives how often each was killed."""
    port, random = free_port(), np.random.default_rng(0)
    starts = {
        "server": lambda: _server(services.settings, port),
        "agent": lambda: bench.agent(f"http://127.0.0.1:{port}"),
    }
    kills, deadline = dict.fromkeys(starts, 0), time.monotonic() + patience
    with ExitStack() as stack:
        running = {name: stack.enter_context(start()) for name, start in starts.items()}
        for victim in itertools.cycle(starts):
            time.sleep(float(random.uniform(5, 14)))
            if until() and min(kills.values()) > 0:
                return kills
            assert time.monotonic() < deadline, f"{len(bench.measured())} measurements after {kills}"
            os.kill(running[victim].pid, signal.SIGKILL)
            running[victim].wait()
            running[victim] = stack.enter_context(starts[victim]())
            kills[victim] += 1
    return kills


def _all_measurements(services: Services, device: str) -> list[str]:
    found: list[str] = []
    more = True
    while more:
        after = found[-1] if found else None
        rows, more = services.measurements.page(TENANT, Which(device=device), limit=100, after=after)
        found += [row.id for row in rows]
    return found


def _server(settings: Settings, port: int) -> "contextmanager[subprocess.Popen[bytes]]":
    """The web process, as an operator starts it."""
    arguments = ("-m", "uvicorn", "app.main:from_environment", "--factory", "--port", str(port))
    return process(settings, *arguments, log=settings.data_dir / "server.log")


def _children(pid: int) -> list[psutil.Process]:
    """The measuring process of an agent."""
    found = []
    for each in descendants(pid):
        with suppress(psutil.Error, OSError):
            order = Path((each.cmdline() or [""])[-1])
            if order.name == "order.json" and '"measure"' in order.read_text():
                found.append(each)
    return found
