"""How far a job is: whole-job fractions that never fall, and a time left that is worth reading."""

import pytest

from workers.progress import USUAL_WEIGHTS, Part, Reporter, weights_of
from workers.pruning.types import Phase


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def reporter(**weights: float) -> tuple[Reporter, Clock, list[dict]]:
    """A reporter over phases of given weights, its clock, and what it emits."""
    clock, events = Clock(), []
    table = {phase: weights.get(phase.value, 0.0) for phase in Phase}
    return Reporter(emit=events.append, clock=clock, weights=table), clock, events


def test_the_fraction_is_of_the_whole_job() -> None:
    """Half of a phase that is 60 % of the job, after 20 %: 0.2 + 0.5 * 0.6 = 0.5, by hand."""
    report, _, events = reporter(score=20, finetune=60, measure=20)
    report(Phase.SCORE, 0.0)
    report(Phase.FINETUNE, 0.5)

    assert 0.5 == pytest.approx(events[-1]["fraction"])


def test_the_fraction_never_falls() -> None:
    """A method that returns to an earlier phase does not take progress back."""
    report, clock, events = reporter(score=50, cut=50)
    for phase, fraction in ((Phase.SCORE, 1.0), (Phase.CUT, 0.5), (Phase.SCORE, 0.1), (Phase.CUT, 0.6)):
        clock.now += 1
        report(phase, fraction)

    fractions = [event["fraction"] for event in events]
    assert [0.5, 0.75] == fractions[:2]
    assert sorted(fractions) == fractions


def test_a_late_phase_that_comes_early_does_not_count_for_those_before_it() -> None:
    """The original is measured first: 10 % of the job are done then, not everything that the table lists before."""
    report, _, events = reporter(score=30, finetune=60, measure=10)
    report(Phase.MEASURE, 0.0)
    report(Phase.SCORE, 0.0)

    assert 0.1 == pytest.approx(events[-1]["fraction"])


def test_each_pass_is_its_part_of_the_job() -> None:
    """With two targets, the first artifact is half the job, and the second begins there; passes lie in each other."""
    report, _, events = reporter(score=50, export=50)
    for part in (
        Part(report, 0.0, 0.5),
        Part(Part(report, 0.5, 1.0), 0.0, 0.5),
        Part(Part(report, 0.5, 1.0), 0.5, 1.0),
    ):
        for phase in (Phase.SCORE, Phase.EXPORT):
            part(phase, 1.0)

    assert [0.25, 0.5, 0.625, 0.75, 0.875, 1.0] == pytest.approx([event["fraction"] for event in events])
    assert all(event["metrics"] == {} for event in events)


def test_within_a_phase_events_keep_their_distance_and_a_new_phase_does_not_wait() -> None:
    """1,000 calls within 0.1 s of one phase are one event; the next phase is told at once; the end too."""
    report, clock, events = reporter(score=50, cut=50)
    for step in range(1000):
        clock.now = step * 1e-4
        report(Phase.SCORE, step / 2000)
    report(Phase.CUT, 0.0)
    report(Phase.CUT, 1.0)

    assert [("score", 0.0), ("cut", 0.5), ("cut", 1.0)] == [(event["phase"], event["fraction"]) for event in events]


def test_the_time_left_of_steady_work_is_right() -> None:
    """One phase at a steady pace of 1 % per second: at 60 s, 40 s are left."""
    report, clock, events = reporter(finetune=100)
    for second in range(61):
        clock.now = float(second)
        report(Phase.FINETUNE, second / 100)

    assert 40.0 == pytest.approx(events[-1]["eta_seconds"], abs=0.5)


def test_the_time_left_corrects_itself_where_the_table_is_wrong() -> None:
    """Fine-tuning takes ten times what its weight says: half-way through it, the estimate is within 10 %."""
    report, clock, events = reporter(score=50, finetune=50)
    report(Phase.SCORE, 0.0)
    clock.now = 10.0
    for step in range(51):
        clock.now = 10.0 + step
        report(Phase.FINETUNE, step / 100)

    assert 50.0 == pytest.approx(events[-1]["eta_seconds"], rel=0.1)


def test_a_phase_that_knows_its_own_time_is_believed() -> None:
    """Fine-tuning measures its steps: what it says of its phase is used, and is no metric of the job."""
    report, clock, events = reporter(finetune=100)
    report(Phase.FINETUNE, 0.0)
    clock.now = 10.0
    report(Phase.FINETUNE, 0.5, "step 5 of 10", eta_seconds=25.0, loss=0.5)

    assert (25.0, {"loss": 0.5}) == (events[-1]["eta_seconds"], events[-1]["metrics"])


def test_nothing_is_promised_before_anything_is_known() -> None:
    """The first event has no time left rather than an invented one."""
    report, _, events = reporter(score=100)
    report(Phase.SCORE, 0.0)

    assert events[0]["eta_seconds"] is None


def test_a_job_without_fine_tuning_does_not_reserve_time_for_it() -> None:
    """`steps: 0` takes the weight away; otherwise the table stands."""
    assert 0.0 == weights_of({"finetune": {"steps": 0}})[Phase.FINETUNE]
    assert 0.0 == weights_of({"options": {"compensate": False}})[Phase.COMPENSATE]
    assert USUAL_WEIGHTS == weights_of({"finetune": {"steps": None}})
