"""One operator as a graph, run by ONNX Runtime without optimisation and by the engine's executor."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from workers.pruning.graph.execute import GraphModule
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes

onnxruntime.set_default_logger_severity(4)
Array = np.ndarray


def network(
    op_type: str,
    inputs: Sequence[Array | None],
    attributes: dict[str, object] | None = None,
    *,
    constants: Sequence[int] = (),
    opset: int = 17,
    num_outputs: int = 1,
) -> bytes:
    """A graph of one node; the inputs numbered in `constants` are initializers, the others are fed."""
    values = [None if array is None else _value(f"in{index}", array) for index, array in enumerate(inputs)]
    node = ir.node(op_type, values, attributes, num_outputs=num_outputs, name="node")
    for index, output in enumerate(node.outputs):
        output.name = f"out{index}"
    fed = [value for index, value in enumerate(values) if value is not None and index not in constants]
    held = []
    for index in constants:
        value = values[index]
        assert value is not None
        value.const_value = ir.tensor(inputs[index], name=value.name)
        held.append(value)
    graph = ir.Graph(fed, node.outputs, nodes=[node], initializers=held, name="single", opset_imports={"": opset})
    return to_bytes(_typed(ir.Model(graph, ir_version=8 if opset < 21 else 10)))


def run_reference(content: bytes, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of ONNX Runtime with graph optimisation disabled, one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def run_engine(content: bytes, feeds: dict[str, Array]) -> list[Array]:
    """Outputs of the executor on the loaded graph in evaluation mode."""
    graph = load(content)
    module = GraphModule(graph).eval()
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(feeds[value.name]) for value in graph.graph.inputs))
    return [output.numpy() for output in outputs]


def assert_agrees(
    op_type: str,
    inputs: Sequence[Array | None],
    attributes: dict[str, object] | None = None,
    *,
    constants: Sequence[int] = (),
    opset: int = 17,
    num_outputs: int = 1,
    tolerance: float = 1e-4,
) -> None:
    """Both give the same shapes, types and numbers, within `tolerance` of the largest."""
    content = network(op_type, inputs, attributes, constants=constants, opset=opset, num_outputs=num_outputs)
    feeds = {f"in{i}": array for i, array in enumerate(inputs) if array is not None and i not in constants}
    expected, actual = run_reference(content, feeds), run_engine(content, feeds)

    assert [array.shape for array in actual] == [array.shape for array in expected]
    for one, other in zip(expected, actual, strict=True):
        assert one.dtype == other.dtype
        finite = np.abs(one[np.isfinite(one)]) if one.dtype.kind == "f" else np.abs(one.astype(np.float64))
        largest = float(finite.max()) if finite.size else 1.0
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=tolerance * max(largest, 1e-3))


def normal(shape: Sequence[int], seed: int = 0) -> Array:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32)


def integers(*entries: int) -> Array:
    """A list of int64."""
    return np.asarray(entries, np.int64)


def _value(name: str, array: Array) -> ir.Value:
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype))


def _typed(model: ir.Model) -> ir.Model:
    """Types and ranks of the outputs, which a file has to state, from shape inference."""
    import onnx

    proto = ir.to_proto(model)
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    for output in inferred.graph.output:
        if not output.type.tensor_type.HasField(
            "shape"
        ):  # operators that are functions: the output is like the first input
            output.type.CopyFrom(inferred.graph.input[0].type)
    return ir.from_proto(inferred)
