"""The devices that a job may ask for latencies, as its attempt is told of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.domain.job import JobKind
from app.domain.methods import JobSpec
from app.domain.target import LOCAL
from app.errors import NotFound
from app.services.assembly import Services
from app.services.claims import Claimed
from app.services.timings import Conditions
from workers.host import runtime_version

Clock = dict[str, Any]


def asked_devices(claimed: Claimed) -> tuple[str, ...]:
    """Give the devices that a job may ask; `dev_local` always, since every result states the latency there."""
    if claimed.kind is not JobKind.PRUNE:
        return ()
    return tuple(dict.fromkeys((LOCAL, *JobSpec.model_validate(claimed.spec).devices)))


def clocks(services: Services, claimed: Claimed) -> list[Clock]:
    """Give each device of a job: how it times, what it is called, and the rows of its latency table."""
    devices = asked_devices(claimed)
    spec = JobSpec.model_validate(claimed.spec) if devices else None
    return [_clock(services, claimed, name, spec) for name in devices if spec is not None]


def _clock(services: Services, claimed: Claimed, device_id: str, spec: JobSpec) -> Clock:
    timings, tenant = services.timings, claimed.tenant
    threads: int | None
    if device_id == LOCAL:
        cpu, threads = processor(), spec.measure.threads or 1
        conditions = Conditions(threads=threads, runtime_version=runtime_version(), cpu=cpu)
        called: Mapping[str, object] = {"name": "this service's worker", "processor": cpu}
    else:
        threads = spec.measure.threads  # null: its own, which the device knows best
        conditions = timings.conditions(tenant, device_id, threads=spec.measure.threads)
        called = _called(services, tenant, device_id)
    aimed_at = device_id in spec.target_devices  # whoever aims at no latency needs no table
    rows = timings.table(tenant, device_id, conditions, job_id=claimed.job_id) if aimed_at else {}
    return {
        "device": device_id,
        "threads": threads,
        "batch": spec.measure.batch,
        "rows": rows,
        **called,
    }


def _called(services: Services, tenant: str, device_id: str) -> dict[str, object]:
    try:
        found = services.devices.get(tenant, device_id)
    except NotFound:
        return {"name": device_id, "processor": None}
    known = found.attributes or {}
    return {"name": found.name, "processor": known.get("board") or known.get("cpu")}


def processor() -> str | None:
    """Give the name of this host's processor, as measurements state it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return None
