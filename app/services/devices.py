"""Devices of users: registered, looked at, revoked, asked to measure. What their agents do is in device_work.py."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import artifacts, inputs
from app.db import devices as queries
from app.db.session import Clock, Database
from app.db.tables import DeviceRow, MeasurementRequestRow, MeasurementRow, NetworkRow, WorkerRow
from app.domain.batch import BatchSpec
from app.domain.device import (
    LOCAL,
    OPEN,
    TOKEN_PREFIX,
    DeviceSpec,
    DeviceState,
    MeasurementSpec,
    NetworkRef,
    RequestState,
    presence,
)
from app.errors import DeviceRevoked, NotFound, Unauthorized, ValidationFailed
from app.ids import new_id
from app.services import batches, idempotency
from app.settings import Settings

_TOKEN_BYTES: Final = 32
_BYTES: Final = ("sha256", "size_bytes", "external_data_sha256", "external_data_bytes")  # of what is to be timed
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as it is seen now; `dev_local`, the workers' own processor, is seen when a worker is."""

    id: str
    name: str
    state: DeviceState
    attributes: dict[str, object] | None
    created_at: datetime | None
    seen_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A new device and its token, which is nowhere else."""

    device: Device
    token: str


def digest_of(token: str) -> str:
    """Give what is kept of a token. It is 256 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The verbs of users. Every one asks for the tenant; another tenant's device is NotFound."""

    database: Database
    settings: Settings
    clock: Clock

    def register(self, tenant: str, spec: DeviceSpec, ticket: idempotency.Ticket | None = None) -> Registered:
        """Add a device; its token is given here and never again. The token names its device, for the agent's sake.

        Raises:
            IdempotencyConflict: the ticket has passed to another request.
        """
        device_id = new_id("dev")
        token = f"{TOKEN_PREFIX}{device_id.removeprefix('dev_')}_{secrets.token_urlsafe(_TOKEN_BYTES)}"
        row = DeviceRow(id=device_id, tenant=tenant, name=spec.name, token_sha256=digest_of(token))
        with self.database.unit_of_work() as session:
            now = row.created_at = self.clock(session)
            session.add(row)
            if ticket is not None:
                idempotency.bind(session, ticket, row.id)
        _log.info("device.registered", device_id=row.id)
        return Registered(device=self._seen(row, now), token=token)

    def authenticate(self, token: str) -> DeviceRow:
        """Give the device whose token this is.

        Raises:
            Unauthorized: it is no device's token.
            DeviceRevoked: it was one.
        """
        digest = digest_of(token)
        with self.database.read_only() as session:
            row = queries.by_token(session, digest)
        # The index found equal digests; comparing them again in constant time leaves nothing to a database's way.
        if row is None or not hmac.compare_digest(row.token_sha256, digest):
            raise Unauthorized("The token is not that of a device.", advice="Send it as Authorization: Bearer espd_...")
        if row.revoked_at is not None:
            raise DeviceRevoked(f"The token of {row.id} was revoked.", advice="Register the device again.")
        return row

    def get(self, tenant: str, device_id: str) -> Device:
        """Give a device.

        Raises:
            NotFound: the tenant has no such device.
        """
        with self.database.read_only() as session:
            now = self.clock(session)
            if device_id == LOCAL:
                return self._local(session, now)
            return self._seen(_found(queries.find(session, tenant, device_id), device_id), now)

    def page(self, tenant: str, *, limit: int, after: str | None = None) -> tuple[Sequence[Device], bool]:
        """Give `dev_local` and the tenant's devices, newest first, and whether there are more."""
        size = max(1, min(limit, self.settings.page_limit))
        with self.database.read_only() as session:
            now = self.clock(session)
            first = [self._local(session, now)] if after is None else []
            behind = None if after == LOCAL else after
            rows = queries.page(session, tenant, limit=size + 1 - len(first), after=behind)
            found = [*first, *(self._seen(row, now) for row in rows)]
        return found[:size], len(found) > size

    def revoke(self, tenant: str, device_id: str) -> None:
        """Take a device's token back, and cancel what it was asked; what it measured stays.

        Raises:
            NotFound: the tenant has no such device.
            ValidationFailed: it is `dev_local`, which has no token.
        """
        _refuse_local(device_id, "It has no agent and no token to take back.")
        with self.database.unit_of_work() as session:
            row = _found(queries.find_locked(session, tenant, device_id), device_id)
            now = self.clock(session)
            row.revoked_at = row.revoked_at or now
            problem = DeviceRevoked(f"{device_id} was revoked before it measured.").problem()
            for request in queries.open_locked(session, device_id):
                queries.end(request, RequestState.CANCELLED, now, problem)
        _log.info("device.revoked", device_id=device_id)

    def ask(
        self, tenant: str, device_id: str, spec: MeasurementSpec, ticket: idempotency.Ticket | None = None
    ) -> MeasurementRequestRow:
        """Ask a device to measure a network; its agent, or a worker for `dev_local`, takes it up with its next look.

        Raises:
            NotFound: the tenant has no such device, artifact or model.
            ValidationFailed: the artifact is no network, or the device was revoked.
            IdempotencyConflict: the ticket has passed to another request.
        """
        with self.database.unit_of_work() as session:
            if device_id != LOCAL:
                _askable(queries.find(session, tenant, device_id), device_id)
            now = self.clock(session)
            expires_at = now + self.settings.device_request_ttl
            if spec.networks is None:
                row = _single(session, tenant, device_id, spec, now=now, expires_at=expires_at)
            else:
                several = _several(session, tenant, spec)
                row = batches.add_request(session, tenant, device_id, several, now=now, expires_at=expires_at)
            if ticket is not None:
                idempotency.bind(session, ticket, row.id)
        _log.info("measurement.asked", device_id=device_id, request=row.id)
        return row

    def ask_batch(
        self, tenant: str, device_id: str, spec: BatchSpec, *, job_id: str | None = None, once: str | None = None
    ) -> MeasurementRequestRow:
        """Ask a device to time several items in turn, whose bytes are in the store; under one `once` only once.

        Raises:
            NotFound: the tenant has no such device.
            ValidationFailed: the device was revoked.
        """
        try:
            with self.database.unit_of_work() as session:
                known = queries.asked_once(session, tenant, once) if once else None
                if known is not None:
                    return known
                if device_id != LOCAL:
                    _askable(queries.find(session, tenant, device_id), device_id)
                now = self.clock(session)
                expires_at = now + self.settings.device_request_ttl
                row = batches.add_request(
                    session, tenant, device_id, spec, now=now, expires_at=expires_at, job_id=job_id, once=once
                )
        except IntegrityError:  # another process asked the same in the same moment
            with self.database.read_only() as session:
                known = queries.asked_once(session, tenant, once) if once else None
            if known is None:
                raise
            return known
        _log.info("measurement.asked", device_id=device_id, request=row.id, items=len(spec.items), job_id=job_id)
        return row

    def batch(self, tenant: str, device_id: str, request_id: str) -> batches.Batch:
        """Give a request with its items and what was measured of them.

        Raises:
            NotFound: it was never asked.
        """
        with self.database.read_only() as session:
            row = _asked(queries.read_request(session, tenant, device_id, request_id), request_id)
            items = [
                (item, queries.measurement(session, tenant, item.measurement_id) if item.measurement_id else None)
                for item in queries.items(session, row.id)
            ]
        return batches.Batch(request=row, items=items)

    def request(self, tenant: str, device_id: str, request_id: str) -> MeasurementRequestRow:
        """Give a measurement that was asked of a device.

        Raises:
            NotFound: it was not.
        """
        with self.database.read_only() as session:
            return _asked(queries.read_request(session, tenant, device_id, request_id), request_id)

    def requests(
        self, tenant: str, device_id: str, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[MeasurementRequestRow], bool]:
        """Give what was asked of a device, newest first, and whether there is more.

        Raises:
            NotFound: the tenant has no such device.
        """
        size = max(1, min(limit, self.settings.page_limit))
        with self.database.read_only() as session:
            if device_id != LOCAL:
                _found(queries.find(session, tenant, device_id), device_id)
            rows = queries.requests(session, tenant, device_id, limit=size + 1, after=after)
        return rows[:size], len(rows) > size

    def cancel(self, tenant: str, device_id: str, request_id: str) -> MeasurementRequestRow:
        """Cancel a measurement; one that has ended is given unchanged. Its agent hears of it when it next reports.

        Raises:
            NotFound: it was never asked.
        """
        with self.database.unit_of_work() as session:
            row = _asked(queries.request(session, tenant, device_id, request_id), request_id)
            if row.state in OPEN:
                queries.end(row, RequestState.CANCELLED, self.clock(session), None)
        return row

    def measurement(self, tenant: str, measurement_id: str) -> MeasurementRow:
        """Give one measurement.

        Raises:
            NotFound: the tenant has no such measurement.
        """
        with self.database.read_only() as session:
            row = queries.measurement(session, tenant, measurement_id)
        if row is None:
            raise NotFound(f"There is no measurement {measurement_id[:40]}.")
        return row

    def _seen(self, row: DeviceRow, now: datetime) -> Device:
        state = self._state(
            row.seen_at, now, stale_after=self.settings.device_stale, revoked=row.revoked_at is not None
        )
        return Device(
            id=row.id,
            name=row.name,
            state=state,
            attributes=row.attributes,
            created_at=row.created_at,
            seen_at=row.seen_at,
        )

    def _state(
        self, seen_at: datetime | None, now: datetime, *, stale_after: timedelta, revoked: bool = False
    ) -> DeviceState:
        gone_after = max(stale_after, self.settings.device_gone)
        return presence(seen_at, now, revoked=revoked, stale_after=stale_after, gone_after=gone_after)

    def _local(self, session: Session, now: datetime) -> Device:
        """Give the workers' own processor: as present as the worker that was seen last."""
        row = session.scalar(select(WorkerRow).order_by(WorkerRow.seen_at.desc()).limit(1))
        seen_at = row.seen_at if row else None
        return Device(
            id=LOCAL,
            name="local",
            state=self._state(seen_at, now, stale_after=self.settings.worker_stale_seconds),
            attributes={"host": row.host, **row.system} if row else None,
            created_at=row.started_at if row else None,
            seen_at=seen_at,
        )


def _single(
    session: Session, tenant: str, device_id: str, spec: MeasurementSpec, *, now: datetime, expires_at: datetime
) -> MeasurementRequestRow:
    """Add a request of one network."""
    row = MeasurementRequestRow(
        id=new_id("mrq"),
        tenant=tenant,
        device_id=device_id,
        artifact_id=spec.artifact,
        model_id=spec.model,
        **_network(session, tenant, spec),
        **spec.model_dump(exclude={"artifact", "model", "networks"}),
        state=RequestState.QUEUED.value,
        attempts=0,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row


def _several(session: Session, tenant: str, spec: MeasurementSpec) -> BatchSpec:
    """Give the networks of a user's question as items, each under the id that it was asked by."""
    items = []
    for network in spec.networks or ():
        name = network.artifact or network.model or ""
        items.append({**network.model_dump(), "name": name, **_network(session, tenant, network)})
    if len({item["name"] for item in items}) != len(items):
        raise ValidationFailed("A network is named twice among `networks`.", advice="Name each once.")
    how = spec.model_dump(exclude={"artifact", "model", "networks"})
    return BatchSpec.model_validate({**how, "items": items})


def _network(session: Session, tenant: str, asked: MeasurementSpec | NetworkRef) -> dict[str, Any]:
    """Give digest and size of the bytes that are to be timed, and of the file of their weights if there is one."""
    if asked.model is not None:
        network = inputs.find(session, NetworkRow, tenant, asked.model)
        if network is None:
            raise NotFound(f"There is no model {asked.model}.")
        return {name: getattr(network, name) for name in _BYTES}
    artifact = artifacts.find(session, tenant, asked.artifact or "")
    if artifact is None:
        raise NotFound(f"There is no artifact {asked.artifact}.")
    if artifact.kind != "onnx":
        raise ValidationFailed(f"{artifact.id} is a {artifact.kind}; only ONNX artifacts can be timed.")
    found: dict[str, Any] = {"sha256": artifact.sha256, "size_bytes": artifact.size_bytes}
    for one in artifacts.of_job(session, tenant, artifact.job_id):
        if one.kind == "external_data" and one.target == artifact.target:
            found |= {"external_data_sha256": one.sha256, "external_data_bytes": one.size_bytes}
    return found


def _askable(row: DeviceRow | None, device_id: str) -> None:
    """Pass if there is such a device and its agent may still call."""
    if _found(row, device_id).revoked_at is not None:
        raise ValidationFailed(f"{device_id} was revoked; it measures nothing any more.")


def _refuse_local(device_id: str, why: str) -> None:
    if device_id == LOCAL:
        raise ValidationFailed(f"{LOCAL} is the workers' own processor.", advice=why)


def _found(row: DeviceRow | None, device_id: str) -> DeviceRow:
    if row is None:
        raise NotFound(f"There is no device {device_id[:40]}.")
    return row


def _asked(row: MeasurementRequestRow | None, request_id: str) -> MeasurementRequestRow:
    if row is None:
        raise NotFound(f"There is no such request {request_id[:40]} of this device.")
    return row
