"""Small networks as ONNX text, with seeded random weights: the examples of the whole suite.

A text names its weights with their shapes in angle brackets and says nothing about their numbers; `onnx_bytes` draws
them. Names say what they are: `*_var` is a positive variance, `*_scale` lies around one, `*_mean` and `*_b` are small,
everything else is drawn with the standard deviation 1/sqrt(fan-in).
"""

from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from workers.pruning.graph.load import load

_HEADER = '<ir_version: 8, opset_import: ["" : 17], producer_name: "tests">'

CHAIN = """
chain (float[N,3,8,8] x) => (float[N,4] y)
<float[8,3,3,3] conv1_w, float[8] conv1_b, float[12,8,3,3] conv2_w, float[12] conv2_b, float[4,12] fc_w, float[4] fc_b>
{
  [conv1] c1 = Conv <pads = [1,1,1,1]> (x, conv1_w, conv1_b)
  [relu1] r1 = Relu (c1)
  [conv2] c2 = Conv <pads = [1,1,1,1], strides = [2,2]> (r1, conv2_w, conv2_b)
  [relu2] r2 = Relu (c2)
  [pool] p = GlobalAveragePool (r2)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

CHAIN_BN = """
chain_bn (float[N,3,8,8] x) => (float[N,4] y)
<float[8,3,3,3] conv1_w, float[8] bn1_scale, float[8] bn1_b, float[8] bn1_mean, float[8] bn1_var,
 float[12,8,3,3] conv2_w, float[12] bn2_scale, float[12] bn2_b, float[12] bn2_mean, float[12] bn2_var,
 float[4,12] fc_w, float[4] fc_b>
{
  [conv1] c1 = Conv <pads = [1,1,1,1]> (x, conv1_w)
  [bn1] n1 = BatchNormalization (c1, bn1_scale, bn1_b, bn1_mean, bn1_var)
  [relu1] r1 = Relu (n1)
  [conv2] c2 = Conv <pads = [1,1,1,1]> (r1, conv2_w)
  [bn2] n2 = BatchNormalization (c2, bn2_scale, bn2_b, bn2_mean, bn2_var)
  [relu2] r2 = Relu (n2)
  [pool] p = GlobalAveragePool (r2)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

RESIDUAL = """
residual (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,3,3] stem_w, float[8] stem_scale, float[8] stem_b, float[8] stem_mean, float[8] stem_var,
 float[6,8,3,3] a1_w, float[6] a1_scale, float[6] a1_b, float[6] a1_mean, float[6] a1_var,
 float[8,6,3,3] a2_w, float[8] a2_scale, float[8] a2_b, float[8] a2_mean, float[8] a2_var,
 float[10,8,3,3] b1_w, float[10] b1_b, float[8,10,3,3] b2_w, float[8] b2_b, float[5,8] fc_w, float[5] fc_b>
{
  [stem] s0 = Conv <pads = [1,1,1,1]> (x, stem_w)
  [stem_bn] s1 = BatchNormalization (s0, stem_scale, stem_b, stem_mean, stem_var)
  [stem_relu] s = Relu (s1)
  [a1] a10 = Conv <pads = [1,1,1,1]> (s, a1_w)
  [a1_bn] a11 = BatchNormalization (a10, a1_scale, a1_b, a1_mean, a1_var)
  [a1_relu] a1 = Relu (a11)
  [a2] a20 = Conv <pads = [1,1,1,1]> (a1, a2_w)
  [a2_bn] a2 = BatchNormalization (a20, a2_scale, a2_b, a2_mean, a2_var)
  [a_add] a = Add (a2, s)
  [a_relu] ar = Relu (a)
  [b1] b10 = Conv <pads = [1,1,1,1]> (ar, b1_w, b1_b)
  [b1_relu] b1 = Relu (b10)
  [b2] b2 = Conv <pads = [1,1,1,1]> (b1, b2_w, b2_b)
  [b_add] b = Add (b2, ar)
  [b_relu] br = Relu (b)
  [pool] p = GlobalAveragePool (br)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

PADDED_SHORTCUT = """
padded_shortcut (float[N,3,8,8] x) => (float[N,5] y)
<float[4,3,3,3] stem_w, float[4] stem_b, float[8,4,3,3] a1_w, float[8] a1_b, float[8,8,3,3] a2_w, float[8] a2_b,
 float[5,8] fc_w, float[5] fc_b,
 int64[2] starts = {0, 0}, int64[2] ends = {9223372036854775807, 9223372036854775807}, int64[2] axes = {2, 3},
 int64[2] steps = {2, 2}, int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}, float zero = {0}>
{
  [stem] s0 = Conv <pads = [1,1,1,1]> (x, stem_w, stem_b)
  [stem_relu] s = Relu (s0)
  [a1] a10 = Conv <pads = [1,1,1,1], strides = [2,2]> (s, a1_w, a1_b)
  [a1_relu] a1 = Relu (a10)
  [a2] a2 = Conv <pads = [1,1,1,1]> (a1, a2_w, a2_b)
  [halve] h = Slice (s, starts, ends, axes, steps)
  [widen] w = Pad (h, pads, zero)
  [add] a = Add (a2, w)
  [relu] r = Relu (a)
  [pool] p = GlobalAveragePool (r)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

CONCAT = """
concat (float[N,3,8,8] x) => (float[N,4] y)
<float[6,3,3,3] left_w, float[6] left_b, float[5,3,1,1] right_w, float[5] right_b, float[7,11,3,3] join_w,
 float[7] join_b, float[4,18] fc_w, float[4] fc_b>
{
  [left] l0 = Conv <pads = [1,1,1,1]> (x, left_w, left_b)
  [left_relu] l = Relu (l0)
  [right] r0 = Conv (x, right_w, right_b)
  [right_relu] r = Relu (r0)
  [both] c = Concat <axis = 1> (l, r)
  [join] j0 = Conv <pads = [1,1,1,1]> (c, join_w, join_b)
  [join_relu] j = Relu (j0)
  [dense] d = Concat <axis = 1> (c, j)
  [pool] p = GlobalAveragePool (d)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

DEPTHWISE = """
depthwise (float[N,3,8,8] x) => (float[N,4] y)
<float[6,3,3,3] stem_w, float[6] stem_b, float[12,6,1,1] expand_w, float[12] expand_b, float[12,1,3,3] depth_w,
 float[12] depth_scale, float[12] depth_b, float[12] depth_mean, float[12] depth_var, float[6,12,1,1] project_w,
 float[6] project_b, float[4,6] fc_w, float[4] fc_b, float low = {0}, float high = {6}>
{
  [stem] s = Conv <pads = [1,1,1,1]> (x, stem_w, stem_b)
  [expand] e0 = Conv (s, expand_w, expand_b)
  [expand_clip] e = Clip (e0, low, high)
  [depth] d0 = Conv <group = 12, pads = [1,1,1,1]> (e, depth_w)
  [depth_bn] d1 = BatchNormalization (d0, depth_scale, depth_b, depth_mean, depth_var)
  [depth_clip] d = Clip (d1, low, high)
  [project] p0 = Conv (d, project_w, project_b)
  [add] a = Add (p0, s)
  [pool] p = GlobalAveragePool (a)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

GROUPED = """
grouped (float[N,3,8,8] x) => (float[N,4] y)
<float[8,3,3,3] stem_w, float[8] stem_b, float[12,4,3,3] group_w, float[12] group_b, float[6,12,1,1] mix_w,
 float[6] mix_b, float[4,6] fc_w, float[4] fc_b>
{
  [stem] s0 = Conv <pads = [1,1,1,1]> (x, stem_w, stem_b)
  [stem_relu] s = Relu (s0)
  [group] g0 = Conv <group = 2, pads = [1,1,1,1]> (s, group_w, group_b)
  [group_relu] g = Relu (g0)
  [mix] m0 = Conv (g, mix_w, mix_b)
  [mix_relu] m = Relu (m0)
  [pool] p = GlobalAveragePool (m)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

FLATTEN = """
flatten (float[N,3,8,8] x) => (float[N,4] y)
<float[6,3,3,3] conv_w, float[6] conv_b, float[10,96] fc1_w, float[10] fc1_b, float[4,10] fc2_w, float[4] fc2_b>
{
  [conv] c = Conv <pads = [1,1,1,1]> (x, conv_w, conv_b)
  [relu] r = Relu (c)
  [pool] p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
  [flat] f = Flatten (p)
  [fc1] h0 = Gemm <transB = 1> (f, fc1_w, fc1_b)
  [relu1] h = Relu (h0)
  [fc2] y = Gemm <transB = 1> (h, fc2_w, fc2_b)
}
"""

UNET = """
unet (float[N,1,8,8] x) => (float[N,2,8,8] y)
<float[6,1,3,3] down1_w, float[6] down1_b, float[8,6,3,3] down2_w, float[8] down2_b, float[8,8,3,3] bottom_w,
 float[8] bottom_b, float[8,5,2,2] up_w, float[5] up_b, float[6,11,3,3] join_w, float[6] join_b, float[2,6,1,1] out_w,
 float[2] out_b>
{
  [down1] a0 = Conv <pads = [1,1,1,1]> (x, down1_w, down1_b)
  [relu1] a = Relu (a0)
  [pool] p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
  [down2] b0 = Conv <pads = [1,1,1,1]> (p, down2_w, down2_b)
  [relu2] b = Relu (b0)
  [bottom] c0 = Conv <pads = [1,1,1,1]> (b, bottom_w, bottom_b)
  [relu3] c = Relu (c0)
  [up] u0 = ConvTranspose <strides = [2,2]> (c, up_w, up_b)
  [relu4] u = Relu (u0)
  [both] j0 = Concat <axis = 1> (u, a)
  [join] j1 = Conv <pads = [1,1,1,1]> (j0, join_w, join_b)
  [relu5] j = Relu (j1)
  [out] y = Conv (j, out_w, out_b)
}
"""

SQUEEZE_EXCITE = """
squeeze_excite (float[N,3,8,8] x) => (float[N,4] y)
<float[8,3,3,3] conv_w, float[8] conv_b, float[4,8,1,1] squeeze_w, float[4] squeeze_b, float[8,4,1,1] excite_w,
 float[8] excite_b, float[4,8] fc_w, float[4] fc_b>
{
  [conv] c0 = Conv <pads = [1,1,1,1]> (x, conv_w, conv_b)
  [act] c = HardSwish (c0)
  [pool] q0 = GlobalAveragePool (c)
  [squeeze] q1 = Conv (q0, squeeze_w, squeeze_b)
  [squeeze_relu] q = Relu (q1)
  [excite] e0 = Conv (q, excite_w, excite_b)
  [gate] e = Sigmoid (e0)
  [scale] s = Mul (c, e)
  [pool2] p = GlobalAveragePool (s)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

ATTENTION = """
attention (float[N,6,16] x) => (float[N,6,16] y)
<float[16] norm_scale, float[16] norm_b, float[16,16] q_w, float[16] q_b, float[16,16] k_w, float[16] k_b,
 float[16,16] v_w, float[16] v_b, float[16,16] out_w, float[16] out_b, float[16] norm2_scale, float[16] norm2_b,
 float[16,32] up_w, float[32] up_b, float[32,16] down_w, float[16] down_b,
 int64[4] heads1 = {0, 6, 4, 4}, int64[4] heads2 = {0, 6, 4, 4}, int64[4] heads3 = {0, 6, 4, 4},
 int64[3] merged = {0, 6, 16}, float root = {0.5}>
{
  [norm1] n = LayerNormalization (x, norm_scale, norm_b)
  [q_mul] q0 = MatMul (n, q_w)
  [q_add] q1 = Add (q0, q_b)
  [q_split] q2 = Reshape (q1, heads1)
  [q_turn] q = Transpose <perm = [0,2,1,3]> (q2)
  [k_mul] k0 = MatMul (n, k_w)
  [k_add] k1 = Add (k0, k_b)
  [k_split] k2 = Reshape (k1, heads2)
  [k_turn] k = Transpose <perm = [0,2,3,1]> (k2)
  [v_mul] v0 = MatMul (n, v_w)
  [v_add] v1 = Add (v0, v_b)
  [v_split] v2 = Reshape (v1, heads3)
  [v_turn] v = Transpose <perm = [0,2,1,3]> (v2)
  [scores] s0 = MatMul (q, k)
  [scaled] s1 = Mul (s0, root)
  [soft] s = Softmax <axis = -1> (s1)
  [mix] m0 = MatMul (s, v)
  [m_turn] m1 = Transpose <perm = [0,2,1,3]> (m0)
  [m_join] m = Reshape (m1, merged)
  [out_mul] o0 = MatMul (m, out_w)
  [out_add] o = Add (o0, out_b)
  [add1] h = Add (x, o)
  [norm2] h1 = LayerNormalization (h, norm2_scale, norm2_b)
  [up_mul] u0 = MatMul (h1, up_w)
  [up_add] u1 = Add (u0, up_b)
  [erf_in] g0 = Sigmoid (u1)
  [gate] u = Mul (u1, g0)
  [down_mul] d0 = MatMul (u, down_w)
  [down_add] d = Add (d0, down_b)
  [add2] y = Add (h, d)
}
"""

SHUFFLE = """
shuffle (float[N,3,8,8] x) => (float[N,4] y)
<float[8,3,3,3] stem_w, float[8] stem_b, float[4,4,1,1] right1_w, float[4] right1_b, float[4,1,3,3] right2_w,
 float[4] right2_b, float[4,8] fc_w, float[4] fc_b, int64[2] halves = {4, 4}, int64[5] five = {0, 2, 4, 8, 8},
 int64[4] four = {0, 8, 8, 8}>
{
  [stem] s0 = Conv <pads = [1,1,1,1]> (x, stem_w, stem_b)
  [stem_relu] s = Relu (s0)
  [split] l, r = Split <axis = 1> (s, halves)
  [right1] r0 = Conv (r, right1_w, right1_b)
  [right1_relu] r1 = Relu (r0)
  [right2] r2 = Conv <group = 4, pads = [1,1,1,1]> (r1, right2_w, right2_b)
  [both] c = Concat <axis = 1> (l, r2)
  [open] o = Reshape (c, five)
  [turn] t = Transpose <perm = [0,2,1,3,4]> (o)
  [close] d = Reshape (t, four)
  [pool] p = GlobalAveragePool (d)
  [flat] f = Flatten (p)
  [fc] y = Gemm <transB = 1> (f, fc_w, fc_b)
}
"""

NETWORKS = {
    "chain": CHAIN,
    "chain_bn": CHAIN_BN,
    "residual": RESIDUAL,
    "padded_shortcut": PADDED_SHORTCUT,
    "concat": CONCAT,
    "depthwise": DEPTHWISE,
    "grouped": GROUPED,
    "flatten": FLATTEN,
    "unet": UNET,
    "squeeze_excite": SQUEEZE_EXCITE,
    "attention": ATTENTION,
    "shuffle": SHUFFLE,
}


def proto(text: str, *, seed: int = 0, header: str = _HEADER) -> onnx.ModelProto:
    """The network that `text` describes, with weights drawn from `seed`."""
    model = onnx.parser.parse_model(header + text)
    random = np.random.default_rng(seed)
    produced = {name for node in model.graph.node for name in node.output}
    declared = [value for value in model.graph.value_info if value.name not in produced]
    for value in declared:
        shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        model.graph.initializer.append(onnx.numpy_helper.from_array(_draw(value.name, shape, random), value.name))
        model.graph.value_info.remove(value)
    return model


def onnx_bytes(name_or_text: str, *, seed: int = 0, header: str = _HEADER) -> bytes:
    """A network of `NETWORKS`, or of a text, as the bytes of an ONNX file."""
    text = NETWORKS.get(name_or_text, name_or_text)
    return proto(text, seed=seed, header=header).SerializeToString(deterministic=True)


def graph(name_or_text: str, *, seed: int = 0, header: str = _HEADER) -> ir.Model:
    """A network of `NETWORKS`, or of a text, as the engine loads it."""
    return load(onnx_bytes(name_or_text, seed=seed, header=header))


def inputs(network: ir.Model, *, batch: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Standard normal inputs for a graph; symbolic axes get the length `batch`."""
    random = np.random.default_rng([seed, 1])
    return [
        random.standard_normal([axis if isinstance(axis, int) else batch for axis in value.shape]).astype(np.float32)
        for value in network.graph.inputs
        if value.shape is not None
    ]


def _draw(name: str, shape: list[int], random: np.random.Generator) -> np.ndarray:
    if name.endswith("_var"):
        numbers = random.uniform(0.5, 1.5, shape)
    elif name.endswith("_scale"):
        numbers = random.uniform(0.7, 1.3, shape)
    elif name.endswith(("_mean", "_b")):
        numbers = 0.1 * random.standard_normal(shape)
    else:
        fan_in = prod(shape[1:]) if len(shape) != 2 else shape[1]
        numbers = random.standard_normal(shape) / np.sqrt(max(fan_in, 1))
    return numbers.astype(np.float32)
