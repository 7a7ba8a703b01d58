"""Networks that compute in bfloat16, judged by ONNX Runtime through their float32 twin; see `widen`."""

from dataclasses import replace
from typing import Final

import onnx_ir as ir

from workers.pruning.graph.load import input_specs
from workers.pruning.graph.runtime import Session
from workers.pruning.graph.save import to_bytes, twin_bytes
from workers.pruning.graph.values import opset
from workers.pruning.types import TensorSpec

FIRST_OPSET: Final = 22  # with bfloat16 in convolution and pooling
_NOTE: Final = (
    "The network computes in bfloat16, for which ONNX Runtime has no kernels on processors: values are checked and "
    "quality is judged on its float32 twin, which has the same weights and does not round between layers."
)
_OLD: Final = (
    f"ONNX knows bfloat16 in convolution and pooling from opset {FIRST_OPSET} only and the file is of opset {{opset}}, "
    "which is kept: a runtime may refuse the pruned network as it may refuse the upload."
)


def computes_in_bfloat16(graph: ir.Model) -> bool:
    """Whether a value between, or at, the ends of a graph is bfloat16; weights behind a Cast alone do not count."""
    values = [*graph.graph.inputs, *(value for node in graph.graph.all_nodes() for value in node.outputs)]
    return any(value.dtype == ir.DataType.BFLOAT16 for value in values)


def runnable(graph: ir.Model, content: bytes | None = None) -> bytes:
    """Serialise a graph for ONNX Runtime and the checker: as it is, or its float32 twin where it computes in bfloat16.

    `content` are the bytes that `graph` was read from, where they are at hand.
    """
    if computes_in_bfloat16(graph):
        return twin_bytes(graph)
    return to_bytes(graph) if content is None else content


def session(graph: ir.Model, *, threads: int = 1, optimised: bool = True) -> Session:
    """Open a graph, or its twin, in ONNX Runtime.

    Raises:
        InvalidGraph: ONNX Runtime does not accept it.
    """
    return Session(runnable(graph), threads=threads, optimised=optimised)


def fed_specs(graph: ir.Model) -> tuple[TensorSpec, ...]:
    """Give what samples of a network consist of: its inputs, with float32 in place of bfloat16."""
    return tuple(replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec for spec in input_specs(graph))


def notes(graph: ir.Model) -> tuple[str, ...]:
    """Say what a user should know of a network that computes in bfloat16; nothing of others."""
    if not computes_in_bfloat16(graph):
        return ()
    version = opset(graph)
    return (_NOTE,) if version >= FIRST_OPSET else (_NOTE, _OLD.format(opset=version))
