"""Small networks from ONNX text, with weights drawn from a seed."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort


def seeded(text: str, seed: int = 0) -> ir.Model:
    """Parse `text`; inputs after the first become initializers, nodes are named after their first output.

    Matrices and filters are drawn with the deviation of He initialisation, vectors from N(0, 0.3), and vectors that the
    text calls `var...` or `scale...` from U(0.5, 1.5), so that BatchNormalization is never degenerate.
    """
    graph = ir.from_onnx_text(text)
    rng = np.random.default_rng(seed)
    for value in list(graph.graph.inputs)[1:]:
        shape = value.shape.numpy()
        if value.name.startswith(("var", "scale")):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            array = rng.normal(0.0, 0.3, shape)
        else:
            array = rng.normal(0.0, np.sqrt(2 / max(1, np.prod(shape[1:]))), shape)
        graph.graph.inputs.remove(value)
        value.const_value = ir.tensor(array.astype(np.float32), name=value.name)
        graph.graph.register_initializer(value)
    for node in graph.graph:
        node.name = node.outputs[0].name
    return graph


def answers(graph: ir.Model, x: np.ndarray, extra: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Outputs and the values named in `extra`, from ONNX Runtime with its graph optimisation switched off."""
    graph = graph.clone()
    values = {value.name: value for node in graph.graph for value in node.outputs}
    graph.graph.outputs.extend(values[name] for name in extra)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    return session.run(None, {graph.graph.inputs[0].name: x})
