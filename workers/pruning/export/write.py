"""Graph to ONNX bytes: the interface of the upload, kept; where the file comes from, added."""

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from workers.pruning.errors import ParityFailed
from workers.pruning.graph.load import input_specs, output_specs
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.split import as_file_or_bytes
from workers.pruning.graph.storage import store
from workers.pruning.graph.twin import runnable


def write(graph: ir.Model, original: ir.Model, metadata: Mapping[str, str]) -> bytes:
    """Serialise a pruned graph; equal graphs and metadata give equal bytes.

    Kept from the original: the graph's name, inputs, outputs, dtypes, symbolic axes, opset imports, producer,
    documentation and metadata. `metadata` is added to the latter and replaces entries of the same name, so that pruning
    a pruned network states the last pruning.

    Raises:
        ParityFailed: the interface is not that of the original, or the full ONNX checker refuses it; never the user's
            mistake.
    """
    require_same_interface(graph, original)
    stated = with_header(graph, original, metadata)
    content = to_bytes(stated)
    check(runnable(stated, content))
    return content


def with_header(graph: ir.Model, original: ir.Model, metadata: Mapping[str, str]) -> ir.Model:
    """Return the graph of the file: weights as they are stored, and what stands around the nodes."""
    stated = graph.clone()
    keep_header(stated, original)
    store(stated, original)
    stated.metadata_props.clear()
    stated.metadata_props.update(sorted({**original.metadata_props, **metadata}.items()))
    return stated


def require_same_interface(graph: ir.Model, original: ir.Model) -> None:
    """Refuse a graph that its user could not put where the original was.

    Raises:
        ParityFailed: an input, an output or an opset differs; names the first.
    """
    for kind, specs in (("input", input_specs), ("output", output_specs)):
        found, wanted = specs(graph), specs(original)
        if len(found) != len(wanted):
            raise ParityFailed(
                f"The pruned network has another number of {kind}s", actual=len(found), allowed=len(wanted)
            )
        for have, want in zip(found, wanted, strict=True):
            if have != want:
                raise ParityFailed(
                    f"An {kind} of the pruned network differs from the original's",
                    where=f"{kind} {want.name!r}",
                    actual=f"{have.name!r} {have.dtype}{list(have.shape)}",
                    allowed=f"{want.name!r} {want.dtype}{list(want.shape)}",
                )
    if dict(graph.opset_imports) != dict(original.opset_imports):
        raise ParityFailed(
            "The pruned network uses other opsets than the original",
            actual=dict(graph.opset_imports),
            allowed=dict(original.opset_imports),
        )


def keep_header(graph: ir.Model, original: ir.Model) -> None:
    """Write what stands around the original's nodes over the graph's own."""
    graph.ir_version = original.ir_version
    graph.producer_name = original.producer_name or ""
    graph.producer_version = original.producer_version or ""
    graph.domain = original.domain or ""
    graph.model_version = original.model_version or 0
    graph.doc_string = original.doc_string or ""
    graph.graph.name = original.graph.name or ""
    graph.graph.doc_string = original.graph.doc_string or ""


def check(content: bytes) -> None:
    """Run the full ONNX checker, shape inference included.

    Raises:
        ParityFailed: the checker refuses; carries its reason.
    """
    try:
        with as_file_or_bytes(content) as readable:
            onnx.checker.check_model(readable, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ParityFailed("The ONNX checker refuses the pruned network", actual=str(error)) from error
