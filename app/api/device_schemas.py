"""Shapes of what concerns devices and the record of measurements; they describe documents, and hold no rules."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.api.schemas import Document, JobProblem, Sha256
from app.domain.device import DeviceState, RequestState, Shapes
from app.domain.report import MeasuredKind, MeasurementReport


class Measurement(MeasurementReport):
    """Latency of one network on one host, every sample kept; of an artifact, or of an uploaded model."""

    id: str
    artifact: str | None = None
    model: str | None = None
    job: str | None = None
    p50_interval_ms: tuple[float, float] = Field(description="Where the median lies, with 95 % confidence.")
    unstable: list[str] = Field(description="Why the samples do not state one latency; empty if they do.")
    source: dict[str, Any] | None = Field(default=None, description="Of an imported measurement: where it is from.")
    created_at: datetime


class Import(Document):
    """What an import did."""

    imported: int = Field(description="Measurements that are new in the record.")
    known: int = Field(description="Those that were in it.")
    measurements: list[str] = Field(description="Ids of the new ones, oldest first.")


class Device(Document):
    """A machine that measures latencies; `attributes` are what its agent reports of it."""

    id: str
    name: str
    state: DeviceState
    attributes: dict[str, Any] | None = None
    created_at: datetime | None = None
    seen_at: datetime | None = None


class RegisteredDevice(Device):
    """A new device. Its token is shown here and never again; a repeated request is answered without it."""

    token: str | None


class MeasurementItem(Document):
    """One of several networks or layers that are timed in turn."""

    name: str
    kind: MeasuredKind
    key: str | None = None
    artifact: str | None = None
    model: str | None = None
    sha256: str = Sha256
    measurement: str | None = None
    problem: JobProblem | None = None


class MeasurementRequest(Document):
    """A latency that was asked of a device, and how far it is."""

    id: str
    device: str
    artifact: str | None = None
    model: str | None = None
    sha256: str = Sha256
    threads: int | None = None
    batch: int
    provider: str | None = None
    warmup: int
    repeats: int
    profile: bool = False
    shapes: Shapes | None = None
    job: str | None = Field(default=None, description="The job that asks.")
    items: list[MeasurementItem] = Field(
        description="Where several are timed in turn; lists of requests leave them out."
    )
    state: RequestState
    attempts: int = Field(description="Times that it was leased to the device's agent.")
    leased_until: datetime | None = None
    measurement: str | None = None
    problem: JobProblem | None = None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None = None


class LeasedCompanion(Document):
    """The file that holds the weights of a leased network whose bytes do not."""

    sha256: str = Sha256
    size_bytes: int
    content: str


class LeasedItem(Document):
    """One of several networks that an agent is to time in turn."""

    name: str
    sha256: str = Sha256
    size_bytes: int
    content: str
    external_data: LeasedCompanion | None = None


class Lease(Document):
    """What an agent is to measure, and until when it holds that."""

    id: str
    sha256: str = Sha256
    size_bytes: int
    content: str = Field(description="Where the bytes are; the device's token opens it while the lease is held.")
    threads: int
    batch: int
    provider: str
    warmup: int
    repeats: int
    profile: bool = False
    shapes: Shapes | None = None
    external_data: LeasedCompanion | None = None
    until: datetime
    items: list[LeasedItem] = Field(description="Empty: the one network above. Else these, run in turn.")


class LeaseTime(Document):
    """Until when a lease is held."""

    id: str
    until: datetime
