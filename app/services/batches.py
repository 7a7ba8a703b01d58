"""Several networks under one request: asked for by users and jobs, answered by an agent item by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.orm import Session

from app.db import devices as queries
from app.db.tables import MeasurementItemRow, MeasurementRequestRow, MeasurementRow
from app.domain.batch import BatchReport, BatchSpec, ItemReport
from app.domain.device import LatencyReport, RequestState
from app.domain.timing import quantile
from app.errors import FieldError, MeasurementFailed, MeasurementRefused
from app.ids import new_id

CPU_PROVIDER: Final = "CPUExecutionProvider"
_SLACK: Final = timedelta(seconds=2)  # by which two clocks may run apart over one measurement
_SLACK_SHARE: Final = 1.05
_HOW: Final = ("threads", "batch", "provider", "warmup", "repeats", "profile", "shapes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A request of several items as it stands; an item's measurement is there once it was measured."""

    request: MeasurementRequestRow
    items: Sequence[tuple[MeasurementItemRow, MeasurementRow | None]]


def add_request(
    session: Session,
    tenant: str,
    device_id: str,
    spec: BatchSpec,
    *,
    expires_at: datetime,
    now: datetime,
    job_id: str | None = None,
    once: str | None = None,
) -> MeasurementRequestRow:
    """Add a request of several items; its own digest and size are those of the first."""
    row = MeasurementRequestRow(
        id=new_id("mrq"),
        tenant=tenant,
        device_id=device_id,
        job_id=job_id,
        once=once,
        sha256=spec.items[0].sha256,
        size_bytes=sum(item.size_bytes for item in spec.items),
        **{name: getattr(spec, name) for name in _HOW},
        state=RequestState.QUEUED.value,
        attempts=0,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    for position, item in enumerate(spec.items):
        known = item.model_dump(mode="json", exclude={"artifact", "model"})
        owned = {"artifact_id": item.artifact, "model_id": item.model}
        session.add(MeasurementItemRow(tenant=tenant, request_id=row.id, position=position, **known, **owned))
    session.flush()
    return row


def settle(
    session: Session,
    request: MeasurementRequestRow,
    items: Sequence[MeasurementItemRow],
    report: BatchReport,
    now: datetime,
) -> None:
    """Keep what an agent measured of each item; the request has failed only if every item did.

    Raises:
        MeasurementRefused: it is of other bytes or settings than were leased, or cannot have happened.
    """
    _check_batch(report, request, items, now)
    results = {result.name: result for result in report.results}
    problem = None
    for item in items:
        result = results[item.name]
        if result.failure is not None:
            error = MeasurementFailed(result.failure.detail, extra={"reason": result.failure.reason})
            item.problem = problem = problem or error.problem()
            item.problem = error.problem()
            continue
        row = measurement_row(request, _as_single(report, result, request), now, item=item)
        session.add(row)
        session.flush()
        item.measurement_id = row.id
    if all(item.measurement_id is None for item in items):
        queries.end(request, RequestState.FAILED, now, problem)
    else:
        queries.end(request, RequestState.MEASURED, now, None)


def check(report: LatencyReport, request: MeasurementRequestRow, sha256: str, now: datetime) -> None:
    """Pass if this is what was leased and can have happened since.

    Raises:
        MeasurementRefused: it is not.
    """
    wrong = _other_settings(report, request)
    if report.sha256 != sha256:
        wrong.insert(0, FieldError(pointer="/sha256", message=f"is {report.sha256}; leased was {sha256}"))
    wrong += _too_long(sum(report.samples_ms) + report.load_ms, request, now, pointer="/samples_ms")
    _refuse(wrong)


def measurement_row(
    request: MeasurementRequestRow, report: LatencyReport, now: datetime, *, item: MeasurementItemRow | None = None
) -> MeasurementRow:
    """Give the record of what was measured; quantiles are computed here, not believed."""
    samples = report.samples_ms
    subject = item or request
    return MeasurementRow(
        **report.model_dump(mode="json", exclude={"lease"}),
        id=new_id("msr"),
        tenant=request.tenant,
        job_id=request.job_id,
        artifact_id=subject.artifact_id,
        model_id=subject.model_id,
        device=request.device_id,
        kind=item.kind if item else "network",
        key=item.key if item else None,
        p50_ms=quantile(samples, 0.5),
        p90_ms=quantile(samples, 0.9),
        p99_ms=quantile(samples, 0.99),
        mean_ms=sum(samples) / len(samples),
        created_at=now,
    )


def _check_batch(
    report: BatchReport, request: MeasurementRequestRow, items: Sequence[MeasurementItemRow], now: datetime
) -> None:
    wrong = _other_settings(report, request)
    leased = {item.name: item.sha256 for item in items}
    answered = [result.name for result in report.results]
    if sorted(answered) != sorted(leased):
        odd = sorted(set(answered) ^ set(leased)) or ["a name twice"]
        message = f"must answer each leased item once; it differs in {', '.join(odd)[:500]!a}"
        wrong.append(FieldError(pointer="/results", message=message))
    taken = 0.0
    for number, result in enumerate(report.results):
        taken += sum(result.samples_ms or ()) + (result.load_ms or 0.0)
        known = leased.get(result.name)
        if known is not None and result.sha256 is not None and result.sha256 != known:
            message = f"is {result.sha256}; leased was {known}"
            wrong.append(FieldError(pointer=f"/results/{number}/sha256", message=message))
    _refuse([*wrong, *_too_long(taken, request, now, pointer="/results")])


def _other_settings(report: LatencyReport | BatchReport, request: MeasurementRequestRow) -> list[FieldError]:
    wrong = []
    if request.threads is not None and report.threads != request.threads:
        wrong.append(FieldError(pointer="/threads", message=f"is {report.threads}; leased was {request.threads}"))
    provider = request.provider or CPU_PROVIDER
    if report.provider != provider:
        wrong.append(FieldError(pointer="/provider", message=f"is {report.provider}; leased was {provider}"))
    return wrong


def _too_long(taken_ms: float, request: MeasurementRequestRow, now: datetime, *, pointer: str) -> list[FieldError]:
    """Say if runs took longer than the lease is old; a server's clock that was set back says nothing."""
    taken = timedelta(milliseconds=taken_ms)
    since = now - (request.leased_at or now)
    if since < timedelta(0) or taken <= since * _SLACK_SHARE + _SLACK:
        return []
    message = f"add up to {taken.total_seconds():.1f} s; the lease began {since.total_seconds():.1f} s ago"
    return [FieldError(pointer=pointer, message=message)]


def _refuse(wrong: Sequence[FieldError]) -> None:
    if wrong:
        detail = "; ".join(f"{error.pointer} {error.message}" for error in wrong)
        raise MeasurementRefused(f"This is not what was leased: {detail}.", errors=wrong)


def _as_single(report: BatchReport, result: ItemReport, request: MeasurementRequestRow) -> LatencyReport:
    """Give one item's result as a measurement of its own; its share of the processor is its own, not the batch's."""
    own = {name: value for name in ("on_cpu_share", "on_cpu_p50_ms") if (value := getattr(result, name)) is not None}
    return LatencyReport.model_validate(
        {
            **report.model_dump(include={"runtime", "runtime_version", "provider", "threads", "warmup"}),
            **result.model_dump(include={"sha256", "batch", "samples_ms", "load_ms", "peak_rss_bytes", "profile"}),
            "host": {**report.host, **own},
            "lease": request.lease_id,
        }
    )
