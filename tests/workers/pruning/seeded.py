"""Small networks from ONNX text, with weights drawn from a seed."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from workers.pruning.graph.load import load

# Everything that makes a gate differ from a zeroed filter: BatchNormalization shifts, a sigmoid, a concatenation, a
# depthwise and a grouped convolution, a flattening, and a residual stream that several layers produce and read.
MIXED = """
<ir_version: 8, opset_import: ["" : 17]>
mixed (float[N, 3, 8, 8] x,
       float[6, 3, 3, 3] w1, float[6] scale1, float[6] shift1, float[6] mean1, float[6] var1,
       float[4, 6, 1, 1] w2, float[4] b2, float[6, 6, 3, 3] w3, float[6] b3,
       float[10, 1, 3, 3] w4, float[10] b4, float[8, 5, 3, 3] w5, float[8] b5,
       float[6, 8, 1, 1] w6, float[6] scale6, float[6] shift6, float[6] mean6, float[6] var6,
       float[7, 24] w7, float[7] b7, float[5, 7] w8, float[5] b8)
    => (float[N, 5] y)
{
  c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1)
  n1 = BatchNormalization (c1, scale1, shift1, mean1, var1)
  stream = Relu (n1)
  c2 = Conv (stream, w2, b2)
  s2 = Sigmoid (c2)
  c3 = Conv <pads = [1, 1, 1, 1]> (stream, w3, b3)
  joined = Concat <axis = 1> (s2, c3)
  c4 = Conv <pads = [1, 1, 1, 1], group = 10> (joined, w4, b4)
  s4 = Sigmoid (c4)
  c5 = Conv <pads = [1, 1, 1, 1], group = 2> (s4, w5, b5)
  r5 = Relu (c5)
  c6 = Conv (r5, w6)
  n6 = BatchNormalization (c6, scale6, shift6, mean6, var6)
  total = Add (n6, stream)
  active = Relu (total)
  pooled = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (active)
  flat = Flatten (pooled)
  g7 = Gemm <transB = 1> (flat, w7, b7)
  r7 = Sigmoid (g7)
  y = Gemm <transB = 1> (r7, w8, b8)
}
"""

RESIDUAL = """
<ir_version: 8, opset_import: ["" : 17]>
residual (float[N, 3, 8, 8] x,
          float[8, 3, 3, 3] w1, float[8] scale1, float[8] shift1, float[8] mean1, float[8] var1,
          float[12, 8, 3, 3] w2, float[12] scale2, float[12] shift2, float[12] mean2, float[12] var2,
          float[8, 12, 3, 3] w3, float[8] scale3, float[8] shift3, float[8] mean3, float[8] var3,
          float[10, 8, 3, 3] w4, float[10] scale4, float[10] shift4, float[10] mean4, float[10] var4,
          float[8, 10, 3, 3] w5, float[8] scale5, float[8] shift5, float[8] mean5, float[8] var5,
          float[6, 8] w6, float[6] b6)
    => (float[N, 6] y)
{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
  n1 = BatchNormalization (c1, scale1, shift1, mean1, var1)
  stream1 = Relu (n1)
  c2 = Conv <pads = [1, 1, 1, 1]> (stream1, w2)
  n2 = BatchNormalization (c2, scale2, shift2, mean2, var2)
  r2 = Relu (n2)
  c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
  n3 = BatchNormalization (c3, scale3, shift3, mean3, var3)
  sum3 = Add (n3, stream1)
  stream3 = Relu (sum3)
  c4 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (stream3, w4)
  n4 = BatchNormalization (c4, scale4, shift4, mean4, var4)
  r4 = Relu (n4)
  c5 = Conv <pads = [1, 1, 1, 1]> (r4, w5)
  n5 = BatchNormalization (c5, scale5, shift5, mean5, var5)
  short = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (stream3)
  sum5 = Add (n5, short)
  stream5 = Relu (sum5)
  pooled = GlobalAveragePool (stream5)
  flat = Flatten (pooled)
  y = Gemm <transB = 1> (flat, w6, b6)
}
"""


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


def loaded(text: str, seed: int = 0) -> ir.Model:
    """The network as the engine sees an upload: checked, shapes inferred."""
    return load(ir.to_proto(seeded(text, seed)).SerializeToString())


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> np.ndarray:
    """Smooth random images: neighbouring pixels agree, as in real ones."""
    rng = np.random.default_rng([seed, 7])
    coarse = rng.normal(size=(count, shape[0], shape[1] // 2, shape[2] // 2)).repeat(2, axis=2).repeat(2, axis=3)
    return (coarse + 0.3 * rng.normal(size=(count, *shape))).astype(np.float32)


def answers(graph: ir.Model, x: np.ndarray, extra: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Outputs and the values named in `extra`, from ONNX Runtime with its graph optimisation switched off."""
    graph = graph.clone()
    values = {value.name: value for node in graph.graph for value in node.outputs}
    graph.graph.outputs.extend(values[name] for name in extra)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    return session.run(None, {graph.graph.inputs[0].name: x})
