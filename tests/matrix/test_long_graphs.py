"""Graphs of five thousand nodes are analysed in seconds, and the work grows with the number of nodes, not faster."""

import time

import onnx_ir as ir
import pytest

from tests.matrix.long_graphs import LONG
from tests.work import calls
from workers.analysis import analyse
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes


def seconds(graph: ir.Model) -> float:
    """Processor time of a whole analysis, made-up inputs included; other programs may slow the clock on the wall."""
    content = to_bytes(graph)
    started = time.process_time()
    analysis = analyse(load(content))
    assert analysis["prunable_groups"]
    assert analysis["speed"]
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_five_thousand_nodes_are_analysed_in_ten_seconds(name: str) -> None:
    """Residual, dense and attention."""
    assert seconds(LONG[name](5000)) < 10


@pytest.mark.parametrize("name", LONG)
def test_the_work_of_an_analysis_grows_with_the_nodes(name: str) -> None:
    """Four times as many nodes take less than seven times as many calls; a square would take sixteen."""
    few, many = (load(to_bytes(LONG[name](nodes))) for nodes in (200, 800))

    assert calls(lambda: analyse(many)) < 7 * calls(lambda: analyse(few))
