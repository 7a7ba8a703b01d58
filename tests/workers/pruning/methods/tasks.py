"""A network that learned something, as a task: what methods that train and decide are tried on."""

from dataclasses import replace

import numpy as np

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import seeded
from workers.pruning.graph import cost, head, load
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import replace_weights, weights
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.methods.task import Task
from workers.pruning.training.data import synthetic
from workers.pruning.training.evaluate import answer, run_all
from workers.pruning.training.recipe import FinetuneSettings
from workers.pruning.types import Budget, Metric, TensorSpec

CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 3, 8, 8] x, float[12, 3, 3, 3] w1, float[12] b1, float[10, 12, 3, 3] w2, float[10] b2,
       float[3, 10] w3, float[3] b3) => (float[N, 3] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
  e = Relu (d)
  f = GlobalAveragePool (e)
  g = Flatten (f)
  y = Gemm <transB = 1> (g, w3, b3)
}
"""


def task_of(text=CHAIN, *, share=0.6, steps=4, labelled=False, run=None, num_samples=200, seed=0):
    """A task on made-up samples that asks for `share` of the MACs; labels are the network's own answers if asked."""
    graph = load.load(to_bytes(seeded(text, seed)))
    data = synthetic(
        graph, [TensorSpec(name="x", dtype="float32", shape=("N", 3, 8, 8))], seed=0, num_samples=num_samples
    )
    if head.find(graph).is_classification:
        graph = centred(graph, data.train)
    if labelled:
        data = replace(
            data, train=labels_of(graph, data.train), validation=labels_of(graph, data.validation), kind="labelled"
        )
    grouping = find(graph)
    return Task(
        uploaded=graph,
        graph=graph,
        head=head.find(graph),
        data=data,
        grouping=grouping,
        cost_model=cost_model(graph, grouping),
        budgets=(Budget(metric=Metric.MACS, limit=share * cost.count(graph).macs),),
        finetune=FinetuneSettings(steps=steps, batch_size=32),
        run=run or run_of(),
        reference=answer(graph, data.validation) if head.find(graph).is_classification else graph,
        round_to=1,
    )


def centred(graph, samples):
    """The same network with logits of mean zero, so that it answers with all of its classes."""
    rows = run_all(Session(to_bytes(graph), threads=1), samples, lambda _: None)
    mean = np.concatenate([outputs[0] for outputs in rows]).mean(axis=0)
    return load.load(to_bytes(replace_weights(graph, {"b3": weights(graph)["b3"] - mean})))


def labels_of(graph, samples):
    """The same samples with the classes that the network chooses."""
    return replace(samples, labels=np.argmax(answer(graph, samples).log_probabilities, axis=1).astype(np.int64))
