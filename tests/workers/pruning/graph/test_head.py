"""What the output of a network means."""

import pytest

from tests.networks import graph
from workers.pruning.errors import InvalidGraph
from workers.pruning.graph import head
from workers.pruning.graph.head import Head
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import clone

NET = """
net (float[N,3,4,4] x) => (float[N,5,{rest}] y)
<float[5,3,1,1] w>
{{
  a = Conv (x, w)
  {body}
}}
"""


@pytest.mark.parametrize(
    ("body", "rest", "expected"),
    [
        ("y = GlobalAveragePool (a)", "1,1", Head.LOGITS),
        ("b = GlobalAveragePool (a)  y = Softmax <axis = 1> (b)", "1,1", Head.PROBABILITIES),
        ("b = GlobalAveragePool (a)  y = Softmax <axis = 3> (b)", "1,1", Head.OTHER),
        ("y = Softmax <axis = 1> (a)", "4,4", Head.OTHER),
        ("b = GlobalAveragePool (a)  y = Sigmoid (b)", "1,1", Head.OTHER),
    ],
)
def test_a_plane_of_one_pixel_may_follow_the_classes(body: str, rest: str, expected: Head) -> None:
    """One score per class where the softmax runs over the classes; a map of scores is no classification."""
    assert head.find(graph(NET.format(body=body, rest=rest))) is expected


GATES = "b = GlobalAveragePool (a)  y = Sigmoid (b)"


def test_what_the_output_means_can_be_said() -> None:
    """Five sigmoids are classes if their owner says so, and scores are none; a cut and its file remember it."""
    gates = graph(NET.format(body=GATES, rest="1,1"))
    scores = graph(NET.format(body="y = GlobalAveragePool (a)", rest="1,1"))
    head.declare(gates, "classifier")
    head.declare(scores, "other")

    assert head.find(gates) is Head.LOGITS
    assert head.find(scores) is Head.OTHER
    assert head.find(load(to_bytes(clone(gates)))) is Head.LOGITS
    head.declare(gates, "auto")
    assert head.find(gates) is Head.LOGITS


def test_a_map_cannot_be_declared_a_classifier() -> None:
    """The refusal names the output."""
    with pytest.raises(InvalidGraph, match="'y'"):
        head.declare(graph(NET.format(body="y = Sigmoid (a)", rest="4,4")), "classifier")
