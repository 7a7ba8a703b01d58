"""Transfer learning: a classifier gets a new last layer for the classes of a dataset, and is trained on it."""

from dataclasses import replace
from math import sqrt
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph import head as heads
from workers.pruning.graph.load import load
from workers.pruning.graph.open_batch import close_batch
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.trunk import restored
from workers.pruning.graph.values import attribute
from workers.pruning.graph.weights import clone, set_initializer
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.methods import steps
from workers.pruning.methods.task import Task
from workers.pruning.training.data import Dataset
from workers.pruning.training.evaluate import answer
from workers.pruning.types import AnyArray

Transfer = Literal["auto", "always", "never"]
STEP: Final = "transfer-"
HEAD_STREAM: Final = 208  # keeps these draws apart from others of the same seed
_BEHIND: Final = frozenset({"Softmax", "LogSoftmax", "Identity"})


def differs(data: Dataset, graph: ir.Model) -> bool:
    """Whether a dataset's classes cannot be the outputs of a classifier: other folders, or labels beyond the last."""
    shape = graph.graph.outputs[0].shape
    outputs = shape[1] if shape is not None and len(shape) > 1 else None
    if data.train.labels is None or not heads.find(graph).is_classification or not isinstance(outputs, int):
        return False
    return len(data.classes) != outputs if data.classes else num_classes(data) > outputs


def num_classes(data: Dataset) -> int:
    """Give the number of classes of labelled data: its folders, or the largest label and those before it."""
    labels = [samples.labels for samples in (data.train, data.validation) if samples.labels is not None]
    return len(data.classes) or int(max(part.max() for part in labels)) + 1


def transferred(task: Task, *, epochs: float, learning_rate: float) -> Task:
    """Return the task of pruning the network that was trained on the dataset's own classes.

    Source: Wu, Singla, Jahanshahi, Bertino 2019, slides 10 and 25: transfer learning first, pruning of what it gives.
    The slides leave the recipe open; here the new layer starts at random, all layers are trained with cross-entropy,
    and the rate falls to zero. Units are those of the network before, as nothing but the number of answers changes.

    Raises:
        InvalidGraph: the last layer is none that can be replaced.
        TrainingDiverged: the loss is no longer finite.
    """
    graph = with_new_head(task.graph, num_classes(task.data), task.run.seed)
    settings = replace(task.finetune, steps=None, epochs=epochs, learning_rate=learning_rate, distillation=0.0)
    fresh = replace(task, graph=graph, head=heads.find(graph), finetune=settings, step_prefix=STEP)
    trained, _ = steps.train(fresh, graph, steps.calibration_batches(fresh, steps.CALIBRATION_SAMPLES))
    trained = load(to_bytes(trained))
    uploaded = load(to_bytes(close_batch(trained, task.uploaded)))
    return replace(
        task,
        uploaded=uploaded,
        trunk=None if task.trunk is None else replace(task.trunk, whole=restored(uploaded, task.trunk), graph=uploaded),
        graph=trained,
        head=fresh.head,
        reference=answer(trained, task.data.validation, threads=task.run.num_threads),
        cost_model=cost_model(trained, task.grouping),
    )


def with_new_head(graph: ir.Model, classes: int, seed: int) -> ir.Model:
    """Return a graph whose last matrix has one output for each class: drawn from U(-1, 1)/sqrt(inputs), bias zero.

    Raises:
        InvalidGraph: the classes are not computed by a matrix and at most a bias and a softmax behind it.
    """
    result = clone(graph)
    bias, matrix = _last_layer(result)
    weight = matrix.inputs[1]
    if weight is None or weight.const_value is None:
        raise _unknown(graph, matrix)
    by_rows = matrix.op_type == "Gemm" and bool(attribute(matrix, "transB", 0))
    shape = list(weight.const_value.numpy().shape)
    axis = 0 if by_rows else len(shape) - 1
    num_inputs = shape[1 - axis]
    shape[axis] = classes
    rng = np.random.default_rng([seed, HEAD_STREAM])
    drawn: AnyArray = rng.uniform(-1.0, 1.0, shape) / sqrt(num_inputs)
    set_initializer(weight, drawn)
    if bias is not None:
        set_initializer(bias, np.zeros(classes))
    for node in result.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    output = result.graph.outputs[0]
    if output.shape is not None:
        output.shape = ir.Shape([output.shape[0], classes])
    return load(to_bytes(result))


def _last_layer(graph: ir.Model) -> tuple[ir.Value | None, ir.Node]:
    """Find the bias and the matrix that the answers come from."""
    node = graph.graph.outputs[0].producer()
    while node is not None and node.op_type in _BEHIND:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    bias = None
    if node is not None and node.op_type == "Add":
        bias = next((value for value in node.inputs if value is not None and value.const_value is not None), None)
        node = next((value.producer() for value in node.inputs if value is not None and value is not bias), None)
    if node is None or node.op_type not in {"Gemm", "MatMul"}:
        raise _unknown(graph, node)
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = node.inputs[2]
    return bias, node


def _unknown(graph: ir.Model, node: ir.Node | None) -> InvalidGraph:
    return InvalidGraph(
        "The last layer cannot be replaced for other classes",
        where=f"output {graph.graph.outputs[0].name!r}",
        actual="nothing" if node is None else node.op_type,
        allowed="Gemm or MatMul, then at most a bias and a softmax",
        advice="Give the network a last layer for the dataset's classes before it is exported.",
    )
