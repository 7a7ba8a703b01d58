"""What is done where memory is short: another method is chosen and said, and fine-tuning goes on with less."""

from dataclasses import replace

import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.methods.tasks import task_of
from tests.workers.pruning.seeded import seeded
from tests.workers.test_pipeline_rounds import NETWORK, own_answers, stored
from workers.pipeline import prepare, prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.graph.save import to_bytes
from workers.pruning.methods.room import ROOM_SHARE, USUAL_BATCH, lack
from workers.pruning.methods.steps import calibration_batches, train, training_warnings
from workers.pruning.training import loop
from workers.pruning.training.recipe import FinetuneSettings

AMPLE = 1 << 30


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(seeded(NETWORK, seed=3)))
    return path


@pytest.fixture
def dataset(tmp_path):
    return stored(tmp_path / "data.npz", own_answers)


def short_of(task):
    """The least memory with which something is lacking that shrinking helps with, in bytes, and what is lacking."""
    found = (
        (size << 10, lack(replace(task, run=replace(task.run, memory_bytes=size << 10))))
        for size in range(32, 8192, 32)
    )
    return next((size, each) for size, each in found if each is not None)


def limited(share):
    """A task whose run has a share of what training the whole network with the usual batch needs, and that figure."""
    task = task_of(labelled=True)
    _, found = short_of(task)
    memory = int(share * found.needed_bytes / ROOM_SHARE)
    return replace(task, run=replace(task.run, memory_bytes=memory)), found.needed_bytes


def test_a_worker_with_room_is_left_alone():
    """Nothing is lacking without a limit, with an ample one, without training, or where only the batch is smaller."""
    task, _ = limited(1.1)

    assert lack(task) is None
    assert lack(replace(task, run=replace(task.run, memory_bytes=None))) is None
    assert lack(replace(task, run=replace(task.run, memory_bytes=AMPLE))) is None


def test_a_worker_without_room_lacks_what_the_memory_model_says():
    """With nine tenths of what 32 samples need, that is what is stated."""
    task, need = limited(0.9)
    found = lack(task)

    assert found is not None
    assert found.needed_bytes == need
    assert found.room_bytes == pytest.approx(0.9 * need, rel=1e-3)
    assert f"batches of {USUAL_BATCH}" in found.warning


def test_auto_gives_way_to_dynhp_and_says_so(network, dataset, tmp_path):
    """The job of a worker without room is done by dynhp within its memory; warnings and facts state it."""
    spec = PruneSpec(
        target_sets=((Target(metric="macs", ratio=0.5),),),
        finetune=FinetuneSettings(steps=60, batch_size=32),
        round_to=1,
        measure=False,
    )
    size, _ = short_of(replace(prepare(spec, network, dataset, run_of()), finetune=spec.finetune))
    results = []
    for memory in (AMPLE, size):
        run = replace(run_of(), memory_bytes=memory)
        results.append(prune(spec, network=network, dataset=dataset, out=tmp_path / str(memory), run=run))
    ample, short = results

    assert "chosen_method" not in ample["facts"]
    assert short["facts"]["chosen_method"] == "dynhp"
    assert short["facts"]["memory_bytes_most"] <= short["facts"]["room_bytes"] <= ROOM_SHARE * (size)
    assert any("dynhp was chosen" in warning for warning in short["warnings"])
    assert short["target_met"]


def test_fine_tuning_goes_on_with_half_the_batch_where_memory_runs_out(monkeypatch):
    """Steps of more than 16 samples find no memory: training is done with 16, and the warnings say so."""
    whole = loop.Objective.__call__

    def short(self, student, teacher, labels):
        if student[0].requires_grad and len(student[0]) > 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return whole(self, student, teacher, labels)

    monkeypatch.setattr(loop.Objective, "__call__", short)
    task = task_of(labelled=True, steps=3)
    _, done = train(task, task.graph, calibration_batches(task, 32))

    assert done is not None
    assert done.recipe.batch_size == 16
    assert "began anew with 16" in training_warnings(done)[0]
    assert task.run.journal.recall("finetune-16-cpu") is not None


def test_other_failures_are_not_taken_for_a_lack_of_memory(monkeypatch):
    """An error that speaks of something else ends the training."""

    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loop.Objective, "__call__", broken)
    task = task_of(labelled=True, steps=3)

    with pytest.raises(RuntimeError, match="shapes"):
        train(task, task.graph, calibration_batches(task, 32))
