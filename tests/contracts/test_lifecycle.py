"""Whatever happens to a job, in whatever order: promises that hold after every step, on both databases.

Hypothesis plays users, workers, the sweeper, the clock and a broken bell against real services. A worker may be paused
past its lease and go on afterwards with the epoch it had: that is how a stale write is made.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from app.db.migrate import migrate
from app.db.session import Database, bind, open_engine
from app.db.tables import ArtifactRow, Base, CheckpointRow, JobEventRow, JobRow
from app.domain.job import HELD, TERMINAL, TRANSITIONS, JobKind, JobState, Phase
from app.errors import LeaseLost
from app.ids import Digest
from app.services.assembly import Services
from app.services.claims import Claimed, Progress
from app.services.idempotency import Replay, Ticket
from app.storage.memory import MemoryStore
from tests.builders import TENANT, FakeClock, RecordingBell, analysed_model, artifact, settings_with, spec
from tests.postgres import NoPostgres, start


class Lifecycle(RuleBasedStateMachine):
    """Jobs of one tenant on one model."""

    database: Database
    data_dir: Path

    jobs = Bundle("jobs")
    attempts = Bundle("attempts")

    @initialize(target=jobs)
    def begin(self) -> object:
        with self.database.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        self.clock, self.bell, self.store = FakeClock(), RecordingBell(), MemoryStore()
        self.services = Services.of(
            settings_with(data_dir=self.data_dir),
            database=self.database,
            store=self.store,
            bell=self.bell,
            clock=self.clock,
        )
        self.model = analysed_model(self.services)
        self.known: list[str] = []
        self.ended: dict[str, tuple[str, int]] = {}  # job -> its final state and version
        self.keys: dict[str, str] = {}  # idempotency key -> the one job it made
        self.holder: dict[str, int] = {}  # job -> the epoch that may write
        return multiple(self._submit(), self._submit())

    # Users.

    @rule(target=jobs)
    def submit(self) -> str:
        return self._submit()

    def _submit(self) -> str:
        row = self.services.jobs.submit(TENANT, spec(self.model.id))
        self.known.append(row.id)
        return row.id

    @rule(target=jobs, key=st.sampled_from(["a", "b", "c"]), crash=st.booleans())
    def submit_with_key(self, key: str, crash: bool) -> object:
        """A repetition gets the same job, also where the first answer was lost in a crash after the commit."""
        ticket = self.services.idempotency.begin(TENANT, key, "f" * 64)
        if isinstance(ticket, Replay):
            assert ticket.resource_id == self.keys[key]
            return multiple()
        assert isinstance(ticket, Ticket)
        assert key not in self.keys
        row = self.services.jobs.submit(TENANT, spec(self.model.id), ticket=ticket)
        if not crash:
            self.services.idempotency.complete(ticket, status=202, headers={}, body="{}", resource_id=row.id)
        self.keys[key] = row.id
        self.known.append(row.id)
        return row.id

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self._cancel(job)

    @rule(attempt=attempts)
    def cancel_what_was_claimed(self, attempt: Claimed) -> None:
        self._cancel(attempt.job_id)

    def _cancel(self, job: str) -> None:
        before = self._state(job)
        after = JobState(self.services.jobs.cancel(TENANT, job).state)
        expected = {JobState.QUEUED: JobState.CANCELLED, JobState.RUNNING: JobState.CANCELLING}

        assert after is expected.get(before, before)

    # Workers.

    @rule(target=attempts, worker=st.sampled_from(["w1", "w2"]))
    def claim(self, worker: str) -> object:
        return self._claim(worker)

    def _claim(self, worker: str) -> object:
        waiting = [job for job in self.known if self._state(job) is JobState.QUEUED]
        claimed = self.services.attempts.claim(worker, ["cpu"])
        if claimed is None:
            assert waiting == []
            return multiple()
        assert claimed.job_id == min(waiting)  # the oldest: ids are in the order of time
        assert claimed.epoch == self.holder.get(claimed.job_id, 0) + 1
        self.holder[claimed.job_id] = claimed.epoch
        return claimed

    def _may_write(self, attempt: Claimed) -> bool:
        return self.holder[attempt.job_id] == attempt.epoch and self._state(attempt.job_id) in HELD

    @rule(attempt=attempts, share=st.floats(0, 1), phase=st.sampled_from(Phase))
    def report(self, attempt: Claimed, share: float, phase: Phase) -> None:
        allowed, cancelling = self._may_write(attempt), self._state(attempt.job_id) is JobState.CANCELLING
        try:
            told = self.services.attempts.progress(attempt.job_id, attempt.epoch, Progress(phase=phase, fraction=share))
        except LeaseLost:
            assert not allowed
        else:
            assert allowed
            assert told is cancelling

    @rule(attempt=attempts)
    def heartbeat(self, attempt: Claimed) -> None:
        allowed = self._may_write(attempt)
        try:
            self.services.attempts.heartbeat(attempt.job_id, attempt.epoch)
        except LeaseLost:
            assert not allowed
        else:
            assert allowed

    @rule(attempt=attempts, content=st.binary(max_size=3))
    def checkpoint(self, attempt: Claimed, content: bytes) -> None:
        self._checkpoint(attempt, content)

    def _checkpoint(self, attempt: Claimed, content: bytes) -> None:
        allowed, blob = self._may_write(attempt), artifact(self.services, content)
        try:
            self.services.attempts.record_checkpoint(
                attempt.job_id, attempt.epoch, "step", {"state": (blob.sha256, blob.size_bytes)}
            )
        except LeaseLost:
            assert not allowed
        else:
            assert allowed

    @rule(
        attempt=attempts, how=st.sampled_from(["finish", "fail", "die", "release"]), cancelled_just_before=st.booleans()
    )
    def end(self, attempt: Claimed, how: str, cancelled_just_before: bool) -> None:
        if cancelled_just_before:
            self._cancel(attempt.job_id)
        allowed, before = self._may_write(attempt), self.services.jobs.get(TENANT, attempt.job_id)
        held, verbs = (attempt.job_id, attempt.epoch), self.services.attempts
        try:
            if how == "finish":
                after = verbs.finish(*held, {"target_met": True}, [artifact(self.services)])
            elif how == "release":
                after = verbs.release(*held, "shutdown")
            else:
                after = verbs.fail(*held, {"type": "worker-lost"}, retryable=how == "die")
        except LeaseLost:
            assert not allowed
            return
        assert allowed
        left = before.losses + 1 < before.max_attempts
        fine = {
            "finish": JobState.SUCCEEDED,
            "release": JobState.QUEUED,
            "fail": JobState.FAILED,
            "die": JobState.QUEUED if left else JobState.FAILED,
        }[how]
        assert after is (JobState.CANCELLED if before.state == JobState.CANCELLING else fine)

    @rule(attempt=attempts)
    def acknowledge(self, attempt: Claimed) -> None:
        allowed = self._may_write(attempt) and self._state(attempt.job_id) is JobState.CANCELLING
        try:
            self.services.attempts.acknowledge_cancel(attempt.job_id, attempt.epoch)
        except LeaseLost:
            assert not allowed
        else:
            assert allowed

    # The world.

    @rule(seconds=st.sampled_from([1, 20]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds=seconds)

    @rule()
    def leases_run_out(self) -> None:
        """Every worker is paused for longer than a lease; their attempts stay in the bundle and go on later."""
        self._run_out()

    def _run_out(self) -> None:
        self.clock.advance(seconds=46)
        self.services.attempts.sweep_leases()
        for job in self.known:
            assert self._state(job) not in HELD

    @rule(target=attempts)
    def a_worker_is_replaced(self) -> object:
        """A worker is paused behind its checkpoint; another one claims what it lost, and both go on."""
        stale = self._claim("w3")
        if not isinstance(stale, Claimed):
            return multiple()
        self._checkpoint(stale, b"x")
        self._run_out()
        fresh = self._claim("w4")
        return multiple(stale, fresh) if isinstance(fresh, Claimed) else stale

    @rule(broken=st.booleans())
    def the_bell(self, broken: bool) -> None:
        self.bell.broken = broken

    @rule()
    def resend(self) -> None:
        self.bell.broken = False
        self.clock.advance(seconds=61)
        self.bell.rung.clear()
        self.services.outbox.resend()

        assert self.services.outbox.pending() == []
        if any(self._state(job) is JobState.QUEUED for job in self.known):
            assert "cpu" in self.bell.rung

    @rule()
    def collect_garbage(self) -> None:
        self.services.garbage.collect()

    # What always holds.

    @invariant()
    def promises_hold(self) -> None:
        """One look at everything, since each query costs more than the checks."""
        with self.database.read_only() as session:
            jobs = session.scalars(select(JobRow).where(JobRow.kind == JobKind.PRUNE)).all()
            events = session.scalars(select(JobEventRow).order_by(JobEventRow.job_id, JobEventRow.seq)).all()
            made = session.scalars(select(ArtifactRow)).all()
            files = session.scalars(select(CheckpointRow)).all()
        for row in jobs:
            self._ended_jobs_never_change(row)
            self._events_tell_a_legal_story(row, [event for event in events if event.job_id == row.id])
            # No success without an artifact, and none without success.
            assert sum(kept.job_id == row.id for kept in made) == (row.state == JobState.SUCCEEDED)
            assert row.losses < row.max_attempts or row.state in TERMINAL
            if row.state in TERMINAL:
                assert not any(file.job_id == row.id for file in files)
        for kept in [*made, *files]:
            assert self.store.verify(Digest(kept.sha256)).size_bytes == kept.size_bytes

    def _ended_jobs_never_change(self, row: JobRow) -> None:
        if row.id in self.ended:
            assert (row.state, row.version) == self.ended[row.id]
        elif row.state in TERMINAL:
            self.ended[row.id] = (row.state, row.version)
            assert row.finished_at is not None
            assert row.lease_owner is None
            assert (row.problem is not None) == (row.state == JobState.FAILED)
            assert (row.result is not None) == (row.state == JobState.SUCCEEDED)

    def _events_tell_a_legal_story(self, row: JobRow, events: list[JobEventRow]) -> None:
        assert [event.seq for event in events] == list(range(1, row.event_seq + 1))
        states = [JobState(event.type) for event in events if event.type in set(JobState)]
        assert states[-1] == row.state
        for before, after in itertools.pairwise(states):
            assert after in TRANSITIONS[before]

    def _state(self, job: str) -> JobState:
        """Where a job is."""
        return self.services.jobs.version(TENANT, job)[1]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    server = None
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'lifecycle.sqlite3'}"
    else:
        try:
            server = start()
        except NoPostgres as error:
            pytest.skip(f"no PostgreSQL starts here: {error}")
        url = server.create()
    migrate(url)
    opened = bind(open_engine(url))
    yield opened
    opened.dispose()
    if server is not None:
        server.stop()


def test_job_lifecycle(database: Database, tmp_path: Path) -> None:
    """One terminal state, events without gaps, no success without bytes, no write by who lost the lease."""
    machine = type("Machine", (Lifecycle,), {"database": database, "data_dir": tmp_path})
    # Forty runs find a missing fence, bound, or rule of cancelling nearly always; PostgreSQL's run looks for the rest.
    examples = max(40, settings().max_examples) if database.dialect == "sqlite" else settings().max_examples // 2
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
