"""Claim a job, run it in a child, record how it ended. No torch here: whatever an upload does, this process goes on.

Every ending has one path: a result is stored and finished; a problem that the child reported fails the job; a child
that died without a word (killed, crashed) costs one of the job's attempts, and the problem says how it died; a worker
that stops gives its job back; a job that was taken away is dropped without a write.
"""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from app.domain.job import JobState
from app.errors import DatabaseUnavailable, LeaseLost, ServiceError, StorageFull, WorkerLost
from app.ids import new_id
from app.logs import log_context
from app.services.assembly import Services, open_services
from app.services.claims import Claimed
from app.settings import Settings
from workers import host
from workers.asking import Asking
from workers.child import start
from workers.clocks import asked_devices, clocks
from workers.folders import CHECKPOINTS, DATASET, NETWORK, SCRATCH, JobFolder, NotAPlainFile
from workers.lease import Lease
from workers.local_device import LocalDevice, beside
from workers.local_timer import LocalTimer
from workers.outcome import (
    measurements,
    problem,
    problem_of_death,
    problem_of_event,
    problem_of_memory,
    shown,
    store_artifacts,
)
from workers.presence import Presence
from workers.pruning.graph.split import place_beside
from workers.sandbox import Limits, child_environment
from workers.tending import End, Ending, Tending

ATTEMPT: Final = (sys.executable, "-P", "-m", "workers.attempt")
_PATIENCE: Final = 10  # leases for which a finished result waits for a database that is away
_STOPPING_PATIENCE: Final = 5.0  # seconds of the same where this worker is to stop

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Runs one job at a time. Must be used from a thread that lives as long as the children it starts."""

    services: Services
    presence: Presence
    stopping: Callable[[], bool]
    command: Sequence[str]
    environment: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic

    @property
    def settings(self) -> Settings:
        """The settings of the services."""
        return self.services.settings

    def run_one(self) -> bool:
        """Run the job whose turn it is; says whether there was one.

        Raises:
            DatabaseUnavailable: it could not be asked for one.
        """
        if self.stopping():
            return False
        self.presence.seen(None)
        before = self.clock()
        claimed = self.services.attempts.claim(self.presence.worker_id, self.settings.queue_names)
        if claimed is None:
            return False
        with log_context(job_id=claimed.job_id, attempt=claimed.attempt, epoch=claimed.epoch):
            with Lease(self.services, claimed, held_since=before, clock=self.clock) as lease:
                self._run(claimed, lease)
            self.presence.seen(None)
        return True

    def _run(self, claimed: Claimed, lease: Lease) -> None:
        folder = JobFolder.make(self.settings.resolved_work_dir, f"{claimed.job_id}.{claimed.epoch}")
        try:
            self._lay_out(folder, claimed)
            ending = self._attempt(folder, claimed, lease)
            log.info("attempt.ended", end=ending.end.value, died=str(ending.death))
            self._record(folder, claimed, lease, ending)
        except (ServiceError, OSError) as error:
            self._give_up(claimed, error)
        finally:
            folder.remove()

    def _lay_out(self, folder: JobFolder, claimed: Claimed) -> None:
        """Copy what the child reads into its folder, each copy checked against its digest.

        Raises:
            BlobMissing, BlobCorrupt: an input is not what was uploaded.
            StorageFull: there is no room for the copies.
        """
        store = self.services.store
        for source, name in ((claimed.network, NETWORK), (claimed.dataset, DATASET)):
            if source is not None:
                store.fetch(source.sha256, folder.path / name)
                if source.external_data is not None:
                    store.fetch(source.external_data, place_beside(folder.path / name))
        for file in claimed.checkpoints:
            try:
                store.fetch(file.sha256, folder.path / CHECKPOINTS / Path(file.name).name)
            except ServiceError as error:
                warning = {"code": "checkpoint-lost", "step": file.step, "message": str(error)}
                self.services.attempts.warn(claimed.job_id, claimed.epoch, warning)
        folder.write_order(self._order(claimed))

    def _order(self, claimed: Claimed) -> dict[str, Any]:
        settings, threads = self.settings, host.num_threads(self.settings.child_threads)
        limits = Limits(
            memory_bytes=host.memory_limit(settings.child_memory_bytes),
            cpu_seconds=int(settings.job_timeout.total_seconds() * threads) + 60,
            file_bytes=settings.child_file_bytes,
            open_files=1024,
            device=host.device(),
            required=settings.required_layers,
        )
        return {
            "kind": claimed.kind.value,
            "spec": dict(claimed.spec),
            "seed": int(str(claimed.spec.get("seed", 0))),
            "attempt": claimed.attempt,
            "num_threads": threads,
            "limits": asdict(limits),
            "clocks": clocks(self.services, claimed),
        }

    def _attempt(self, folder: JobFolder, claimed: Claimed, lease: Lease) -> Ending:
        threads = host.num_threads(self.settings.child_threads)
        environment = child_environment(self.environment, scratch=folder.path / SCRATCH, num_threads=threads)
        child = start(self.command, folder.path, environment)
        log.info("attempt.started", pid=child.process.pid, kind=claimed.kind.value)
        tending = Tending(
            services=self.services,
            claimed=claimed,
            folder=folder,
            lease=lease,
            child=child,
            stopping=self.stopping,
            seen=lambda: self.presence.seen(claimed.job_id),
            memory_bytes=host.memory_limit(self.settings.child_memory_bytes),
            asking=self._asking(folder, claimed),
            clock=self.clock,
        )
        ending = tending.watch()
        if ending.said is None or ending.said.get("code") == "internal-error":
            log.warning("attempt.last_words", tail=child.log_tail)
        return ending

    def _asking(self, folder: JobFolder, claimed: Claimed) -> Asking:
        timer = LocalTimer(settings=self.settings, environment=self.environment, clock=self.clock)
        devices = asked_devices(claimed)
        return Asking(services=self.services, claimed=claimed, folder=folder, timer=timer, devices=devices)

    def _record(self, folder: JobFolder, claimed: Claimed, lease: Lease, ending: Ending) -> None:
        job, attempts = (claimed.job_id, claimed.epoch), self.services.attempts
        if ending.end is End.LOST:
            log.warning("attempt.dropped", reason="the job is no longer held")
        elif ending.end is End.CANCELLED or lease.cancelled:
            self._insist(lambda: attempts.acknowledge_cancel(*job))
        elif ending.end is End.STOPPING:
            self._insist(lambda: attempts.release(*job, "the worker stops"))
        elif ending.away is not None:
            away = ending.away
            self._insist(lambda: attempts.set_aside(*job, away.waits_for, until=away.until))
        elif ending.end is not End.EXITED:
            found = self._stopped(ending)
            self._insist(lambda: attempts.fail(*job, found, retryable=False))
        elif ending.said is None:
            memory = host.memory_limit(self.settings.child_memory_bytes)
            died = problem_of_death(ending.death, ending.phase, memory_bytes=memory)
            self._insist(lambda: attempts.fail(*job, died, retryable=True))
        elif ending.said["event"] == "problem":
            told = problem_of_event(ending.said)
            self._insist(lambda: attempts.fail(*job, told, retryable=bool(told.get("retryable"))))
        else:
            self._finish(folder, claimed, ending.said["result"], ending.phase)

    def _finish(self, folder: JobFolder, claimed: Claimed, result: Mapping[str, Any], phase: str | None) -> None:
        job, attempts = (claimed.job_id, claimed.epoch), self.services.attempts
        try:
            artifacts = store_artifacts(self.services.store, folder, result)
        except StorageFull as error:
            full = {**error.problem(), "phase": phase}
            self._insist(lambda: attempts.fail(*job, full, retryable=True))
            return
        except NotAPlainFile as error:
            log.warning("attempt.artifact_refused", reason=str(error))
            wrong = self._broken(phase)
            self._insist(lambda: attempts.fail(*job, wrong, retryable=False))
            return
        measured = measurements(claimed, result, artifacts)
        self._insist(lambda: attempts.finish(*job, shown(result), artifacts, measured))

    def _stopped(self, ending: Ending) -> dict[str, object]:
        if ending.end is End.DEADLINE:
            limit = self.settings.job_timeout.total_seconds()
            detail = (
                f"The attempt ran for {limit:g} s, which is all that it may; ask for fewer steps or a longer limit."
            )
            return problem("job-timeout", "The job took too long", detail, status=504, phase=ending.phase)
        if ending.end is End.MEMORY:
            memory = host.memory_limit(self.settings.child_memory_bytes)
            return problem_of_memory(ending.death, ending.phase, memory_bytes=memory)
        return self._broken(ending.phase)

    def _broken(self, phase: str | None) -> dict[str, object]:
        title = "Something went wrong inside the service"
        return problem("internal-error", title, "The attempt's answer was not readable.", status=500, phase=phase)

    def _insist(self, write: Callable[[], JobState]) -> None:
        """Write the end of an attempt, waiting for a database that is away; a job that was taken away needs no end.

        Waiting is safe beyond the lease: if another worker took the job meanwhile, the fence refuses the write.
        """
        since, pause = self.clock(), 0.2
        patience = _PATIENCE * self.settings.lease_seconds.total_seconds()
        while True:
            try:
                state = write()
            except LeaseLost as error:
                log.warning("attempt.dropped", reason=str(error))
                return
            except DatabaseUnavailable as error:
                if self.clock() - since > (_STOPPING_PATIENCE if self.stopping() else patience):
                    log.warning("attempt.parked_in_vain", reason=str(error))
                    return
                time.sleep(pause)
                pause = min(5.0, 2 * pause)
            else:
                log.info("attempt.recorded", state=state.value)
                return

    def _give_up(self, claimed: Claimed, error: ServiceError | OSError) -> None:
        """Record that the attempt could not even begin, or could not be ended."""
        if isinstance(error, LeaseLost | DatabaseUnavailable):
            log.warning("attempt.dropped", reason=str(error))
            return
        log.warning("attempt.failed_to_run", error=type(error).__name__, reason=str(error))
        if isinstance(error, OSError):
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            kind = StorageFull if full else WorkerLost
            error = kind(f"The attempt could not be started ({error.strerror}).")
        found, retryable = error.problem(), error.retryable
        self._insist(lambda: self.services.attempts.fail(claimed.job_id, claimed.epoch, found, retryable=retryable))


@contextlib.contextmanager
def open_supervisor(
    settings: Settings, *, bell: str, stopping: Callable[[], bool], command: Sequence[str] | None = None
) -> Iterator[Supervisor]:
    """Give a supervisor on the services of the settings; afterwards its row among the workers is gone.

    `command` is what runs an attempt, with the job's folder as its last argument.
    """
    services = open_services(settings)
    presence = Presence(services=services, worker_id=new_id("wrk"), bell=bell)
    try:
        yield Supervisor(
            services=services,
            presence=presence,
            stopping=stopping,
            command=command or ATTEMPT,
            environment=dict(os.environ),
        )
    finally:
        presence.gone()
        services.close()


def serving(supervisor: Supervisor) -> contextlib.AbstractContextManager[None]:
    """Answer what users ask of this host as a device, beside the jobs, while the block runs."""
    timer = LocalTimer(settings=supervisor.settings, environment=supervisor.environment, clock=supervisor.clock)
    device = LocalDevice(services=supervisor.services, timer=timer, stopping=supervisor.stopping)
    return beside(device, supervisor.settings.poll_seconds.total_seconds())
