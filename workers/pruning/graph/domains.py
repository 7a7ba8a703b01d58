"""Operators outside of the ONNX standard: those that ONNX Runtime runs on a processor are taken, others refused."""

from collections.abc import Iterator
from functools import cache
from typing import Final

import onnx
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from workers.pruning.errors import InvalidGraph
from workers.pruning.graph.providers import CPU
from workers.pruning.graph.rewrites import REWRITES
from workers.pruning.graph.rewriting import is_standard

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_UNNAMED: Final = "(unnamed)"


def check_domains(proto: onnx.ModelProto, nodes: Iterator[onnx.NodeProto]) -> None:
    """Return when each of the nodes is of the standard, of a function of the file, or known to ONNX Runtime.

    Raises:
        InvalidGraph: nobody here can run a node, so that neither its work nor what it gives can be known.
    """
    local = {(function.domain, function.name) for function in proto.functions}
    for node in nodes:
        operator = (node.domain, node.op_type)
        if node.domain in STANDARD_DOMAINS or operator in local or operator in REWRITES or operator in runnable():
            continue
        raise InvalidGraph(
            "A node is of a custom operator domain that nobody here can run",
            where=f"node {node.name or _UNNAMED!r}",
            actual=named(node),
            allowed="operators of the ONNX standard, functions defined in the file, and operators that ONNX Runtime "
            "runs on processors by itself, as those of com.microsoft",
            advice="Export without this operator, or give its meaning as a function in the file: of a node that cannot "
            "be run neither the work nor the result is known, so no pruned network around it could be verified.",
        )


def named(node: onnx.NodeProto) -> str:
    """Give domain and operator of a node as ONNX Runtime writes them."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def beyond_standard(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the nodes of the main graph that only ONNX Runtime knows, or that the standard got at a later opset."""
    local = {(function.domain, function.name) for function in proto.functions}
    version = standard_opset(proto)
    return [
        node
        for node in proto.graph.node
        if (node.domain not in STANDARD_DOMAINS and (node.domain, node.op_type) not in local)
        or (
            ("", node.op_type) in REWRITES and node.domain in {"", "ai.onnx"} and not is_standard(node.op_type, version)
        )
    ]


def standard_opset(proto: onnx.ModelProto) -> int:
    """Give the version of the standard operators that a file is of."""
    return max(int(entry.version) for entry in proto.opset_import if entry.domain in {"", "ai.onnx"})


@cache
def runnable() -> frozenset[tuple[str, str]]:
    """Give domain and operator of all that the installed ONNX Runtime has a kernel for on processors."""
    kernels = runtime.get_all_opkernel_def()
    return frozenset((each.domain, each.op_name) for each in kernels if each.provider == CPU)
