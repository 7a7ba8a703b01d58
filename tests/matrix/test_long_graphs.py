"""Graphs of five thousand nodes are analysed in seconds, and the work grows with the number of nodes, not faster."""

import time
from collections.abc import Callable

import onnx_ir as ir
import pytest

from tests.matrix.long_graphs import LONG
from tests.work import calls
from workers.analysis import analyse
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes

Build = Callable[[int], ir.Model]


def fixed(name: str) -> Build:
    """The same graphs, exported for a batch of one."""

    def build(num_nodes: int) -> ir.Model:
        graph = LONG[name](num_nodes)
        for value in (*graph.graph.inputs, *graph.graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([1, *list(value.shape)[1:]])
        return graph

    return build


def seconds(graph: ir.Model) -> float:
    """Processor time of a whole analysis, made-up inputs included; other programs may slow the clock on the wall."""
    content = to_bytes(graph)
    started = time.process_time()
    analysis = analyse(load(content))
    assert analysis["prunable_groups"]
    assert analysis["speed"]
    return time.process_time() - started


@pytest.mark.slow
@pytest.mark.parametrize("build", [LONG.__getitem__, fixed], ids=["open", "fixed"])
@pytest.mark.parametrize("name", LONG)
def test_five_thousand_nodes_are_analysed_in_ten_seconds(name: str, build: Callable[[str], Build]) -> None:
    """Residual, dense and attention, exported for any batch or for one."""
    assert seconds(build(name)(5000)) < 10


@pytest.mark.parametrize("name", LONG)
def test_a_fixed_batch_costs_little_more_than_an_open_one(name: str) -> None:
    """The batch is opened without reading the file again or finding groups again: at most six tenths more calls.

    It is cloned, its shapes are inferred once more, and it is written once for ONNX Runtime.
    """
    free, bound = (load(to_bytes(build(300))) for build in (LONG[name], fixed(name)))

    assert calls(lambda: analyse(bound)) < 1.6 * calls(lambda: analyse(free))


@pytest.mark.parametrize("name", LONG)
def test_the_work_of_an_analysis_grows_with_the_nodes(name: str) -> None:
    """Four times as many nodes take less than seven times as many calls; a square would take sixteen."""
    few, many = (load(to_bytes(LONG[name](nodes))) for nodes in (200, 800))

    assert calls(lambda: analyse(many)) < 7 * calls(lambda: analyse(few))
