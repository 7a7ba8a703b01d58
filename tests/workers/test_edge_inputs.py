"""What a device is given beside a network: lengths for its free axes, the file of its weights, its turn on the host."""

import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.domain.device import LOCAL, MeasurementSpec
from app.services.assembly import Services
from app.services.uploads import Announced
from app.settings import Settings
from app.storage.blobs import put
from tests.builders import TENANT
from tests.networks import CHAIN, onnx_bytes
from tests.waiting import wait_for
from tests.workers.conftest import ON_SQLITE, quick, supervisor_of
from tests.workers.test_asking import asked_of, state, submitted
from tests.workers.test_edge_agent import Bench, served
from tests.workers.test_supervisor import working
from workers.edge_companion import placed
from workers.edge_turn import one_at_a_time
from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.wire import locations
from workers.supervisor import serving

# Only inputs of five columns can be added to the weight, and only the request can know that.
OPEN = onnx_bytes("open (float[N,L] x) => (float[N,L] y) <float[5] w> { [add] y = Add (x, w) }")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Short leases and polls."""
    changes = {"device_lease": 5, "device_wait": 60, "max_wait_seconds": 20, "database_timeout": 5}
    return quick(tmp_path, database_url, child_memory_bytes=2 * 2**30, **changes)


@pytest.fixture
def bench(services: Services, tmp_path: Path) -> Bench:
    """A registered device."""
    return Bench(services, tmp_path)


def in_two_files(folder: Path, location: str = "weights.bin") -> tuple[bytes, bytes]:
    """A small network and the file of its weights."""
    path = folder / "two.onnx"
    network = onnx.load_from_string(onnx_bytes(CHAIN))
    onnx.save_model(network, path, save_as_external_data=True, location=location, size_threshold=0)
    return path.read_bytes(), (folder / location).read_bytes()


def uploaded(services: Services, network: bytes, weights: bytes) -> str:
    """A model of two files; gives its id."""
    blobs = [put(services.store, [content]) for content in (network, weights)]
    row = services.uploads.register_model(TENANT, blobs[0], Announced(name="two.onnx"), external_data=blobs[1]).row
    return row.id


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_free_axes_have_the_lengths_that_were_asked(bench: Bench, services: Services) -> None:
    """The right length is measured; a wrong one and none fail in the runtime's own words and in ours."""
    ids = [bench.ask(OPEN, shapes=shapes) for shapes in ({"x": (1, 5)}, {"x": (1, 7)}, None)]
    with served(services) as url:
        bench.once(url)
    right, wrong, without = (bench.request(one) for one in ids)

    assert (right.state, right.problem) == ("measured", None)
    assert (wrong.state, wrong.problem["reason"]) == ("failed", "run")
    assert "An axis has no fixed length" in without.problem["detail"]


@ON_SQLITE
def test_a_jobs_request_carries_the_lengths_of_its_samples(bench: Bench, services: Services) -> None:
    """The engine knows how long its samples are, and the device is told."""
    steps = [("phase", "score"), ("time_at", [bench.device, {"x": [1, 5]}])]
    job_id = submitted(services, bench.device, content=OPEN, metadata={"script": json.dumps(steps)})
    with served(services) as url, bench.agent(url), working(supervisor_of(services)):
        pass

    assert state(services, job_id) == "succeeded", services.jobs.get(TENANT, job_id).problem
    assert [request.shapes for request in asked_of(services, bench.device)] == [{"x": [1, 5]}]


@pytest.mark.parametrize("database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_weights_in_a_file_of_their_own_come_along(bench: Bench, services: Services, tmp_path: Path) -> None:
    """Alone and in turn with another network; the digest that is stated is that of the ONNX bytes."""
    model, other = uploaded(services, *in_two_files(tmp_path)), bench.ask()
    spec = {"repeats": 6, "warmup": 1}
    alone = services.devices.ask(TENANT, bench.device, MeasurementSpec(model=model, **spec)).id
    names = [model, bench.request(other).model_id]
    both = MeasurementSpec(networks=tuple({"model": name} for name in names), **spec)
    together = services.devices.ask(TENANT, bench.device, both).id
    with served(services) as url:
        bench.once(url)

    assert [bench.request(one).state for one in (alone, together)] == ["measured"] * 2
    measured = [row.model_id for row in bench.measured()]
    assert (measured.count(model), len(measured)) == (2, 4)


@ON_SQLITE
def test_this_host_times_a_network_of_two_files_and_open_axes(services: Services, tmp_path: Path) -> None:
    """`dev_local` is given the same as any device."""
    model = uploaded(services, *in_two_files(tmp_path))
    blob = put(services.store, [OPEN])
    free = services.uploads.register_model(TENANT, blob, Announced(name="open.onnx")).row.id
    asked = [MeasurementSpec(model=model, repeats=6), MeasurementSpec(model=free, repeats=6, shapes={"x": (1, 5)})]
    ids = [services.devices.ask(TENANT, LOCAL, one).id for one in asked]
    stop = threading.Event()
    with serving(supervisor_of(services, stopping=stop.is_set)):
        wait_for(lambda: all(services.devices.request(TENANT, LOCAL, one).finished_at for one in ids), 60)
        stop.set()
    found = [services.devices.request(TENANT, LOCAL, one) for one in ids]

    assert [one.state for one in found] == ["measured"] * 2, [one.problem for one in found]


def test_a_network_runs_with_the_file_of_its_weights(tmp_path: Path) -> None:
    """The same answers as the network in one file."""
    network, weights = in_two_files(tmp_path, "w.data")
    files = [tmp_path / "a1", tmp_path / "b2"]
    for path, content in zip(files, (network, weights), strict=True):
        path.write_bytes(content)
    given = [np.ones((1, 3, 8, 8), np.float32)]
    answers = [Session(one).run(given)[0] for one in (placed(*files), onnx_bytes(CHAIN))]

    assert locations(memoryview(network)) == {"w.data"}
    assert np.array_equal(*answers)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "network.onnx"])
def test_weights_are_not_put_where_a_network_says(tmp_path: Path, name: str) -> None:
    """A name that leads out of the folder, or over the network itself, is refused; nothing is written there."""
    network, weights = in_two_files(tmp_path, "w.data")
    message = onnx.load_from_string(network)
    for tensor in message.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    (tmp_path / "a1").write_bytes(message.SerializeToString())
    (tmp_path / "b2").write_bytes(weights)
    with pytest.raises(InvalidGraph, match="not where they can be put"):
        placed(tmp_path / "a1", tmp_path / "b2")


def test_agents_of_one_host_take_turns(tmp_path: Path) -> None:
    """The second one enters when the first has left."""
    entered = threading.Event()

    def second() -> None:
        with one_at_a_time(tmp_path / "turn"):
            entered.set()

    with one_at_a_time(tmp_path / "turn") as held:
        thread = threading.Thread(target=second)
        thread.start()
        early = entered.wait(0.3)
    thread.join(10)

    assert (held, early, entered.is_set()) == (True, False, True)


def test_without_a_place_for_turns_an_agent_measures_all_the_same(tmp_path: Path) -> None:
    """Where the file of the turn cannot be made, nobody waits."""
    with one_at_a_time(tmp_path / "missing" / "turn") as held:
        assert held is False
