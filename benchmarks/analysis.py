"""Processor time of an analysis of long graphs, made-up inputs included: `python -m benchmarks.analysis [NODES]`.

Each graph is read and analysed once in this process, exported for any batch and for a batch of one.
"""

import sys
import time

import onnx_ir as ir

from tests.matrix.long_graphs import LONG
from workers.analysis import analyse
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes

NUM_NODES = 5000


def main(num_nodes: int) -> None:
    """Print a row for every graph."""
    for name, build in LONG.items():
        for batch in ("open", "fixed"):
            graph = build(num_nodes)
            if batch == "fixed":
                fix(graph)
            content = to_bytes(graph)
            begun = time.process_time()
            loaded = load(content)
            read = time.process_time()
            analyse(loaded)
            done = time.process_time()
            sys.stdout.write(f"{name:16}{batch:8}load {read - begun:6.2f} s   whole {done - begun:6.2f} s\n")


def fix(graph: ir.Model) -> None:
    """Give inputs and outputs a batch of one, in place."""
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([1, *list(value.shape)[1:]])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_NODES)
