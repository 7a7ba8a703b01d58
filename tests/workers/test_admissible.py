"""Jobs with an accuracy to hold: the smallest network within it, everything that was looked at, and their progress."""

from dataclasses import replace

import numpy as np
import pytest

from tests.workers.pruning.journals import KeptInMemory, run_of
from tests.workers.pruning.seeded import seeded
from tests.workers.test_pipeline_rounds import NETWORK, own_answers, stored
from workers.admissible import DRAFTS, TRIES
from workers.pipeline import prune
from workers.progress import Reporter
from workers.prune_spec import PruneSpec, Target, UnsupportedTarget
from workers.pruning.graph.save import to_bytes
from workers.pruning.training.recipe import FinetuneSettings

OPTIONS = {
    "taylor": {"share_per_round": 0.2, "ranking_samples": 64},
    "lcp": {"evaluations": 8},
    "easiedge": {"rounds": 1, "steps_per_round": 2},
}
SPEC = PruneSpec(
    target_sets=((),),
    max_accuracy_drop=0.1,
    finetune=FinetuneSettings(steps=2, batch_size=32),
    round_to=1,
    measure=False,
)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(seeded(NETWORK, seed=3)))
    return path


@pytest.fixture
def dataset(tmp_path):
    return stored(tmp_path / "data.npz", own_answers)


@pytest.mark.parametrize("method", ["auto", "dynhp", "easiedge", "lcp", "magnitude", "random", "taylor"])
def test_without_a_target_the_smallest_within_the_drop_is_shipped(network, dataset, tmp_path, method):
    """Every method serves it: what is shipped holds the drop, or the result says that nothing did."""
    spec = replace(SPEC, method=method, options=OPTIONS.get(method, {}))
    result = prune(spec, network=network, dataset=dataset, out=tmp_path / "out", run=run_of())
    shipped = [each for each in result["tries"] if each["shipped"]]

    assert result["target"] == "max_accuracy_drop=0.1"
    assert result["stopped_by"] in {"accuracy", "floor"}
    assert [each["macs"] for each in shipped] == [result["after"]["macs"]]
    assert result["target_met"] == result["accuracy_drop"]["held"] == shipped[0]["held"]
    assert result["after"]["macs"] < result["before"]["macs"]
    assert all(
        each["macs"] >= shipped[0]["macs"] for each in result["tries"] if each["kind"] == "whole" and each["held"]
    )


def test_drafts_come_first_and_are_not_trained(network, dataset, tmp_path):
    """Six halvings without training, then at most three whole prunings; scores are computed once."""
    journal = KeptInMemory()
    result = prune(SPEC, network=network, dataset=dataset, out=tmp_path / "out", run=run_of(journal=journal))
    kinds = [each["kind"] for each in result["tries"]]

    assert kinds[:DRAFTS] == ["draft"] * DRAFTS
    assert 1 <= kinds.count("whole") <= TRIES
    assert len([name for name in journal.memos if name.endswith("finetune")]) == kinds.count("whole")


def test_progress_never_falls_and_does_not_wait_at_the_end(network, dataset, tmp_path):
    """Fractions rise to the last pass; the drafts are not told as the end of the job."""
    events = []
    clock = iter(range(10**6))
    reporter = Reporter(emit=events.append, clock=lambda: float(next(clock)))
    prune(SPEC, network=network, dataset=dataset, out=tmp_path / "out", run=run_of(report=reporter))
    fractions = [event["fraction"] for event in events]
    drafts = [event["fraction"] for event in events if event["message"].startswith("draft")]

    assert fractions == sorted(fractions)
    assert max(drafts) <= 0.51
    assert len(set(fractions)) > 20


def test_neither_a_target_nor_classes_is_refused(network, tmp_path):
    """Without max_accuracy_drop there is nothing to aim at."""
    with pytest.raises(UnsupportedTarget, match="needs an accuracy"):
        prune(replace(SPEC, max_accuracy_drop=None), network=network, dataset=None, out=tmp_path / "out", run=run_of())


def test_a_killed_search_ends_with_the_same_bytes(network, dataset, tmp_path):
    """What earlier attempts recorded gives the same result as one attempt."""
    journal = KeptInMemory()
    first = prune(SPEC, network=network, dataset=dataset, out=tmp_path / "a", run=run_of(journal=journal))
    second = prune(SPEC, network=network, dataset=dataset, out=tmp_path / "b", run=run_of(journal=journal))

    assert first["sha256"] == second["sha256"]
    assert first["tries"] == second["tries"]
    assert np.isfinite([each["fall"] for each in first["tries"]]).all()


def test_every_target_of_a_job_holds_the_drop_by_itself(network, dataset, tmp_path):
    """The mild target is met; for the other, which costs more than is allowed, a milder network within it is shipped.

    A job with that other target alone gives the same bytes: no target's search depends on the others.
    """
    targets = [(Target(metric="flops", ratio=0.95),), (Target(metric="flops", ratio=0.2),)]
    spec = replace(SPEC, method="magnitude", finetune=FinetuneSettings(steps=0))
    both = replace(spec, target_sets=tuple(targets))
    result = prune(both, network=network, dataset=dataset, out=tmp_path / "both", run=run_of())
    mild, hard = result["variants"]
    alone = replace(spec, target_sets=(targets[1],))
    single = prune(alone, network=network, dataset=dataset, out=tmp_path / "alone", run=run_of())

    assert [variant["accuracy_drop"]["allowed"] for variant in (mild, hard)] == [0.1, 0.1]
    assert (mild["stopped_by"], mild["target_met"], mild["warnings"]) == ("target", True, [])
    assert (hard["stopped_by"], hard["target_met"]) == ("accuracy", False)
    assert hard["accuracy_drop"]["held"]
    assert any("At the target, held-out accuracy fell" in warning for warning in hard["warnings"])
    assert hard["sha256"] == single["sha256"]
    assert [artifact["file"] for artifact in result["artifacts"][:2]] == ["0-pruned.onnx", "1-pruned.onnx"]
    assert (result["target"], result["file"]) == (mild["target"], mild["file"])
