"""Requests made up from the OpenAPI document, right and wrong ones, get answers that the document allows.

The service runs behind a real socket with a model, a dataset and a finished job in it, so that many made-up requests
find something. All of schemathesis' checks are on, but for one on a few operations: see BUSINESS_RULES.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from app.broker import SilentBell
from app.db.migrate import migrate
from app.db.session import open_database
from app.domain.device import DeviceSpec, MeasurementSpec, Poll
from app.main import create_app
from app.services.assembly import Services
from app.settings import Settings
from app.storage.local import LocalStore
from tests.app.api.served import hosting
from tests.builders import analysed_model, artifact, claim, settings_with, spec, upload_dataset

# What a schema cannot say is refused although the request follows it: a target's grammar, that a target or targets must
# be given, options that depend on the method, files by their first bytes, a range behind the end of the content, that
# either a model or an artifact is measured, that a host names its processor and its system, that an idempotency key
# belongs to one request.
BUSINESS_RULES = {
    "submit_job",
    "estimate_job",
    "upload_model",
    "upload_dataset",
    "get_artifact_content",
    "ask_measurement",
    "record_measurement",
    "report_results",
    "import_measurements",
    "register_device",
}
NUM_EXAMPLES = int(os.environ.get("ESPALIER_TEST_REQUESTS", "12"))  # per operation; a nightly run asks for more
RESULT = {
    "before": {"macs": 2, "flops": 4, "params": 2, "size_bytes": 2, "peak_activation_bytes": 2},
    "after": {"macs": 1, "flops": 2, "params": 1, "size_bytes": 1, "peak_activation_bytes": 1},
    "target_met": True,
    "stopped_by": "target",
}


def _filled(path: Path) -> tuple[Services, dict[str, str]]:
    """Services with one of everything; ids by the name of the path parameter."""
    chosen = settings_with(data_dir=path, max_wait_seconds=0.01)
    migrate(chosen.resolved_database_url)
    services = Services.of(
        chosen, database=open_database(chosen), store=LocalStore(chosen.resolved_store_dir), bell=SilentBell()
    )
    model = analysed_model(services)
    job = services.jobs.submit("default", spec(model.id))
    claimed = claim(services)
    services.attempts.finish(claimed.job_id, claimed.epoch, RESULT, artifacts=[artifact(services)])
    made = services.jobs.artifacts("default", job.id)[0]
    dataset = upload_dataset(services)
    ids = {"model_id": model.id, "dataset_id": dataset.id, "job_id": job.id, "artifact_id": made.id}
    return services, {**ids, **_device_with_work(services, model.id)}


def _device_with_work(services: Services, model_id: str) -> dict[str, str]:
    """A device that holds a lease."""
    token = services.devices.register("default", DeviceSpec(name="board")).token
    device = services.devices.authenticate(token)
    request = services.devices.ask("default", device.id, MeasurementSpec(model=model_id))
    lease = services.device_work.lease(device, Poll(agent="agentone"))
    assert lease is not None
    unknown = "msr_00000000000000000000000000"
    return {"device_id": device.id, "request_id": request.id, "lease_id": lease.id, "measurement_id": unknown}


@dataclass(slots=True)
class Known:
    """Where the service runs, and what is there."""

    url: str = ""
    ids: dict[str, str] = field(default_factory=dict)


@schemathesis.serializer("application/onnx", "application/zip", "application/vnd.apache.parquet")
def send_bytes(context: object, value: object) -> object:
    """Bodies of these kinds are sent as they are."""
    del context
    return value


KNOWN = Known()
schema = schemathesis.openapi.from_dict(
    create_app(Settings()).openapi(), config=SchemathesisConfig.from_dict({"generation": {"allow-x00": False}})
)


@schema.hook
def map_path_parameters(context: object, path_parameters: dict[str, object] | None) -> dict[str, object] | None:
    """About half of the made-up ids are replaced by real ones, so that requests find something."""
    del context
    if not path_parameters:
        return path_parameters
    return {name: KNOWN.ids[name] if len(str(value)) % 2 else value for name, value in path_parameters.items()}


@pytest.fixture(scope="module", autouse=True)
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The running service."""
    services, KNOWN.ids = _filled(tmp_path_factory.mktemp("service"))
    with hosting() as host, host.serving(services):
        KNOWN.url = host.url
        yield
    services.close()


@schema.parametrize()
@settings(
    max_examples=NUM_EXAMPLES, derandomize=NUM_EXAMPLES == 12, suppress_health_check=list(HealthCheck), deadline=None
)
def test_made_up_requests_get_documented_answers(case: schemathesis.Case) -> None:
    """No answer breaks the document, none is a 500, right requests are taken and wrong ones refused."""
    operation = case.operation.definition.raw["operationId"]
    left_out = ["positive_data_acceptance"] if operation in BUSINESS_RULES else []
    case.call_and_validate(base_url=KNOWN.url, excluded_checks=CHECKS.get_by_names(left_out))
