"""Rounds of pruning: when they end, what is shipped then, and what a bar shows."""

import json

import pytest

from tests.workers.pruning.journals import Watch
from workers.pruning.methods.rounds import RANK_FIRST, Course, Rule, Within, rounds_from, run_rounds
from workers.pruning.types import Phase


def rule_of(*, accuracy, target=100, last=100, max_drop=0.03):
    """States are numbers of rounds; `accuracy` says how good each is."""
    return Rule(
        advance=lambda state, _number: state + 1 if state < last else None,
        accuracy=accuracy,
        meets_target=lambda state: state >= target,
        size=lambda state: (10 - state, 1000 - 100 * state),
        base=0.95,
        max_drop=max_drop,
    )


def test_a_point_a_round_and_three_allowed_ship_round_three():
    """Rounds one to three have lost one to three points and are accepted; the fourth ends it and is given up."""
    kept = []
    course = run_rounds(Course(state=0), rule_of(accuracy=lambda state: 0.95 - 0.01 * state), kept.append)

    assert (course.state, course.stopped_by) == (3, "accuracy")
    assert [entry.accepted for entry in course.rounds] == [True, True, True, False]
    assert kept[-1] == course
    assert len(kept) == 4


def test_the_target_ends_it():
    """No round is taken behind the target."""
    course = run_rounds(Course(state=0), rule_of(accuracy=lambda _: 0.95, target=2), lambda _: None)

    assert (course.state, course.stopped_by, len(course.rounds)) == (2, "target", 2)


def test_the_floor_ends_it():
    """Where nothing more may go, the last accepted state is the result."""
    course = run_rounds(Course(state=0), rule_of(accuracy=lambda _: 0.95, last=2), lambda _: None)

    assert (course.state, course.stopped_by) == (2, "floor")


def test_an_accuracy_that_recovers_counts_against_the_first():
    """The drop is that from before the first round, so losses of single rounds add up and gains make up for them."""
    found = {1: 0.93, 2: 0.96, 3: 0.93, 4: 0.91}
    course = run_rounds(Course(state=0), rule_of(accuracy=found.__getitem__), lambda _: None)

    assert (course.state, course.stopped_by) == (3, "accuracy")


def test_a_finished_course_takes_no_round():
    """An attempt that recalls the end of a course leaves it as it is."""
    ended = Course(state=7, stopped_by="accuracy")

    assert run_rounds(ended, rule_of(accuracy=lambda _: 1.0), lambda _: pytest.fail("a round was taken")) == ended


def test_rounds_survive_their_record():
    """Rounds read from the JSON of a journal are the rounds that were written."""
    course = run_rounds(Course(state=0), rule_of(accuracy=lambda state: 0.95 - 0.01 * state), lambda _: None)
    written = json.loads(json.dumps([entry.to_json() for entry in course.rounds]))

    assert rounds_from(written) == course.rounds
    assert written[1] == {"round": 2, "accuracy": 0.95 - 0.01 * 2, "accepted": True, "channels": 8, "macs": 800}


def test_a_bar_over_rounds_never_runs_back():
    """Ranking, cutting and training of a round fill its part of the longer phase in their order."""
    watch = Watch()
    report = Within(report=watch, start=0.2, stop=0.4, message="round 2 of pruning", shares=RANK_FIRST)
    for phase in (Phase.SCORE, Phase.CUT, Phase.FINETUNE, Phase.VERIFY):
        for fraction in (0.0, 0.5, 1.0):
            report(phase, fraction, "busy", eta_seconds=5.0, loss=1.0)
    fractions = [fraction for _, fraction, *_ in watch.heard]

    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == pytest.approx((0.2, 0.4))
    assert {phase for phase, *_ in watch.heard} == {Phase.FINETUNE}
    assert watch.heard[0][2:] == ("round 2 of pruning: busy", {"loss": 1.0})
