"""Iterative Taylor pruning on a small network: it stops where it should, resumes, and says what it did."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import CHAIN, task_of
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph import cost
from workers.pruning.graph.save import to_bytes
from workers.pruning.methods.labels import PSEUDO, divided
from workers.pruning.methods.studies import parted
from workers.pruning.methods.taylor import normalised, taylor
from workers.pruning.types import Phase

QUICK = {"share_per_round": 0.1, "max_accuracy_drop": 1.0, "ranking_samples": 64}


@pytest.fixture(scope="module")
def done():
    task = task_of(labelled=True)
    return task, taylor(task, **QUICK)


def test_the_target_is_met_and_never_exceeded(done):
    """Rounds go on until the budget holds, and the last takes only what it needs."""
    task, outcome = done
    reached = cost.count(outcome.graph).macs

    assert outcome.facts["stopped_by"] == "target"
    assert 0.9 * task.budgets[0].limit < reached <= task.budgets[0].limit
    assert outcome.masked_vs_cut < 1e-4
    assert outcome.keep.mask.sum() < task.grouping.num_units


def test_every_round_is_told(done):
    """Rounds are numbered, each with the accuracy that decided; what went from each group adds up."""
    task, outcome = done
    rounds, groups = outcome.facts["rounds"], outcome.facts["pruned_by_group"]

    assert [entry["round"] for entry in rounds] == list(range(1, len(rounds) + 1))
    assert len(rounds) >= 2
    assert rounds[-1]["macs"] == cost.count(outcome.graph).macs
    assert rounds[-1]["channels"] == outcome.keep.mask.sum()
    assert all(0 <= entry["accuracy"] <= 1 and entry["accepted"] for entry in rounds)
    assert sum(group["pruned"] for group in groups) == task.grouping.num_units - outcome.keep.mask.sum()
    assert [stage.name for stage in outcome.stages] == ["rounds", "finetuned"]
    assert outcome.warnings == ()


def test_a_round_takes_its_share(done):
    """Of 22 channels a tenth, two, goes in a round: with N gone, half as many rounds, rounded up."""
    task, outcome = done
    gone = task.grouping.num_units - outcome.keep.mask.sum()

    assert len(outcome.facts["rounds"]) == -(-gone // 2)


def test_samples_that_judge_the_result_do_not_decide(done):
    """A tenth of the training samples decides; validation samples are not among them."""
    task, outcome = done

    assert outcome.facts["num_deciding_samples"] == len(task.data.train) // 10


def test_a_drop_ends_it_before_the_target():
    """With labels that the network gets right and a network that is cut hard, the last accepted round is shipped."""
    task = replace(task_of(labelled=True, share=0.1, steps=0), min_keep=0.0)
    outcome = taylor(task, share_per_round=0.1, max_accuracy_drop=0.02, ranking_samples=64)
    *accepted, last = outcome.facts["rounds"]

    assert outcome.facts["stopped_by"] == "accuracy"
    assert not last["accepted"]
    assert last["accuracy"] < 0.98 <= min((entry["accuracy"] for entry in accepted), default=1.0)
    assert task.grouping.num_units - outcome.keep.mask.sum() == 2 * len(accepted)
    assert "what the round before had is shipped" in outcome.warnings[0]


@pytest.mark.parametrize("die_at", [0.15, 0.5, 0.9])
def test_a_killed_run_ends_with_the_same_bytes(done, die_at):
    """An attempt that dies within a round and is taken up again gives the network and the facts of one that did not."""
    journal = KeptInMemory()
    dying = task_of(labelled=True, run=run_of(journal=journal, tick=6, report=Watch(Phase.FINETUNE, die_at)))
    with pytest.raises(Killed):
        taylor(dying, **QUICK)
    resumed = taylor(task_of(labelled=True, run=run_of(journal=journal)), **QUICK)

    assert to_bytes(resumed.graph) == to_bytes(done[1].graph)
    assert resumed.facts == done[1].facts


def test_a_lost_record_is_computed_again(done):
    """Where the course cannot be read, emptied training records do not stand in the way."""
    task, outcome = done
    journal = KeptInMemory()
    taylor(replace(task, run=run_of(journal=journal)), **QUICK)
    journal.memos = {name: memo for name, memo in journal.memos.items() if name not in {"taylor", "finetune"}}

    assert to_bytes(taylor(replace(task, run=run_of(journal=journal)), **QUICK).graph) == to_bytes(outcome.graph)


def test_finished_rounds_leave_small_records(done):
    """Training records of finished rounds are emptied; the course alone holds weights."""
    task, _ = done
    held = task.run.journal.memos

    assert held["taylor"].arrays
    assert not held["taylor1-finetune"].arrays


def test_progress_rises(done):
    """The bar of the long phase names its rounds and reaches its end."""
    heard = [(fraction, text) for phase, fraction, text, _ in done[0].run.report.heard if phase is Phase.FINETUNE]

    assert any(text.startswith("round 1 of pruning") for _, text in heard)
    assert any(text.startswith("round 2 of pruning") for _, text in heard)
    assert heard[-1][0] == 1.0


def test_without_labels_the_original_answers_for_them():
    """The result says that accuracy then means agreement with the original."""
    outcome = taylor(task_of(steps=0), **QUICK)

    assert PSEUDO in outcome.warnings
    assert outcome.facts["stopped_by"] == "target"


def test_activation_scores_are_compared_by_layer():
    """Scores of each group are divided by their norm; a group of zeros stays."""
    task = task_of()
    values = np.arange(task.grouping.num_units, dtype=np.float64)
    first, second = (slice(group.start, group.stop) for group in task.grouping.groups)
    values[second] = 0
    found = normalised(values, task.grouping)

    assert np.linalg.norm(found[first]) == pytest.approx(1.0)
    assert not found[second].any()
    outcome = taylor(task_of(labelled=True, steps=0), criterion="activation", **QUICK)
    assert outcome.score_source == "taylor_activation"


def test_a_network_without_classes_is_refused():
    """The message says what is needed and which methods serve such a network."""
    text = CHAIN.replace("y = Gemm <transB = 1> (g, w3, b3)", "h = Gemm <transB = 1> (g, w3, b3)\n  y = Sigmoid (h)")
    with pytest.raises(InvalidDataset, match=r"class labels.*Use auto or easiedge"):
        taylor(task_of(text), **QUICK)


def test_studies_repeat_the_rounds_and_change_nothing():
    """Other epochs a round and two folds are reported; what is shipped is that of the rounds that were asked for."""
    task, options = task_of(labelled=True), {**QUICK, "share_per_round": 0.2}
    plain = taylor(replace(task, run=run_of()), **options)
    studied = taylor(replace(task, run=run_of()), **options, sensitivity_epochs=(0.5, 2.0), folds=2)
    facts = studied.facts

    assert to_bytes(plain.graph) == to_bytes(studied.graph)
    assert facts["rounds"] == plain.facts["rounds"]
    assert [row["epochs_per_round"] for row in facts["epochs_sensitivity"]] == [0.5, 2.0]
    assert all(row["epochs"] == row["epochs_per_round"] * row["rounds"] for row in facts["epochs_sensitivity"])
    assert [row["fold"] for row in facts["folds"]] == [1, 2]
    assert all(
        row["accuracy_least"] <= row["accuracy_mean"] <= row["accuracy_most"] for row in facts["rounds_over_folds"]
    )


def test_folds_share_all_samples_and_decide_once():
    """Three folds of all training samples: none learns from what decides, sizes differ by one at most."""
    task = task_of(labelled=True)
    data = divided(task)
    parts = parted(data, 3, seed=0)
    deciding = [set(part.deciding.index.tolist()) for part in parts]

    assert set.union(*deciding) == set(task.data.train.index.tolist())
    assert sum(map(len, deciding)) == len(task.data.train)
    assert max(map(len, deciding)) - min(map(len, deciding)) <= 1
    assert all(not set(part.learning.train.index.tolist()) & one for part, one in zip(parts, deciding, strict=True))
