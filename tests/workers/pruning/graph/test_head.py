"""What the output of a network means."""

import pytest

from tests.networks import graph
from workers.pruning.graph import head
from workers.pruning.graph.head import Head

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
