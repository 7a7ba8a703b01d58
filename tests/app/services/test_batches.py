"""Several networks under one lease, on both databases: asked once, answered item by item, refused as a whole."""

from typing import Any

import pytest

from app.db.tables import DeviceRow
from app.domain.batch import BatchItem, BatchReport, BatchSpec
from app.domain.device import FailureReport, MeasurementSpec, NetworkRef, RequestState, read
from app.errors import DeviceLeaseLost, DeviceRevoked, MeasurementRefused, NotFound, ValidationFailed
from app.services.assembly import Services
from app.services.device_work import Lease
from tests.app.services.test_devices import leased, registered, report
from tests.builders import TENANT, FakeClock, upload_model

CONTENTS = {"first": b"a network", "second": b"another network"}


def item(services: Services, name: str, **changes: Any) -> BatchItem:
    """One of two networks whose bytes are in the store."""
    model = upload_model(services, CONTENTS[name])
    return BatchItem(name=name, sha256=model.sha256, size_bytes=len(CONTENTS[name]), model=model.id, **changes)


def asked(services: Services, device: DeviceRow, **changes: Any) -> str:
    """A request of both; gives its id."""
    items = (item(services, "first"), item(services, "second", kind="layer", key="Conv 3x3 16 16"))
    return services.devices.ask_batch(TENANT, device.id, BatchSpec(items=items, repeats=6), **changes).id


def results(lease: Lease, **changes: Any) -> BatchReport:
    """What an agent answers: 2 ms for each item."""
    timed = [
        {"name": one.name, "sha256": one.sha256, "batch": 1, "samples_ms": [2.0] * 6, "load_ms": 1.0}
        for one in lease.items
    ]
    common = {"runtime": "onnxruntime", "runtime_version": "1.31.1", "provider": lease.provider}
    host = {"cpu": "test", "os": "Linux"}
    rest = {"threads": lease.threads, "warmup": lease.warmup, "host": host, "results": timed}
    return BatchReport.model_validate({**common, **rest, **changes})


def test_each_item_has_its_own_measurement(services: Services) -> None:
    """Kind and key of a layer are in the record; sent again, the answer changes nothing."""
    device = registered(services)
    request = asked(services, device)
    lease = leased(services, device)
    for _ in range(2):
        assert services.device_work.settle(device, lease.id, results(lease)).state == RequestState.MEASURED

    found = services.devices.batch(TENANT, device.id, request)
    kept = [row for _, row in found.items]
    assert [(row.kind, row.key, row.p50_ms) for row in kept if row] == [
        ("network", None, 2.0),
        ("layer", "Conv 3x3 16 16", 2.0),
    ]


def test_one_item_may_fail_alone(services: Services) -> None:
    """The request is measured; only where every item failed has it failed, with the first one's words."""
    device = registered(services)
    words = {"reason": "load", "detail": "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED"}
    states = []
    for failing in (1, 2):
        request = asked(services, device)
        lease = leased(services, device)
        timed = results(lease).model_dump(exclude_none=True)["results"]
        told = [
            {"name": one["name"], "failure": words} if number < failing else one for number, one in enumerate(timed)
        ]
        services.device_work.settle(device, lease.id, results(lease, results=told))
        found = services.devices.batch(TENANT, device.id, request)
        states.append((found.request.state, [row is None for _, row in found.items]))
        assert (found.items[0][0].problem or {})["detail"] == words["detail"]

    assert states == [("measured", [True, False]), ("failed", [True, True])]
    assert (found.request.problem or {})["detail"] == words["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"threads": 7}, "/threads"),
        ({"provider": "CUDAExecutionProvider"}, "/provider"),
        ({"results": "sha256"}, "/results/0/sha256"),
        ({"results": "name"}, "/results"),
        ({"results": "missing"}, "/results"),
        ({"results": "twice"}, "/results"),
        ({"results": "long"}, "/results"),
    ],
)
def test_what_was_not_leased_is_refused_as_a_whole(
    services: Services, clock: FakeClock, changes: dict[str, Any], pointer: str
) -> None:
    """Other bytes, settings or names, items too few, or too much time: nothing is kept, the lease stays."""
    device = registered(services)
    asked(services, device)
    lease = leased(services, device)
    clock.advance(seconds=10)
    timed = results(lease).model_dump(exclude_none=True)["results"]
    wrong = {
        "sha256": [{**timed[0], "sha256": "0" * 64}, timed[1]],
        "name": [{**timed[0], "name": "third"}, timed[1]],
        "missing": timed[:1],
        "twice": [timed[0], timed[0]],
        "long": [{**timed[0], "samples_ms": [1e6] * 6}, timed[1]],
    }
    given = {key: wrong[value] if key == "results" else value for key, value in changes.items()}

    with pytest.raises(MeasurementRefused, match="not what was leased") as refused:
        services.device_work.settle(device, lease.id, results(lease, **given))
    assert refused.value.errors[0].pointer == pointer
    assert services.device_work.settle(device, lease.id, results(lease)).state == RequestState.MEASURED


@pytest.mark.parametrize("samples", [[-1.0], [0.0], [float("nan")], [float("inf")], [1e9], []])
def test_absurd_samples_of_an_item_are_refused(samples: list[float]) -> None:
    """No clock gives such times."""
    one = {"name": "a", "sha256": "0" * 64, "batch": 1, "samples_ms": samples, "load_ms": 1.0}
    host = {"cpu": "c", "os": "o"}
    common = {"runtime": "r", "runtime_version": "1", "provider": "p", "threads": 1, "warmup": 0, "host": host}

    with pytest.raises(ValidationFailed) as refused:
        read(BatchReport, {**common, "results": [one]})
    assert refused.value.errors[0].pointer.startswith("/results/0/samples_ms")


def test_the_same_question_is_asked_once(services: Services) -> None:
    """Under one digest a repeated question is the first request, whatever became of it."""
    device = registered(services)
    first = asked(services, device, once="a" * 64)
    services.devices.cancel(TENANT, device.id, first)

    assert asked(services, device, once="a" * 64) == first
    assert asked(services, device, once="b" * 64) != first


def test_each_form_of_answer_fits_its_lease(services: Services) -> None:
    """A single measurement is no answer to several items, nor the other way round; a lost lease takes neither."""
    device = registered(services)
    request = asked(services, device)
    lease = leased(services, device)
    with pytest.raises(MeasurementRefused, match="several items"):
        services.device_work.record(device, report(lease))
    services.device_work.fail(device, lease.id, FailureReport(reason="crash", detail="SIGSEGV"))
    assert services.devices.request(TENANT, device.id, request).state == RequestState.FAILED
    assert services.device_work.settle(device, lease.id, results(lease)).state == RequestState.FAILED
    model = upload_model(services, CONTENTS["first"])
    services.devices.ask(TENANT, device.id, MeasurementSpec(model=model.id))
    single = leased(services, device)
    with pytest.raises(MeasurementRefused, match="one network"):
        services.device_work.settle(device, single.id, results(lease))
    with pytest.raises(DeviceLeaseLost):
        services.device_work.settle(device, "lse_none", results(lease))


def test_contents_are_those_of_the_items(services: Services) -> None:
    """By position; what is not leased cannot be fetched, and what waits is not collected."""
    device = registered(services)
    asked(services, device)
    lease = leased(services, device)
    found = [services.device_work.content(device, lease.id, position).sha256 for position in (0, 1)]

    assert found == [one.sha256 for one in lease.items]
    with pytest.raises(NotFound, match="no item 2"):
        services.device_work.content(device, lease.id, 2)


def test_a_user_asks_for_several_of_his_own(services: Services) -> None:
    """Networks side by side, each once, none of another tenant."""
    device = registered(services)
    mine = [upload_model(services, content).id for content in CONTENTS.values()]
    foreign = upload_model(services, b"foreign", tenant="other").id

    def ask(*models: str) -> Any:
        spec = MeasurementSpec(networks=tuple(NetworkRef(model=model) for model in models))
        return services.devices.ask(TENANT, device.id, spec)

    row = ask(*mine)
    assert [one.model_id for one, _ in services.devices.batch(TENANT, device.id, row.id).items] == mine
    with pytest.raises(NotFound, match=foreign):
        ask(mine[0], foreign)
    with pytest.raises(ValidationFailed, match="named twice"):
        ask(mine[0], mine[0])
    services.devices.revoke(TENANT, device.id)
    with pytest.raises(ValidationFailed, match="was revoked"):
        ask(*mine)
    with pytest.raises((ValidationFailed, DeviceRevoked)):
        asked(services, device)


@pytest.mark.parametrize(
    "changes",
    [
        {"artifact": "art_1", "model": "mdl_1"},
        {"networks": [{"model": "mdl_1"}]},
        {"networks": [{"model": "mdl_1"}, {}]},
        {"networks": [{"model": "mdl_1"}, {"model": "mdl_2"}], "model": "mdl_3"},
        {"networks": [{"model": "mdl_1"}, {"model": "mdl_2"}] * 5, "repeats": 10_000},
    ],
)
def test_a_question_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    """Several are at least two, each is one network, and their samples fit one answer."""
    with pytest.raises(ValidationFailed):
        read(MeasurementSpec, changes)
