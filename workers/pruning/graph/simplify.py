"""Passes that make later stages easy. Each edits the loaded graph in place and keeps the function that it computes."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from workers.pruning.graph.caps import Caps
from workers.pruning.graph.constants import fold_constants
from workers.pruning.graph.copies import join_copies
from workers.pruning.graph.sequences import split_without_sequences
from workers.pruning.graph.shapes import infer_shapes
from workers.pruning.graph.sharing import unshare_initializers, value_names
from workers.pruning.graph.shuffles import gather_shuffles
from workers.pruning.graph.strided import reshape_views
from workers.pruning.graph.values import constant, fresh_name, initializer, integer, opset
from workers.pruning.types import AnyArray

_MAX_ROUNDS = 4
_FIRST_IR_WITH_FREE_INITIALIZERS = 4
_FIRST_OPSET_WITH_PAD_INPUTS = 11
_OPTIONAL_BIAS = {"Conv": 2, "ConvTranspose": 2}


def simplify(graph: ir.Model, caps: Caps) -> None:
    """Bring a checked graph into the form that every stage expects.

    Ensures: no functions; one standard domain; no initializer among the inputs; unique node names; no Constant and
    (but at an output) no Identity node; what can be known is an initializer; no concatenation with zeros, no
    all-zero convolution bias and no shuffle by Reshapes in front of a grouped convolution; no dead node or unused
    initializer; every (node, input) has its own initializer, but for layers that are applied several times; shapes
    inferred.

    Raises:
        GraphTooLarge: folding or un-sharing would exceed the caps.
        InvalidGraph: shapes contradict each other.
    """
    inline_functions(graph)
    unify_domain(graph)
    free_initializers(graph)
    name_nodes(graph)
    infer_shapes(graph)
    seen = _structure(graph)
    for _ in range(_MAX_ROUNDS):
        bypass_identities(graph)
        if not fold_constants(graph, caps):
            break
        remove_dead(graph)
        infer_shapes(graph)
        seen = _structure(graph)
    split_without_sequences(graph)
    pad_for_zeros(graph)
    join_copies(graph)
    gather_shuffles(graph)
    reshape_views(graph)
    drop_zero_biases(graph)
    remove_dead(graph)
    unshare_initializers(graph, caps)
    if _structure(graph) != seen:
        infer_shapes(graph)


def _structure(graph: ir.Model) -> list[tuple[object, ...]]:
    """What inference of shapes reads of the nodes: unequal wherever a pass of this module has changed something."""
    return [(node, node.op_type, len(node.attributes), *node.inputs) for node in graph.graph]


def inline_functions(graph: ir.Model) -> None:
    """Replace calls of functions that the file defines by their nodes; their number was capped beforehand."""
    if graph.functions:
        InlinePass()(graph)


def unify_domain(graph: ir.Model) -> None:
    """Write the standard domain as "" everywhere (files may also call it ai.onnx)."""
    if "ai.onnx" in graph.opset_imports:
        version = graph.opset_imports.pop("ai.onnx")
        graph.opset_imports.setdefault("", version)
    for node in graph.graph.all_nodes():
        if node.domain == "ai.onnx":
            node.domain = ""


def free_initializers(graph: ir.Model) -> None:
    """Take initializers off the list of inputs, where ONNX before IR version 4 had to repeat them.

    Ensures: inputs are what a caller feeds. The IR version is at least 4, since older ones do not allow this.
    """
    fed = [value for value in graph.graph.inputs if value.name not in graph.graph.initializers]
    if len(fed) == len(graph.graph.inputs):
        return
    graph.graph.inputs.clear()
    graph.graph.inputs.extend(fed)
    graph.ir_version = max(graph.ir_version or 0, _FIRST_IR_WITH_FREE_INITIALIZERS)


def name_nodes(graph: ir.Model) -> None:
    """Give every node, also in subgraphs, a name of its own; names that are unique already stay."""
    nodes = list(graph.graph.all_nodes())
    wanted = {node.name for node in nodes if node.name}
    taken: set[str] = set()
    for node in nodes:
        if node.name and node.name not in taken:
            taken.add(node.name)
        else:
            node.name = fresh_name(node.name or _default_name(node), taken | wanted)
            taken.add(node.name)


def bypass_identities(graph: ir.Model) -> None:
    """Remove Identity nodes that do not stand between an input and an output.

    An Identity that gives a graph output stays when it also reads an input, an initializer or another output, or when
    others read the value it copies; otherwise the name of the output moves to the value itself.
    """
    for node in list(graph.graph):
        if node.op_type != "Identity" or node.domain or node.inputs[0] is None:
            continue
        source, target = node.inputs[0], node.outputs[0]
        if target.is_graph_output():
            continue
        if source.graph is not graph.graph and source.producer() is None:
            continue
        if source.shape is None:
            source.shape = target.shape
        target.replace_all_uses_with(source)
        graph.graph.remove(node, safe=True)


def drop_zero_biases(graph: ir.Model) -> None:
    """Remove the bias of a convolution where all its entries are zero.

    Exporters that do not optimise write one for each bias-free convolution; left in place it would be trained, counted
    and rescaled as if the network had it.
    """
    for node in graph.graph:
        index = _OPTIONAL_BIAS.get(node.op_type)
        if node.domain or index is None or len(node.inputs) <= index:
            continue
        bias = constant(node.inputs[index])
        if bias is not None and not np.any(bias):
            node.resize_inputs(index)


def pad_for_zeros(graph: ir.Model) -> None:
    """Write the concatenation of a tensor with zeros as padding, as channel-padded shortcuts are otherwise exported.

    The zeros would be counted as parameters and written to the file, and be tied to one batch size.
    """
    for node in graph.graph:
        if node.op_type != "Concat" or node.domain or len(node.inputs) != 2:
            continue
        left, right = (_zeros(value) for value in node.inputs)
        if left is not None and right is None:
            _become_pad(graph, node, left.shape, first=True)
        elif right is not None and left is None:
            _become_pad(graph, node, right.shape, first=False)


def _zeros(value: ir.Value | None) -> AnyArray | None:
    array = constant(value)
    return array if array is not None and array.dtype.kind == "f" and array.size and not np.any(array) else None


def _become_pad(graph: ir.Model, node: ir.Node, block: tuple[int, ...], *, first: bool) -> None:
    rank = len(block)
    axis = integer(node, "axis", 1) % rank
    pads = np.zeros(2 * rank, np.int64)
    pads[axis if first else rank + axis] = block[axis]
    source = node.inputs[1 if first else 0]
    node.op_type = "Pad"
    node.attributes.clear()
    node.replace_input_with(0, source)
    if opset(graph) < _FIRST_OPSET_WITH_PAD_INPUTS:
        node.resize_inputs(1)
        node.attributes["pads"] = ir.AttrInt64s("pads", pads.tolist())
        return
    value = initializer(fresh_name(f"{node.name}_pads", value_names(graph)), pads)
    graph.graph.register_initializer(value)
    node.replace_input_with(1, value)


def remove_dead(graph: ir.Model) -> None:
    """Remove nodes that no output depends on, then initializers that nobody reads.

    Ensures: inputs and outputs stay as they are, even where an input is not read.
    """
    for node in reversed(list(graph.graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.graph.remove(node, safe=True)
    for name, value in list(graph.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.graph.initializers.pop(name)


def _default_name(node: ir.Node) -> str:
    first = next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type}_{first}" if first else node.op_type
