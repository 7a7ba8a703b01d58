"""/v1/measurements over HTTP: filters, exports in three forms, and imports that double nothing."""

import csv
import io
import json
import sys
from typing import Any

import pytest
from sqlalchemy import delete

from app.db.tables import MeasurementRow
from app.domain.batch import BatchItem, BatchSpec
from tests.app.api.served import Served
from tests.app.api.test_devices import CONTENT, ON_SQLITE, SHA256, Device
from tests.builders import TENANT, upload_model

FORMS = ["json", "csv", "parquet"]
PARQUET = "application/vnd.apache.parquet"


@pytest.fixture
def device(served: Served) -> Device:
    return Device(served)


def measured(device: Device, **changes: Any) -> dict[str, Any]:
    """A measurement in the record."""
    device.ask()
    found: dict[str, Any] = device.report(device.lease().json(), **changes).json()
    return found


def exported(served: Served, form: str, **which: Any) -> Any:
    """The export's answer."""
    return served.http.get("/v1/measurements/export", params={"format": form, **which})


def imported(served: Served, content: Any, media_type: str = "application/json", **query: str) -> Any:
    """The import's answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return served.http.post("/v1/measurements/import", content=body, params=query, headers={"Content-Type": media_type})


def forgotten(served: Served) -> None:
    """Empty the record, as if this were another service."""
    with served.services.database.unit_of_work() as session:
        session.execute(delete(MeasurementRow))


def listed(served: Served, **which: Any) -> list[dict[str, Any]]:
    """The record."""
    found: list[dict[str, Any]] = served.http.get("/v1/measurements", params=which).json()["data"]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_imported_elsewhere_and_doubles_nothing(served: Served, device: Device, form: str) -> None:
    """Every form carries every sample, host and profile; coming in twice, or coming home, it stays single."""
    profile = [{"node": "conv1", "operator": "Conv", "provider": "CPUExecutionProvider", "ms": 0.125}]
    host = {"cpu": "=1+1", "os": "Linux", "celsius": {"cpu": 61.5}, "notes": [], "heat": None}
    before = [
        measured(device, host=host, samples_ms=[0.1 + 0.2, 3e-7 + 1, 123.456789], profile=profile),
        measured(device, load_ms=3, peak_rss_bytes=2**40),
    ]
    export = exported(served, form)
    media_type = export.headers["Content-Type"].partition(";")[0]
    home = imported(served, export.content, media_type)
    forgotten(served)
    away = imported(served, export.content, media_type, source="the lab")
    again = imported(served, export.content, media_type)

    assert (home.status_code, home.json()) == (200, {"imported": 0, "known": 2, "measurements": []})
    assert (away.json()["imported"], away.json()["known"]) == (2, 0)
    assert (again.json()["imported"], again.json()["known"]) == (0, 2)
    kept = {row["source"]["id"]: row for row in listed(served)}
    assert {row["id"] for row in kept.values()} == set(away.json()["measurements"])
    for was in before:
        now = kept[was["id"]]
        assert now["source"]["name"] == "the lab"
        own = {"id", "source", "job", "artifact", "model"}
        assert {k: v for k, v in now.items() if k not in own} == {k: v for k, v in was.items() if k not in own}
        assert now["model"] == was["model"]  # the same bytes are a model here
    onward = exported(served, form)
    forgotten(served)
    imported(served, onward.content, media_type)
    assert {row["source"]["id"] for row in listed(served)} == {row["id"] for row in before}


@ON_SQLITE
def test_the_record_is_filtered(served: Served, device: Device) -> None:
    """By device, content, kind and key, runtime, threads, time and origin; what does not exist finds nothing."""
    first = measured(device, runtime="tflite")
    item = BatchItem(name="a", kind="layer", key="Conv 3x3", sha256=SHA256, size_bytes=len(CONTENT))
    upload_model(served.services, CONTENT)
    served.services.devices.ask_batch(TENANT, device.id, BatchSpec(items=(item,), repeats=6))
    lease = device.lease().json()
    result = {"name": "a", "sha256": SHA256, "batch": 1, "samples_ms": [1.0] * 6, "load_ms": 1.0}
    common = {key: lease[key] for key in ("provider", "threads", "warmup")}
    report = {**common, "runtime": "onnxruntime", "runtime_version": "1", "host": {"cpu": "c", "os": "o"}}
    body = {**report, "results": [result]}
    path = f"{device.path}/leases/{lease['id']}/results"
    answered = device.http.post(path, json=body, headers=device.headers)
    layer = answered.json()["items"][0]["measurement"]

    assert (answered.status_code, answered.json()["state"]) == (200, "measured")
    assert device.http.post(path, json=body, headers=device.headers).json() == answered.json()
    ids = {
        str(which): [row["id"] for row in listed(served, **which)]
        for which in (
            {"kind": "layer"},
            {"key": "Conv 3x3"},
            {"kind": "network"},
            {"runtime": "tflite"},
            {"sha256": SHA256},
            {"sha256": "0" * 64},
            {"since": first["created_at"], "imported": "false"},
            {"until": first["created_at"]},
            {"imported": "true"},
            {"threads": 9},
        )
    }

    expected = [
        [layer],
        [layer],
        [first["id"]],
        [first["id"]],
        [layer, first["id"]],
        [],
        [layer, first["id"]],
        [],
        [],
        [],
    ]
    assert list(ids.values()) == expected
    assert exported(served, "json", kind="layer").json() == listed(served, kind="layer")


@ON_SQLITE
@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"host": None}, "/1/host"),
        ({"host": {"cpu": "x"}}, "/1/host"),
        ({"samples_ms": [-1.0]}, "/1/samples_ms/0"),
        ({"samples_ms": [1e9]}, "/1/samples_ms/0"),
        ({"samples_ms": [0]}, "/1/samples_ms/0"),
        ({"sha256": "abc"}, "/1/sha256"),
        ({"created_at": "yesterday"}, "/1/created_at"),
        ({"colour": "red"}, "/1/colour"),
    ],
)
def test_an_import_is_whole_or_not_at_all(
    served: Served, device: Device, changes: dict[str, Any], pointer: str
) -> None:
    """A latency without its host, absurd samples, unknown fields: refused with a pointer, and nothing was added."""
    good = measured(device)
    bad = {key: value for key, value in {**good, **changes}.items() if value is not None}
    forgotten(served)
    refused = imported(served, [good, bad])

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
    assert listed(served) == []


@ON_SQLITE
def test_an_import_says_on_which_device_it_counts(served: Served, device: Device) -> None:
    """Another service's own processor is not ours; with `device` it counts as measured on a device of the caller."""
    one = {**measured(device), "device": "dev_local"}
    forgotten(served)
    imported(served, [one])
    elsewhere = listed(served)[0]["device"]
    forgotten(served)
    imported(served, [one], device=device.id)

    assert elsewhere == "dev_elsewhere"
    assert [(row["device"], row["source"]["device"]) for row in listed(served)] == [(device.id, "dev_local")]
    assert imported(served, [one], device="dev_00000000000000000000000000").status_code == 404


@ON_SQLITE
@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{}", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"[", "application/json", 400),
        (b"", "text/csv", 422),
        (b"colour\nred", "text/csv", 422),
        (b"id,sha256,device,samples_ms,host\nmsr_1", "text/csv", 422),
        (b"id,sha256,device,samples_ms,host\nmsr_1,0,dev_1,[1],{", "text/csv", 422),
        (b"\xff\xfe", "text/csv", 400),
        (b"PAR1", PARQUET, 422),
        (b"PAR1" + bytes(100) + b"PAR1", PARQUET, 422),
        (b"x", "text/html", 415),
        (b"[" + b" " * 2**24 + b"]", "application/json", 413),
    ],
)
def test_what_is_no_export_is_refused(served: Served, content: bytes, media_type: str, status: int) -> None:
    """Each with a problem document; a damaged Parquet file does no harm to the service."""
    refused = imported(served, content, media_type)

    assert refused.status_code == status
    assert refused.json()["detail"]
    assert listed(served) == []


@ON_SQLITE
def test_without_the_extra_parquet_says_how_to_get_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """501, with the words to install; JSON and CSV go on."""
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    answers = [exported(served, "parquet"), imported(served, b"PAR1", PARQUET)]

    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(501, "format-unavailable")] * 2
    assert "espalier[parquet]" in answers[0].json()["detail"]
    assert exported(served, "csv").status_code == 200


@ON_SQLITE
def test_the_parquet_columns_are_typed(served: Served, device: Device) -> None:
    """Other tools find figures as figures and samples as lists of them."""
    core_io = pytest.importorskip("arro3.io")
    kept = [measured(device) for _ in range(3)][::-1]
    rows = core_io.read_parquet(io.BytesIO(exported(served, "parquet").content)).read_all()
    lines = list(csv.DictReader(io.StringIO(exported(served, "csv").text)))

    assert rows.column("samples_ms").to_pylist() == [row["samples_ms"] for row in kept]
    assert rows.column("p50_ms").to_pylist() == [row["p50_ms"] for row in kept]
    assert rows.column("threads").to_pylist() == [1, 1, 1]
    assert [json.loads(text) for text in rows.column("host").to_pylist()] == [row["host"] for row in kept]
    assert [line["id"] for line in lines] == rows.column("id").to_pylist()
