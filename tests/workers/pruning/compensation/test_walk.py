"""Running a graph node by node."""

import pytest
import torch

from tests.workers.pruning.seeded import MIXED, RESIDUAL, images, loaded
from workers.pruning.compensation.walk import Walk, peak_bytes, schedule
from workers.pruning.graph.feed import frozen_module, tensors

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[N, 3, 8, 8] x, float[4, 3, 1, 1] w1, float[4, 4, 1, 1] w2, float[4, 3, 1, 1] w3)
    => (float[N, 4, 8, 8] y)
{
  a = Conv (x, w1)
  b = Conv (a, w2)
  c = Relu (x)
  d = Relu (c)
  e = Relu (d)
  f = Conv (e, w3)
  y = Add (b, f)
}
"""


@pytest.mark.parametrize("text", [MIXED, RESIDUAL])
def test_a_walk_ends_where_a_run_ends(text: str) -> None:
    """Node by node and batch by batch, the last value is what the network answers."""
    graph = loaded(text)
    module = frozen_module(graph, "cpu")
    batches = [tensors([images(3, seed)], "cpu")[0] for seed in (0, 1)]
    walk = Walk(graph, module, {"x": batches}, held={"y": 1})

    for found, batch in zip(walk.advance_to("y"), batches, strict=True):
        torch.testing.assert_close(found, module(batch)[0])


def test_values_are_freed_after_their_last_use() -> None:
    """A value stays while something still reads it or holds it, and no longer."""
    graph = loaded(RESIDUAL)
    walk = Walk(graph, frozen_module(graph, "cpu"), {"x": tensors([images(2)], "cpu")}, held={"c1": 1})
    walk.advance_to("r2")

    assert "x" not in walk
    assert "n1" not in walk
    assert "stream1" in walk
    assert "c1" in walk
    walk.release("c1")
    assert "c1" not in walk


def test_the_branch_with_fewer_layers_runs_first() -> None:
    """Layers with weights count before other nodes: of the two branches the one with one convolution comes first."""
    assert [node.name for node in schedule(loaded(BRANCHES))] == ["c", "d", "e", "f", "a", "b", "y"]


def test_a_schedule_runs_every_node_after_its_inputs() -> None:
    """Each node once, none before what it reads."""
    graph = loaded(MIXED)
    ready = {value.name for value in graph.graph.inputs} | set(graph.graph.initializers)
    for node in schedule(graph):
        assert {value.name for value in node.inputs} <= ready
        ready |= {value.name for value in node.outputs}

    assert len(schedule(graph)) == len(list(graph.graph))


def test_the_peak_is_that_of_the_fullest_moment() -> None:
    """By hand: at the second convolution of the long branch x is gone; f, a and b are live, 4 x 64 floats each."""
    assert peak_bytes(loaded(BRANCHES)) == 3 * 4 * 64 * 4
