"""ADMM pruning on a small network: what it reports, when it degenerates, and that it resumes."""

from dataclasses import replace

import numpy as np
import pytest

from tests.networks import graph as network
from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import CHAIN, task_of
from tests.workers.pruning.seeded import images
from workers.pruning.compensation.batch_statistics import channel_statistics
from workers.pruning.graph import cost, renormalise
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.find import find
from workers.pruning.methods.easiedge import easiedge
from workers.pruning.methods.renormalised import extended
from workers.pruning.surgery.check import check
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.types import Keep, Phase

QUICK = {"rounds": 3, "steps_per_round": 3, "calibration_samples": 64}
SIGMOID = CHAIN.replace("y = Gemm <transB = 1> (g, w3, b3)", "h = Gemm <transB = 1> (g, w3, b3)\n  y = Sigmoid (h)")


@pytest.fixture(scope="module")
def done():
    task = task_of(labelled=True)
    return task, easiedge(task, **QUICK)


def test_the_target_is_met_and_never_exceeded(done):
    """The best round's cut is within the budget, and close to it."""
    task, outcome = done

    assert 0.9 * task.budgets[0].limit < cost.count(outcome.graph).macs <= task.budgets[0].limit
    assert outcome.masked_vs_cut < 1e-4
    assert [stage.name for stage in outcome.stages] == ["raw", "compensated", "finetuned"]


def test_residuals_of_every_round_are_told(done):
    """Each round has both residuals, its rho and how far its feasible cut is; the taken one is the closest."""
    facts = done[1].facts
    distances = [entry["distance"] for entry in facts["admm_rounds"]]

    assert [entry["round"] for entry in facts["admm_rounds"]] == [1, 2, 3]
    assert [entry["rho"] for entry in facts["admm_rounds"]] == pytest.approx([1e-3, 10**-2.5, 1e-2])
    assert all(entry["primal"] > 0 and entry["dual"] > 0 for entry in facts["admm_rounds"])
    assert distances[facts["best_round"] - 1] == min(distances)


@pytest.mark.parametrize("die_at", [0.2, 0.5, 0.8])
def test_a_killed_run_ends_with_the_same_bytes(done, die_at):
    """An attempt that dies within a round and is taken up again gives the network and the facts of one that did not."""
    journal = KeptInMemory()
    dying = task_of(labelled=True, run=run_of(journal=journal, tick=6, report=Watch(Phase.FINETUNE, die_at)))
    with pytest.raises(Killed):
        easiedge(dying, **QUICK)
    resumed = easiedge(task_of(labelled=True, run=run_of(journal=journal)), **QUICK)

    assert to_bytes(resumed.graph) == to_bytes(done[1].graph)
    assert resumed.facts == done[1].facts


def test_one_round_without_pull_is_the_ranking_alone():
    """With rho and the rate near zero and one round, the same channels stay as without training."""
    once = easiedge(task_of(labelled=True, steps=0), calibration_samples=64)
    task = task_of(labelled=True)
    round_of_one = easiedge(
        replace(task, finetune=replace(task.finetune, learning_rate=1e-9)),
        rounds=1,
        steps_per_round=1,
        rho=1e-12,
        learning_rate=1e-12,
        calibration_samples=64,
    )

    np.testing.assert_array_equal(round_of_one.keep.mask, once.keep.mask)


@pytest.mark.parametrize("changes", [{"steps": 0, "labelled": True}, {"labelled": False}])
def test_without_training_it_says_that_it_only_ranked(changes):
    """No steps, or no data but noise: ranking, cut and compensation, also where that was not asked for."""
    outcome = easiedge(task_of(**changes), compensate=False, calibration_samples=64)

    assert outcome.facts["admm_rounds"] == []
    assert outcome.stages[1].name == "compensated"
    assert "There was nothing to train with" in outcome.warnings[-1]


@pytest.mark.parametrize("gain", ["exact", "linearised", "entropy"])
def test_every_reading_of_the_gain_prunes(gain):
    """The result names the reading and is within the budget."""
    task = task_of(labelled=True, steps=0)
    outcome = easiedge(task, gain=gain, calibration_samples=32)

    assert outcome.score_source == f"information_gain_{gain}"
    assert cost.count(outcome.graph).macs <= task.budgets[0].limit


def test_networks_that_do_not_classify_are_pruned():
    """Independent labels behind a sigmoid: rounds are compared by their squared error."""
    task = task_of(SIGMOID)
    outcome = easiedge(replace(task, data=replace(task.data, kind="unlabelled")), **QUICK)

    assert len(outcome.facts["admm_rounds"]) == 3
    assert cost.count(outcome.graph).macs <= task.budgets[0].limit


@pytest.mark.parametrize("name", ["chain", "residual", "padded_shortcut", "concat", "depthwise", "grouped", "unet"])
def test_units_are_cut_where_normalisation_was_put_back(name):
    """With BatchNormalization inserted, cutting equals masking, and folding gives the cut of the original."""
    whole = network(name)
    grouping = find(whole)
    names = renormalise.to_insert(whole)
    channels = whole.graph.inputs[0].shape[1]
    statistics = channel_statistics(whole, names, [[images(8, shape=(channels, 8, 8))]], run_of())
    inserted, wider = renormalise.insert(whole, statistics), extended(grouping, whole, names)
    chosen = np.random.default_rng(1).random(grouping.num_units) < 0.6
    chosen[[group.start for group in grouping.groups]] = True
    keep = Keep(mask=chosen)
    smaller = cut(inserted, wider, keep)

    assert check(mask(inserted, wider, keep), smaller, seed=0) < 1e-4
    assert check(cut(whole, grouping, keep), renormalise.fold(smaller), seed=0) < 1e-4
