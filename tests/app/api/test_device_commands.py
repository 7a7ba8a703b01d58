"""`espalier devices`, `measurements` and `compare` against a running service."""

import csv
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from app.cli import main
from tests.app.api.served import Served
from tests.app.api.test_devices import CONTENT, ON_SQLITE, Device
from tests.app.api.test_measurements import forgotten, measured
from tests.app.services.test_devices import RESULT
from tests.builders import claim, job, upload_model

pytestmark = ON_SQLITE


def espalier(served: Served, *arguments: str) -> Result:
    """The command's end."""
    return CliRunner(env={"ESPALIER_URL": served.url, "COLUMNS": "250"}).invoke(main, list(arguments))


def finished(served: Served, width: int, target: str) -> str:
    """A job that gave its layer this width; gives its id."""
    row = job(served.services, content=target.encode(), target=target)  # a network each, analysed anew
    claimed = claim(served.services)
    facts = {"latency": {"dev_local": {"steps": {"Conv": 8}, "original_ms": 4.0, "groups": [_GROUP]}}}
    layers = [{"name": "conv_1", "kind": "Conv", "before": 32, "after": width}]
    result: dict[str, Any] = {**RESULT, "target": target, "layers": layers, "facts": facts}
    served.services.attempts.finish(row.id, claimed.epoch, result=result, artifacts=[], measurements=[])
    return row.id


_GROUP = {"layers": ["conv_1"], "original_ms": 1.0, "saved_by_step_ms": 0.02, "step": 8}


def test_several_networks_are_asked_of_a_device(served: Served) -> None:
    """By one command, in turn, with a profile; without a device it is no question."""
    device = Device(served)
    models = [upload_model(served.services, content).id for content in (CONTENT, b"another")]
    done = espalier(served, "devices", *models, "--on", device.id, "--profile", "--threads", "2")
    asked = json.loads(done.stdout)

    assert done.exit_code == 0, done.output
    assert [one["model"] for one in asked["items"]] == models
    assert (asked["profile"], asked["threads"]) == (True, 2)
    assert espalier(served, "devices", models[0]).exit_code == 2


def test_the_record_is_listed_exported_and_imported(served: Served, tmp_path: Path) -> None:
    """A file's ending is its form; an import says how many are new."""
    device = Device(served)
    kept = measured(device)
    listed = espalier(served, "measurements", "--on", device.id, "--of", kept["model"])
    for form in ("json", "csv", "parquet"):
        target = tmp_path / f"record.{form}"
        assert espalier(served, "measurements", "--export", str(target)).exit_code == 0
        forgotten(served)
        done = espalier(served, "measurements", "--import", str(target), "--source", "lab", "--as", device.id)
        assert json.loads(done.stdout)["imported"] == 1, done.output

    assert kept["id"] in listed.stdout
    assert "imported" in espalier(served, "measurements", "--kind", "network").stdout
    with (tmp_path / "record.csv").open() as file:
        assert [row["sha256"] for row in csv.DictReader(file)] == [kept["sha256"]]
    refused = espalier(served, "measurements", "--export", str(tmp_path / "record.xls"))
    assert (refused.exit_code, (tmp_path / "record.xls").exists()) == (1, False)


def test_two_plans_are_shown_side_by_side(served: Served) -> None:
    """Widths that differ, what a step costs on the device, the steps it likes; equal plans say so."""
    first, second = finished(served, 24, "flops=50%"), finished(served, 8, "flops=60%")
    differ = espalier(served, "compare", first, second)
    same = espalier(served, "compare", first, first)

    assert differ.exit_code == 0, differ.output
    assert "conv_1" in differ.stdout
    words = " ".join(differ.stdout.replace("│", " ").split())  # cells are wrapped
    assert "25 % of the time on dev_local, a step of 8 saves 0.5 %" in words
    assert "steps in channels on dev_local: Conv 8" in differ.stdout
    assert "every layer the same width" in same.stdout
    assert espalier(served, "compare", first, job(served.services, content=b"third").id).exit_code == 2
