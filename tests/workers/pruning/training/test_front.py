"""A short training leaves the front of a repaired network as it is, and shows each view more than once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.workers.pruning.journals import KeptInMemory, Killed, Watch, run_of
from tests.workers.pruning.seeded import seeded
from tests.workers.pruning.training.test_loop import RESIDUAL
from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.renormalise import fold_all
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.training import loop
from workers.pruning.training.data import synthetic
from workers.pruning.training.front import Front, find_front
from workers.pruning.training.loop import finetune
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Phase, TensorSpec

FRONT = {"w1", "scale1", "b1", "m1", "var1"}
HASTENED = FinetuneSettings(steps=8, batch_size=16, hastened=True)  # 128 of 160 samples


@pytest.fixture(scope="module")
def teacher():
    return seeded(RESIDUAL, seed=1)


@pytest.fixture(scope="module")
def data(teacher):
    return synthetic(teacher, [TensorSpec(name="x", dtype="float32", shape=("N", 3, 16, 16))], seed=0, num_samples=160)


def noisy(graph, *names):
    """The graph with noise on some weights."""
    rng = np.random.default_rng(2)
    found = weights(graph)
    changed = {n: found[n] * (1 + 0.5 * rng.standard_normal(found[n].shape)).astype(np.float32) for n in names}
    return replace_weights(graph, changed)


def front_of(student, teacher):
    answering = fold_all(teacher)
    modules = (GraphModule(student), GraphModule(answering, trainable=False))
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((32, 3, 16, 16)).astype(np.float32))
    return find_front(student, answering, modules, [x])


def test_the_front_ends_where_the_error_begins(teacher):
    """The first block is right, so its three nodes stay; with an error there, nothing does."""
    assert front_of(noisy(teacher, "w2"), teacher).initializers == FRONT
    assert len(front_of(noisy(teacher, "w2"), teacher).nodes) == 3
    assert front_of(noisy(teacher, "w1"), teacher) == Front()


def test_the_front_stays_and_the_rest_is_trained(teacher, data):
    """Weights and statistics of the front are as they were, bit by bit, and the loss falls behind it."""
    student = noisy(teacher, "w2", "w3")
    done = finetune(student, teacher, data, HASTENED, run_of())
    before, after = weights(student), weights(done.graph)
    same = {name for name, array in before.items() if np.array_equal(array, after[name])}

    assert same == FRONT
    assert done.improved
    assert (done.recipe.passes, done.recipe.frozen, done.recipe.learning_rate > 0.01 / 3) == (2, 3, True)


def test_longer_training_trains_all(teacher, data):
    """What sees more than the whole data is the usual recipe."""
    student = noisy(teacher, "w2")
    settings = replace(HASTENED, steps=11)
    done = finetune(student, teacher, data, settings, run_of())

    assert (done.recipe.passes, done.recipe.frozen) == (1, 0)
    assert to_bytes(done.graph) == to_bytes(
        finetune(student, teacher, data, replace(settings, hastened=False), run_of()).graph
    )


def test_a_killed_short_training_ends_with_the_same_bytes(teacher, data):
    """Answers to views that were seen before are asked for anew, and are the same."""
    student = noisy(teacher, "w2", "w3")
    whole = finetune(student, teacher, data, HASTENED, run_of())
    journal = KeptInMemory()
    with pytest.raises(Killed):
        finetune(student, teacher, data, HASTENED, run_of(journal=journal, tick=3, report=Watch(Phase.FINETUNE, 0.7)))

    again = finetune(student, teacher, data, HASTENED, run_of(journal=journal))
    assert to_bytes(again.graph) == to_bytes(whole.graph)


def test_without_room_for_views_the_result_is_the_same(teacher, data, monkeypatch):
    """What a view becomes behind the front is computed anew where it is not kept, bit by bit the same."""
    student = noisy(teacher, "w2", "w3")
    kept = finetune(student, teacher, data, HASTENED, run_of())
    monkeypatch.setattr(loop, "KEPT_BYTES", 0)
    again = finetune(student, teacher, data, HASTENED, run_of())

    assert to_bytes(again.graph) == to_bytes(kept.graph)


@pytest.mark.parametrize("end", ["d", "c"])
def test_front_and_rest_are_the_network(teacher, end):
    """A front that ends in a rectifier, or in a normalisation that is folded away, then the rest: the same answers."""
    last = [node.outputs[0].name for node in teacher.graph].index(end)
    nodes = frozenset(node.name or "" for node in list(teacher.graph)[: last + 1])
    front, rest = Front(nodes=nodes, initializers=frozenset(FRONT), end=end).apart(teacher)
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((4, 3, 16, 16)).astype(np.float32))
    with torch.no_grad():
        found = rest.eval()(*front(x))[0]
        wanted = GraphModule(teacher).eval()(x)[0]

    np.testing.assert_allclose(found, wanted, atol=1e-5)
