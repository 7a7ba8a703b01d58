"""Transfer learning before pruning: a new last layer for the dataset's classes, trained, then pruned as usual."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from tests.networks import graph as network
from tests.workers.pruning.journals import KeptInMemory, Watch, run_of
from tests.workers.pruning.methods.tasks import task_of
from workers.pruning.errors import InvalidDataset, InvalidGraph
from workers.pruning.graph import cost
from workers.pruning.graph.load import input_specs, output_specs
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import weights
from workers.pruning.methods.taylor import taylor
from workers.pruning.methods.transfer import differs, num_classes, transferred, with_new_head
from workers.pruning.training.evaluate import evaluate

QUICK = {"share_per_round": 0.2, "max_accuracy_drop": 1.0, "ranking_samples": 64, "transfer_epochs": 3.0}
ENDS = {
    "gemm": "y = Gemm <transB = 1> (x, w, b)",
    "gemm behind a softmax": "z = Gemm <transB = 1> (x, w, b)\n  y = Softmax <axis = 1> (z)",
    "matmul": "z = MatMul (x, w)\n  y = Add (z, b)",
}


@pytest.fixture
def task():
    """Five classes by how bright an image is, for a network of three."""
    task = task_of(labelled=True, num_samples=300)
    return replace(
        task, data=replace(task.data, train=bright(task.data.train), validation=bright(task.data.validation))
    )


def bright(samples):
    (images,) = samples.batch(np.arange(len(samples)))
    order = np.argsort(np.argsort(images.mean((1, 2, 3))))
    return replace(samples, labels=(5 * order // len(samples)).astype(np.int64))


def ended(end):
    shape = "[4, 8]" if "Gemm" in end else "[8, 4]"
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    graph = ir.from_onnx_text(f"{header} g (float[N, 8] x, float{shape} w, float[4] b) => (float[N, 4] y) {{ {end} }}")
    for value in list(graph.graph.inputs)[1:]:
        graph.graph.inputs.remove(value)
        value.const_value = ir.tensor(np.ones(value.shape.numpy(), np.float32), name=value.name)
        graph.graph.register_initializer(value)
    for node in graph.graph:
        node.name = node.outputs[0].name
    return graph


def test_other_classes_are_noticed(task):
    """Labels beyond the last output, or another number of folders; fewer labels than outputs are fine."""
    data = task.data

    assert differs(data, task.graph)
    assert num_classes(data) == 5
    assert not differs(task_of(labelled=True).data, task.graph)
    assert not differs(task_of().data, task.graph)
    assert differs(replace(task_of(labelled=True).data, classes=("cat", "dog")), task.graph)


@pytest.mark.parametrize("name", sorted(ENDS))
def test_the_last_layer_is_replaced(name):
    """Four answers become seven, the bias starts at zero, other numbers are bounded by 1/sqrt(8)."""
    given = ended(ENDS[name])
    changed = with_new_head(given, 7, seed=0)
    held = weights(changed)

    assert output_specs(changed)[0].shape == ("N", 7)
    assert 7 in held["w"].shape
    assert np.abs(held["w"]).max() <= 8**-0.5
    assert not held["b"].any()
    assert output_specs(given)[0].shape == ("N", 4)
    assert to_bytes(changed) == to_bytes(with_new_head(given, 7, seed=0)) != to_bytes(with_new_head(given, 7, seed=1))


def test_a_network_without_a_matrix_at_its_end_is_refused():
    """The message names the operator that was found."""
    with pytest.raises(InvalidGraph, match=r"cannot be replaced.*found Conv; allowed Gemm or MatMul"):
        with_new_head(network("unet"), 3, seed=0)


def test_the_new_classes_are_learned(task):
    """After some passes the network is right far more often than one time in five; units are those of before."""
    learned = transferred(task, epochs=15.0, learning_rate=0.05)
    accuracy = evaluate(learned.graph, task.data.validation).accuracy

    assert accuracy > 0.4
    assert learned.grouping is task.grouping
    assert input_specs(learned.uploaded) == input_specs(task.uploaded)
    assert output_specs(learned.uploaded)[0].shape[1] == 5


def test_what_was_transferred_is_pruned(task):
    """The outcome has five answers, meets the budget, and names the network that it replaces."""
    outcome = taylor(task, **QUICK)

    assert output_specs(outcome.graph)[0].shape[1] == 5
    assert cost.count(outcome.graph).macs <= task.budgets[0].limit
    assert output_specs(outcome.pruned_task.uploaded)[0].shape[1] == 5
    assert outcome.masked_vs_cut < 1e-4


def test_a_second_target_does_not_learn_again(task):
    """Transfer is recorded once for the job; a later target takes it up and gives the same bytes."""
    journal, watch = KeptInMemory(), Watch()
    first = transferred(replace(task, run=run_of(journal=journal), step_prefix="0-"), epochs=2.0, learning_rate=0.01)
    again = replace(task, run=run_of(journal=journal, report=watch), step_prefix="1-")
    second = transferred(again, epochs=2.0, learning_rate=0.01)

    assert to_bytes(first.graph) == to_bytes(second.graph)
    assert not any(text.startswith("step") for _, _, text, _ in watch.heard)


def test_without_transfer_other_classes_are_refused(task):
    """The first label that is no class is named, with what is allowed."""
    with pytest.raises(InvalidDataset, match="A label is not a class of the network"):
        taylor(task, **{**QUICK, "transfer": "never"})


def test_a_network_that_knows_the_classes_is_left_alone():
    """Without need or wish nothing is transferred."""
    assert taylor(task_of(labelled=True, steps=0), **QUICK).pruned_task is None
