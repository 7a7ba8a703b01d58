"""`auto`: statistics that serve every target, no labels, and a report that says how each group was ranked."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import task_of
from workers.pruning.graph.cost import count
from workers.pruning.graph.save import to_bytes
from workers.pruning.methods.auto import STATISTICS, auto
from workers.pruning.types import Budget, Metric, Phase

SAMPLES = 64


@pytest.fixture(scope="module")
def task():
    return task_of(steps=0, labelled=True)


@pytest.fixture(scope="module")
def done(task):
    return auto(task, calibration_samples=SAMPLES)


def at(task, share, run=None):
    """The same task at another share of the MACs."""
    budget = Budget(metric=Metric.MACS, limit=share * count(task.graph).macs)
    return replace(task, budgets=(budget,), run=run or task.run, step_prefix=f"{share}-")


def test_permuted_labels_give_the_same_mask(task, done) -> None:
    """Labels enter neither the order nor the repair."""
    labels = np.random.default_rng(1).permutation(task.data.train.labels)
    permuted = replace(task.data, train=replace(task.data.train, labels=labels))
    other = auto(replace(task, data=permuted, run=run_of()), calibration_samples=SAMPLES)

    assert to_bytes(other.graph) == to_bytes(done.graph)


def test_every_group_says_how_it_was_ranked(task, done) -> None:
    """Facts name each group with its score, kappa, what was kept and what the rest was worth."""
    facts = done.facts["groups"]

    assert [fact["group"] for fact in facts] == [group.id for group in task.grouping.groups]
    assert {fact["score"] for fact in facts} == {"obs"}
    assert sum(fact["kept"] for fact in facts) == done.keep.mask.sum()
    assert all(fact["kappa"] > 0 and fact["score_removed"] >= 0 for fact in facts)


def test_targets_share_the_statistics_and_their_masks_are_nested(task) -> None:
    """What stays at a small target stays at a larger one, and the calibration data are looked at once."""
    run = run_of()
    small = auto(at(task, 0.4, run), calibration_samples=SAMPLES)
    watch = Watch()
    large = auto(at(task, 0.7, replace(run, report=watch)), calibration_samples=SAMPLES)

    assert STATISTICS in run.journal.memos
    assert not any("second moments" in message for _, _, message, _ in watch.heard)
    assert not (small.keep.mask & ~large.keep.mask).any()


def test_a_killed_job_ends_with_the_same_bytes(task, done) -> None:
    """A later attempt resumes behind the statistics."""
    run = run_of(report=Watch(die_in=Phase.COMPENSATE, die_at=0.5))
    with pytest.raises(Killed):
        auto(replace(task, run=run), calibration_samples=SAMPLES)
    again = auto(replace(task, run=run_of(journal=run.journal)), calibration_samples=SAMPLES)

    assert to_bytes(again.graph) == to_bytes(done.graph)


def test_information_gain_alone_can_be_asked_for(task) -> None:
    """The simpler order is a choice, and the result says so."""
    outcome = auto(replace(task, run=run_of()), order="information_gain", calibration_samples=SAMPLES)

    assert outcome.score_source == "information_gain"
    assert {fact["score"] for fact in outcome.facts["groups"]} == {"information_gain"}
    assert outcome.warnings == ()


def test_groups_that_elimination_does_not_understand_are_named(task, monkeypatch) -> None:
    """What was ranked another way is a warning with the layer and the reason."""
    monkeypatch.setattr("workers.pruning.scores.brain_surgeon.MOST_INPUTS", 10)
    outcome = auto(replace(task, run=run_of()), calibration_samples=SAMPLES)

    assert len(outcome.warnings) == 1
    assert outcome.warnings[0].startswith("Ranked by information gain, not by elimination: g0. ")
    assert "12 inputs do not fit" in outcome.warnings[0]


def test_without_data_channels_are_merged(task) -> None:
    """Without data like channels are merged, and the rest is refitted on noise; either can be asked for alone."""
    blind = replace(task, data=replace(task.data, kind="synthetic"))
    done = [
        auto(replace(blind, run=run_of()), calibration_samples=SAMPLES, without_data=how)
        for how in ("auto", "merge", "noise")
    ]

    assert [o.facts["repair"] for o in done] == ["merging, least_squares", "merging", "least_squares"]
    assert len({to_bytes(outcome.graph) for outcome in done}) == 3
    assert len({outcome.keep.mask.tobytes() for outcome in done}) == 1


def test_all_samples_share_the_probes_where_none_are_asked(task, done) -> None:
    """Few samples get four probes each, the most that are chosen (by hand: 512 for 64 samples would be 8)."""
    asked = auto(replace(task, run=run_of()), calibration_samples=SAMPLES, probes=4)

    assert to_bytes(asked.graph) == to_bytes(done.graph)
