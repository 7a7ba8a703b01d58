"""/livez: the process answers; /readyz: it can do its work; /metrics: what an operator watches."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from app.api.deps import NoQueryDep, PartsDep
from app.api.openapi import answer, bare, problems
from app.api.schemas import Liveness, Readiness
from app.errors import ServiceError
from app.services.figures import Figures, count
from app.services.readiness import examine

_RETRY_AFTER = timedelta(seconds=5)


class NotReady(ServiceError):
    """The service cannot do its work now; `checks` says what was looked at."""

    code = "not-ready"
    title = "The service is not ready"
    status = 503
    retryable = True


router = APIRouter(tags=["health"])

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get(
    "/livez", operation_id="livez", response_model=None, responses={200: answer(Liveness, "It answers."), **problems()}
)
async def livez(_query: NoQueryDep) -> Response:
    """Say that the process answers."""
    return JSONResponse({"status": "alive"})


@router.get(
    "/readyz",
    operation_id="readyz",
    response_model=None,
    responses={200: answer(Readiness, "Ready, or degraded: what is slower or later is named."), **problems()},
)
async def readyz(parts: PartsDep, _query: NoQueryDep) -> Response:
    """Say whether the service can do its work; writes a row and a few bytes to find out."""
    found = await run_in_threadpool(
        examine,
        database=parts.services.database,
        store=parts.services.store,
        bell=parts.services.bell,
        settings=parts.services.settings,
    )
    checks = {name: {"status": finding.status, "detail": finding.detail} for name, finding in found.items()}
    failed = [f"{name}: {finding.detail}" for name, finding in found.items() if finding.status == "failed"]
    if failed:
        raise NotReady("; ".join(failed) + ".", extra={"checks": checks}, retry_after=_RETRY_AFTER)
    well = all(finding.status == "ok" for finding in found.values())
    return JSONResponse({"status": "ready" if well else "degraded", "checks": checks})


@router.get(
    "/metrics",
    operation_id="metrics",
    response_model=None,
    response_class=Response,
    responses={
        200: bare("Prometheus text format.", content={"text/plain": {"schema": {"type": "string"}}}),
        **problems(),
    },
)
async def metrics(parts: PartsDep, _query: NoQueryDep) -> Response:
    """Give the service's figures for Prometheus, counted in the database, so that every process gives the same."""
    text = await run_in_threadpool(_render, parts)
    return Response(text, media_type=_METRICS_TYPE)


def _render(parts: PartsDep) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Collector(count(parts.services.database, parts.services.settings), parts.services.store.free_bytes())
    )
    return generate_latest(registry)


class _Collector:
    """The figures of one moment as metric families."""

    def __init__(self, figures: Figures, free_bytes: int) -> None:
        self._figures = figures
        self._free_bytes = free_bytes

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        figures = self._figures
        jobs = GaugeMetricFamily("espalier_jobs", "Jobs by kind and state.", labels=["kind", "state"])
        for (kind, state), number in sorted(figures.jobs.items()):
            jobs.add_metric([kind, state], number)
        yield jobs
        yield _by("espalier_jobs_running", "Running jobs by phase.", "phase", figures.running)
        yield _by("espalier_queue_depth", "Jobs that wait, by queue.", "queue", figures.queue_depth)
        yield _by(
            "espalier_queue_oldest_seconds", "Age of the oldest waiting job.", "queue", figures.oldest_queued_seconds
        )
        yield CounterMetricFamily("espalier_worker_losses", "Attempts that died.", value=figures.losses)
        yield GaugeMetricFamily("espalier_outbox_messages", "Doorbell messages not yet sent.", value=figures.outbox)
        yield GaugeMetricFamily(
            "espalier_outbox_lag_seconds", "Age of the oldest unsent message.", value=figures.outbox_lag_seconds
        )
        yield GaugeMetricFamily("espalier_workers", "Workers that looked for work lately.", value=figures.workers)
        yield _by("espalier_models", "Models by state.", "state", figures.models)
        yield _by("espalier_datasets", "Datasets by state.", "state", figures.datasets)
        yield _by("espalier_stored_bytes", "Bytes named by rows.", "kind", figures.stored_bytes)
        yield GaugeMetricFamily("espalier_store_free_bytes", "Bytes that can be stored.", value=self._free_bytes)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(values.items()):
        family.add_metric([value], number)
    return family
