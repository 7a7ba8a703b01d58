"""LcP on a small residual network: costs from the table, one search for all targets, label-free unless asked."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.methods.tasks import task_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL, loaded
from workers.pruning.allocation.budget import cost as cost_at
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph import cost, head
from workers.pruning.graph.save import to_bytes
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.methods.evolution import Latents
from workers.pruning.methods.lcp import LayerScores, base_scores, candidate, lcp, lowest, transformed
from workers.pruning.scores.magnitude import magnitude
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Budget, Metric, Phase

LONGER = {"evaluations": 24, "calibration_samples": 16}  # behind the first record
FEW = {"evaluations": 10, "calibration_samples": 16}


@pytest.fixture(scope="module")
def prepared():
    return task_of(steps=0, share=0.5, num_samples=60)


@pytest.fixture
def task(prepared):
    """With a journal of its own."""
    return replace(prepared, run=run_of())


def on(task, text):
    """The same task about another network."""
    graph = loaded(text)
    grouping = find(graph)
    half = Budget(metric=Metric.MACS, limit=0.6 * cost.count(graph).macs)
    return replace(
        task,
        graph=graph,
        uploaded=graph,
        reference=graph,
        head=head.find(graph),
        grouping=grouping,
        cost_model=cost_model(graph, grouping),
        budgets=(half,),
    )


def drawn(num_layers, seed):
    rng = np.random.default_rng(seed)
    return Latents(scale=np.exp(rng.normal(size=num_layers)), shift=rng.normal(size=num_layers))


@pytest.mark.parametrize("text", [RESIDUAL, MIXED])
@pytest.mark.parametrize("seed", range(3))
def test_cost_by_table_is_that_of_the_cut_network(task, text, seed):
    """Whatever the latents, the table gives the MACs and parameters that counting the cut network gives."""
    task = on(task, text)
    layers = base_scores(task, "l2", [])
    keep = candidate(task, layers, drawn(len(layers), seed), task.budgets)
    kept = [int(keep.mask[group.start : group.stop].sum()) for group in task.grouping.groups]
    by_table, counted = cost_at(task.cost_model, kept), cost.count(cut(task.graph, task.grouping, keep))

    assert (by_table.macs, by_table.params) == (counted.macs, counted.params)
    assert counted.macs <= task.budgets[0].limit


def test_the_identity_is_the_plain_ranking(task):
    """Scale 1 and shift 0 leave the order of the squared norms, coupled layers added up."""
    layers = base_scores(task, "l2", [])
    same = Latents(scale=np.ones(len(layers)), shift=np.zeros(len(layers)))
    plain = magnitude(task.graph, task.grouping).values

    found = transformed(layers, task.grouping.num_units, same, source="x").values
    np.testing.assert_allclose(found, plain, rtol=1e-9)


def test_coupled_layers_add_up():
    """Two layers that produce the same two channels: 2 x 1 + 1 and 3 x 2 - 1, in all 8; the least stays 0."""
    layers = tuple(
        LayerScores(name=name, units=np.arange(2), values=np.array([0.0, value]))
        for name, value in (("a", 1.0), ("b", 2.0))
    )
    latents = Latents(scale=np.array([2.0, 3.0]), shift=np.array([1.0, -1.0]))

    assert transformed(layers, 2, latents, source="x").values.tolist() == [0.0, 8.0]


def test_it_meets_the_target_and_is_no_worse_than_the_plain_ranking(task):
    """The identity is one of the candidates, so the best found is at most as far from the original as it."""
    outcome = lcp(task, evaluations=70, calibration_samples=16)

    assert cost.count(outcome.graph).macs <= task.budgets[0].limit
    assert outcome.facts["best_loss"] <= outcome.facts["identity_loss"]
    assert outcome.facts["evaluations"] == len(outcome.facts["losses"]) == 70
    assert outcome.score_source == "lcp_l2"


@pytest.mark.parametrize("options", [{"mode": "legr"}, {"base": "ig"}, {"base": "taylor"}, {"fitness": "compensated"}])
def test_forms_and_bases_work_with_every_setting(task, options):
    """Affine latents, gate scores as base, and compensated candidates all give a network within the budget."""
    outcome = lcp(task, **FEW, **options)

    assert cost.count(outcome.graph).macs <= task.budgets[0].limit


def test_the_authors_preset_needs_labels(task):
    """Their fitness is the cross-entropy on labels; made-up samples have none, and the message says what to do."""
    with pytest.raises(InvalidDataset, match="ours"):
        lcp(task, preset="authors", evaluations=10)


def test_the_authors_preset_judges_raw_cuts_on_labels():
    """With labels it runs, compensates nothing, and says so."""
    outcome = lcp(task_of(steps=0, labelled=True, num_samples=60), preset="authors", evaluations=10)

    assert outcome.facts["fitness"] == "cross-entropy on labels, raw"
    assert [stage.name for stage in outcome.stages] == ["raw", "recalibrated"]


@pytest.mark.parametrize("preset", ["ours", "authors"])
def test_candidates_may_be_trained_before_they_are_judged(preset):
    """A few steps make the same first candidates better on average; nothing of it is recorded or shipped."""
    options = {"preset": preset, "evaluations": 10}
    plain = lcp(task_of(steps=0, labelled=True, num_samples=60), **options)
    trained = lcp(task_of(steps=0, labelled=True, num_samples=60), **options, candidate_steps=6)

    assert trained.facts["candidate_steps"] == 6
    assert np.mean(trained.facts["losses"][:5]) < np.mean(plain.facts["losses"][:5])
    assert [stage.name for stage in trained.stages] == [stage.name for stage in plain.stages]


def test_labels_do_not_matter_otherwise():
    """With labels permuted, the chosen channels are the same."""
    task = task_of(steps=0, labelled=True, num_samples=60)
    labels = np.random.default_rng(0).permutation(task.data.train.labels)
    other = replace(task, run=run_of(), data=replace(task.data, train=replace(task.data.train, labels=labels)))

    assert np.array_equal(lcp(task, **FEW).keep.mask, lcp(other, **FEW).keep.mask)


def test_the_search_is_made_at_the_lowest_target(task):
    """Of three targets the one that leaves least is searched at, whichever is asked for first."""
    macs = cost.count(task.graph).macs
    sets = tuple((Budget(metric=Metric.MACS, limit=share * macs),) for share in (0.8, 0.4, 0.6))

    assert lowest(replace(task, job_budgets=sets)) == sets[1]


def test_targets_share_one_search(task):
    """The second target of a job evaluates no candidate and keeps more."""
    macs = cost.count(task.graph).macs
    sets = tuple((Budget(metric=Metric.MACS, limit=share * macs),) for share in (0.4, 0.7))
    journal, heard = KeptInMemory(), Watch()
    first, second = (
        replace(task, budgets=sets[n], job_budgets=sets, step_prefix=f"{n}-", run=run_of(journal=journal, report=heard))
        for n in (0, 1)
    )
    small = lcp(first, **FEW)
    before = len([message for phase, _, message, _ in heard.heard if message.startswith("candidate")])
    large = lcp(second, **FEW)
    after = len([message for phase, _, message, _ in heard.heard if message.startswith("candidate")])

    assert before == after > 0
    assert (large.keep.mask | ~small.keep.mask).all()
    assert cost.count(large.graph).macs <= sets[1][0].limit


def test_a_killed_job_ends_with_the_same_bytes(task):
    """Killed in the search, the job continues and gives the network that it would have given."""
    whole = lcp(replace(task, run=run_of()), **LONGER)
    journal = KeptInMemory()
    with pytest.raises(Killed):
        lcp(replace(task, run=run_of(journal=journal, report=Watch(Phase.SCORE, 0.9))), **LONGER)
    assert "lcp-search" in journal.memos
    resumed = lcp(replace(task, run=run_of(journal=journal)), **LONGER)

    assert to_bytes(resumed.graph) == to_bytes(whole.graph)
    assert resumed.facts == whole.facts


def test_other_heads_are_searched_too(task):
    """A network that is no classifier is compared by the squared error of its outputs."""
    end = "y = Gemm <transB = 1> (flat, w6, b6)"
    other = on(task, RESIDUAL.replace(end, end.replace("y =", "z =") + "\n  y = Tanh (z)"))
    outcome = lcp(other, **FEW)

    assert not other.head.is_classification
    assert cost.count(outcome.graph).macs <= other.budgets[0].limit


def test_threads_change_nothing_of_the_result(task):
    """Candidates that are judged by three threads have the losses that one thread finds, to the last bit."""
    found = [lcp(replace(task, run=replace(run_of(), num_threads=count)), evaluations=24) for count in (1, 3)]

    assert found[0].facts["losses"] == found[1].facts["losses"]
    assert np.array_equal(found[0].keep.mask, found[1].keep.mask)
