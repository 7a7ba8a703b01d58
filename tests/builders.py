"""Things that tests need, valid by default: one keyword changes one thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import DatasetRow, JobRow, NetworkRow
from app.domain.methods import JobSpec, parse_spec
from app.ids import Digest
from app.services.assembly import Services
from app.services.claims import Claimed
from app.services.results import NewArtifact, NewMeasurement
from app.services.uploads import Announced
from app.settings import Settings
from app.storage.blobs import put

TENANT = "default"

# One group of 10 channels beside layers that are not pruned, worked by hand: 100 MACs and 40 per channel; 5 parameters
# and 8 per channel, 4 bytes each; 64 bytes of activations per channel.
COST_MODEL: Mapping[str, Any] = {
    "widths": [10],
    "group_ids": ["g0"],
    "macs": [[100, []], [40, [[0, [[0, 1]]]]]],
    "params": [[1, [[5, [[0, 8]]]]]],
    "size_bytes": [[4, [[5, [[0, 8]]]]]],
    "peak": [[[32, []]], [[64, [[0, [[0, 1]]]]]]],
}
ANALYSIS: Mapping[str, Any] = {
    "opset": 17,
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 32, 32]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 10]}],
    "macs": 500,
    "flops": 1000,
    "params": 85,
    "size_bytes": 340,
    "peak_activation_bytes": 640,
    "prunable_groups": [{"id": "g0", "channels": 10, "layers": ["conv"], "share_of_macs": 0.8}],
    "frozen": [],
    "head": "classification",
    "warnings": [],
}


@dataclass(slots=True)
class FakeClock:
    """The time by which services judge; moves when told to."""

    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self, session: Session | None = None) -> datetime:
        """What time it is."""
        del session
        return self.moment

    def advance(self, **units: float) -> None:
        """Let time pass: advance(seconds=5)."""
        self.moment += timedelta(**units)


@dataclass(slots=True)
class RecordingBell:
    """A bell that notes which queues were rung; `broken` makes it fail."""

    name: str = "recording"
    broken: bool = False
    rung: list[str] = field(default_factory=list)

    def ring(self, queue: str) -> bool:
        """Note the ring."""
        if not self.broken:
            self.rung.append(queue)
        return not self.broken

    def answers(self) -> bool:
        """Whether it works."""
        return not self.broken


def settings_with(**changes: Any) -> Settings:
    """Settings that do not depend on the environment's own."""
    return Settings(**{"min_free_bytes": 0, **changes})


def spec(model: str = "mdl_1", **changes: Any) -> JobSpec:
    """A job request; by default half the FLOPs of a model."""
    return parse_spec({"model": model, "target": "flops=50%", **changes})


def upload_model(services: Services, content: bytes = b"network", *, tenant: str = TENANT) -> NetworkRow:
    """A model that waits for its analysis."""
    return services.uploads.receive_model(tenant, [content], Announced(name="net.onnx")).row


def upload_dataset(services: Services, content: bytes = b"dataset", *, tenant: str = TENANT) -> DatasetRow:
    """A dataset that waits for its analysis."""
    return services.uploads.receive_dataset(tenant, [content], Announced(name="data.zip")).row


def analysed_model(services: Services, content: bytes = b"network", *, tenant: str = TENANT) -> NetworkRow:
    """A model whose analysis found ANALYSIS and COST_MODEL."""
    row = upload_model(services, content, tenant=tenant)
    claimed = claim(services)
    services.attempts.finish(claimed.job_id, claimed.epoch, {**ANALYSIS, "cost_model": COST_MODEL})
    return services.inputs.model(tenant, row.id)


def job(services: Services, *, tenant: str = TENANT, content: bytes = b"network", **changes: Any) -> JobRow:
    """A prune job that waits, on an analysed model."""
    model = analysed_model(services, content, tenant=tenant)
    return services.jobs.submit(tenant, spec(model.id, **changes))


def claim(services: Services, worker: str = "worker-1") -> Claimed:
    """The next job, which must be there."""
    claimed = services.attempts.claim(worker, ["cpu"])
    assert claimed is not None
    return claimed


def artifact(services: Services, content: bytes = b"pruned", **changes: Any) -> NewArtifact:
    """An artifact whose bytes are stored."""
    blob = put(services.store, [content])
    values: dict[str, Any] = {"kind": "onnx", "name": "net-pruned.onnx", "summary": {"macs": 250}}
    return NewArtifact(sha256=blob.digest, size_bytes=blob.size_bytes, **{**values, **changes})


def measurement(sha256: Digest, **changes: Any) -> NewMeasurement:
    """A latency of three samples."""
    values: dict[str, Any] = {
        "sha256": sha256,
        "runtime": "onnxruntime",
        "runtime_version": "1.31.1",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "batch": 1,
        "warmup": 5,
        "samples_ms": [2.0, 1.0, 3.0],
        "p50_ms": 2.0,
        "p90_ms": 2.8,
        "p99_ms": 2.98,
        "mean_ms": 2.0,
        "load_ms": 12.0,
        "host": {"cpu": "test"},
    }
    return NewMeasurement.model_validate({**values, **changes})
