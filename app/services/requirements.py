"""What must hold before a job is worth running: its inputs are there and usable, its target can be reached.

Asked twice: when a job is submitted, so that the user learns at once, and when it is claimed, because a model may have
been deleted, rejected or analysed meanwhile. What is not known yet is not refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from app.db import devices, inputs
from app.db.tables import DatasetRow, DeviceRow, NetworkRow
from app.domain import plan
from app.domain.device import LOCAL, DeviceState, presence
from app.domain.job import InputState
from app.domain.methods import LATENCY_METHODS, JobSpec
from app.errors import (
    DatasetDeleted,
    DatasetMismatch,
    DatasetRejected,
    DeviceGone,
    FieldError,
    ModelDeleted,
    ModelRejected,
    NotFound,
    ServiceError,
    TargetUnsupported,
    ValidationFailed,
)
from app.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The rows that a job needs, as they are now."""

    network: NetworkRow
    dataset: DatasetRow | None
    devices: Mapping[str, DeviceRow] = field(default_factory=dict)  # by id; without `dev_local`, which is no row


def find_inputs(session: Session, tenant: str, spec: JobSpec) -> Inputs:
    """Give the inputs that a request names.

    Raises:
        NotFound: the tenant has no such model, dataset or device.
    """
    network = inputs.with_cost_model(session, tenant, spec.model)
    if network is None:
        raise NotFound(f"There is no model {spec.model}.", errors=[FieldError(pointer="/model", message="not found")])
    dataset = inputs.find(session, DatasetRow, tenant, spec.dataset) if spec.dataset else None
    if spec.dataset and dataset is None:
        field = FieldError(pointer="/dataset", message="not found")
        raise NotFound(f"There is no dataset {spec.dataset}.", errors=[field])
    return Inputs(network=network, dataset=dataset, devices=_devices(session, tenant, spec))


def _devices(session: Session, tenant: str, spec: JobSpec) -> dict[str, DeviceRow]:
    found = {}
    for name in spec.devices:
        if name != LOCAL:
            row = devices.find(session, tenant, name)
            if row is None:
                field = FieldError(pointer=_pointer_to(spec, name), message="not found")
                raise NotFound(f"There is no device {name}.", errors=[field])
            found[name] = row
    return found


def find_claimed_inputs(session: Session, tenant: str, spec: JobSpec) -> Inputs:
    """Give the inputs of a job that waited.

    Raises:
        ModelDeleted: the model went meanwhile.
        DatasetDeleted: the dataset did.
    """
    try:
        return find_inputs(session, tenant, spec)
    except NotFound as error:
        if error.errors[0].pointer not in {"/dataset", "/model"}:
            raise
        kind: type[ServiceError] = DatasetDeleted if error.errors[0].pointer == "/dataset" else ModelDeleted
        name = spec.dataset if kind is DatasetDeleted else spec.model
        raise kind(f"{name} was deleted while the job waited.", advice="Upload it again and submit anew.") from error


def check_inputs(spec: JobSpec, given: Inputs) -> None:
    """Pass unless it is already known that this job must fail.

    Raises:
        ModelRejected: the analysis refused the model.
        DatasetRejected: the analysis refused the dataset.
        DatasetMismatch: the dataset does not fit the model.
        TargetUnreachable: even the smallest network is above the target.
        TargetUnsupported: the method cannot aim at a latency.
        ValidationFailed: a device was revoked.
    """
    _check_latency(spec)
    for name, row in given.devices.items():
        if row.revoked_at is not None:
            field = FieldError(pointer=_pointer_to(spec, name), message="revoked")
            raise ValidationFailed(f"{name} was revoked; it measures nothing any more.", errors=[field])
    if given.network.state == InputState.REJECTED:
        raise _rejected(ModelRejected, given.network)
    if given.dataset is not None and given.dataset.state == InputState.REJECTED:
        raise _rejected(DatasetRejected, given.dataset)
    if given.dataset is not None:
        check_fit(given.network, given.dataset)
    if given.network.cost_model is not None:
        model = plan.read_cost_model(given.network.cost_model)
        for i, targets in enumerate(spec.target_sets):
            plan.check_reachable(model, targets, spec.export, pointer=_pointer(spec, i))


def check_presence(spec: JobSpec, given: Inputs, now: datetime, settings: Settings) -> None:
    """Pass unless a device has been silent for so long that a job would wait for it in vain; a shorter silence is none.

    Raises:
        DeviceGone: it was.
    """
    for name, row in given.devices.items():
        limits = {"stale_after": settings.device_stale, "gone_after": max(settings.device_stale, settings.device_gone)}
        if presence(row.seen_at, now, revoked=False, **limits) is DeviceState.GONE:
            silent = "never" if row.seen_at is None else f"last at {row.seen_at.isoformat(timespec='seconds')}"
            raise DeviceGone(
                f"{name} was heard of {silent}; after {settings.device_gone} it counts as gone.",
                advice="Start its agent, then submit again.",
                errors=[FieldError(pointer=_pointer_to(spec, name), message="gone")],
            )


def _check_latency(spec: JobSpec) -> None:
    if spec.target_devices and spec.method not in LATENCY_METHODS:
        allowed = ", ".join(sorted(LATENCY_METHODS))
        raise TargetUnsupported(
            f"{spec.method} cannot aim at a latency.",
            advice=f"Methods that can: {allowed}. Or limit flops, and read the latency from the result.",
            errors=[FieldError(pointer="/method", message=f"{spec.method} aims at no latency; allowed are {allowed}")],
        )


def _pointer_to(spec: JobSpec, device: str) -> str:
    """Where the request names a device."""
    if device == spec.device:
        return "/device"
    if device not in spec.target_devices:
        return f"/measure_on/{spec.measure_on.index(device)}"
    for index, targets in enumerate(spec.target_sets):
        if any(target.device == device for target in targets):
            return _pointer(spec, index)
    return "/target"


def check_fit(network: NetworkRow, dataset: DatasetRow) -> None:
    """Pass unless the data cannot be this network's, by what both analyses found.

    Shapes are left to the attempt, which knows how samples are resized and laid out.

    Raises:
        DatasetMismatch: there are more classes than the network can tell apart.
    """
    analysis, description = network.analysis or {}, dataset.description or {}
    num_classes, outputs = description.get("num_classes"), analysis.get("outputs")
    if analysis.get("head") != "classification" or not isinstance(num_classes, int) or not isinstance(outputs, list):
        return
    shape = outputs[0].get("shape") if outputs and isinstance(outputs[0], dict) else None
    width = shape[-1] if isinstance(shape, list) and shape else None
    if isinstance(width, int) and num_classes > width:
        detail = f"The dataset has {num_classes} classes; the model's output tells {width} apart."
        field = FieldError(pointer="/dataset", message=f"{num_classes} classes, allowed are {width}")
        raise DatasetMismatch(detail, advice="Use the data that the model was trained for.", errors=[field])


def _pointer(spec: JobSpec, index: int) -> str:
    return "/target" if spec.targets is None else f"/targets/{index}"


def _rejected(kind: type[ServiceError], row: NetworkRow | DatasetRow) -> ServiceError:
    problem = row.problem or {}
    cause = str(problem.get("detail") or problem.get("title") or "no reason was recorded")
    pointer = "/model" if kind is ModelRejected else "/dataset"
    return kind(
        f"{row.id} was rejected: {cause}",
        errors=[FieldError(pointer=pointer, message=str(problem.get("type", "rejected")))],
        extra={"cause": problem},
    )
