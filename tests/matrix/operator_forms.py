"""The operators that have to work, word by word, each across and along the axis that is pruned."""

import numpy as np
import onnx_ir as ir

from tests.matrix.operator_graphs import FRONT, HALF, SIDE, Body, Form, Sketch, one

MIXING = 0  # units of a layer whose channels are all computed with: none may go
ALL_OPSETS = tuple(range(7, 26))


def _conv(axes: int, outputs: int = FRONT, kernel: int = 3, **attributes: object) -> Body:
    """A convolution behind `front`; `group` and the like as attributes."""

    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image(axes)
        per_group = FRONT // int(attributes.get("group", 1))
        weight = g.drawn(outputs, per_group, *[kernel] * axes)
        return g.node("Conv", source, weight, g.drawn(outputs), pads=[kernel // 2] * 2 * axes, **attributes), outputs

    return body


def _transposed(axes: int, group: int = 1) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        weight = g.drawn(FRONT, 6 // group, *[2] * axes)
        return g.node("ConvTranspose", g.image(axes), weight, g.drawn(6), strides=[2] * axes, group=group), 6

    return body


def _gemm(*, swap_a: bool = False, swap_b: bool = False, bias: str = "vector", **attributes: object) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.features()
        source = g.node("Transpose", source, perm=[1, 0]) if swap_a else source
        weight = g.drawn(6, FRONT) if swap_b else g.drawn(FRONT, 6)
        added = {"vector": (6,), "row": (1, 6), "number": (1,)}.get(bias)
        inputs = [source, weight, *([g.drawn(*added)] if added else [])]
        return g.node("Gemm", *inputs, transA=int(swap_a), transB=int(swap_b), **attributes), 6

    return body


def _weight_left(g: Sketch) -> tuple[ir.Value, int]:
    columns = g.node("Transpose", g.words(), perm=[0, 2, 1])
    return g.node("Transpose", g.node("MatMul", g.drawn(7, FRONT), columns), perm=[0, 2, 1]), 7


def _weight_per_head(g: Sketch) -> tuple[ir.Value, int]:
    heads = g.node("Transpose", g.node("Reshape", g.words(), g.ints(0, 6, 3, 4)), perm=[0, 2, 1, 3])
    mixed = g.node("Transpose", g.node("MatMul", heads, g.drawn(3, 4, 5)), perm=[0, 2, 1, 3])
    return g.node("Reshape", mixed, g.ints(0, 6, 15)), 15


def _batch_norm(axes: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image(axes) if axes else g.features()
        scale, spread = g.drawn(FRONT, positive=True), g.drawn(FRONT, positive=True)
        return g.node("BatchNormalization", source, scale, g.drawn(FRONT), g.drawn(FRONT), spread), FRONT

    return body


def _layer_norm(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("LayerNormalization", g.words(), g.drawn(FRONT, positive=True), g.drawn(FRONT), axis=-1), FRONT


def _layer_norm_along(g: Sketch) -> tuple[ir.Value, int]:
    places = g.node("Transpose", g.words(), perm=[0, 2, 1])
    made = g.node("LayerNormalization", places, g.drawn(6, positive=True), g.drawn(6), axis=-1)
    return g.node("Transpose", made, perm=[0, 2, 1]), FRONT


def _layer_norm_in_parts(axis: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.words()
        centred = g.node("Sub", source, g.node("ReduceMean", source, axes=[axis]))
        spread = g.node("ReduceMean", g.node("Pow", centred, g.scalar(2.0)), axes=[axis])
        made = g.node("Div", centred, g.node("Sqrt", g.node("Add", spread, g.scalar(1e-5))))
        return g.node("Add", g.node("Mul", made, g.drawn(FRONT, positive=True)), g.drawn(FRONT)), FRONT

    return body


def _rms_norm_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    source = g.words()
    square = g.node("ReduceMean", g.node("Mul", source, source), axes=[-1])
    scale = g.node("Reciprocal", g.node("Sqrt", g.node("Add", square, g.scalar(1e-6))))
    return g.node("Mul", g.node("Mul", source, scale), g.drawn(FRONT, positive=True)), FRONT


def _rms_norm(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("RMSNormalization", g.words(), g.drawn(FRONT, positive=True), axis=-1), FRONT


def _group_norm(g: Sketch) -> tuple[ir.Value, int]:
    scale = g.drawn(FRONT, positive=True)
    return g.node("GroupNormalization", g.image(), scale, g.drawn(FRONT), num_groups=3), FRONT


def _group_norm_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    groups = g.node("Reshape", g.image(), g.ints(0, 3, -1))
    made = g.node("InstanceNormalization", groups, g.held(np.ones(3, np.float32)), g.held(np.zeros(3, np.float32)))
    image = g.node("Reshape", made, g.ints(0, FRONT, SIDE, SIDE))
    scaled = g.node("Mul", image, g.drawn(FRONT, 1, 1, positive=True))
    return g.node("Add", scaled, g.drawn(FRONT, 1, 1)), FRONT


def _instance_norm(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("InstanceNormalization", g.image(), g.drawn(FRONT, positive=True), g.drawn(FRONT)), FRONT


def _prelu(*shape: int) -> Body:
    return lambda g: (g.node("PRelu", g.image(), g.drawn(*shape)), FRONT)


def _hard_swish_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    low, high = g.scalar(0.0), g.scalar(6.0)
    gate = g.node("Div", g.node("Clip", g.node("Add", source, g.scalar(3.0)), low, high), g.scalar(6.0))
    return g.node("Mul", source, gate), FRONT


def _hard_sigmoid_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    shifted = g.node("Add", g.image(), g.scalar(3.0))
    return g.node("Div", g.node("Clip", shifted, g.scalar(0.0), g.scalar(6.0)), g.scalar(6.0)), FRONT


def _gelu_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    inner = g.node("Erf", g.node("Div", source, g.scalar(1.4142135)))
    wide = g.node("Mul", source, g.node("Add", inner, g.scalar(1.0)))
    return g.node("Mul", wide, g.scalar(0.5)), FRONT


def _gelu_by_tanh(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    cube = g.node("Mul", g.node("Pow", source, g.scalar(3.0)), g.scalar(0.044715))
    inner = g.node("Tanh", g.node("Mul", g.node("Add", source, cube), g.scalar(0.7978845)))
    wide = g.node("Mul", source, g.node("Add", inner, g.scalar(1.0)))
    return g.node("Mul", wide, g.scalar(0.5)), FRONT


def _mish_in_parts(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    return g.node("Mul", source, g.node("Tanh", g.node("Softplus", source))), FRONT


def _concat(axis: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        return g.node("Concat", g.image(), g.other(), axis=axis), FRONT * (2 if axis == 1 else 1)

    return body


def _split(axis: int, *, sizes: tuple[int, ...] | None = None) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image()
        if sizes is None:
            g.node("Split", source, num_outputs=2, axis=axis)
        elif g.opset < 13:
            g.node("Split", source, num_outputs=len(sizes), axis=axis, split=list(sizes))
        else:
            g.node("Split", source, g.ints(*sizes), num_outputs=len(sizes), axis=axis)
        parts = list(g.outputs())
        return g.node("Concat", *reversed(parts), axis=axis), FRONT

    return body


def _slice(axis: int, start: int, stop: int, step: int = 1) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image()
        count = len(range(*slice(start, stop, step).indices(FRONT if axis == 1 else SIDE)))
        if g.opset < 10:
            made = g.node("Slice", source, starts=[start], ends=[stop], axes=[axis])
        else:
            made = g.node("Slice", source, *(g.ints(entry) for entry in (start, stop, axis, step)))
        return made, count if axis == 1 else FRONT

    return body


def _gather(axis: int, *positions: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        made = g.node("Gather", g.image(), g.ints(*positions), axis=axis)
        return made, len(positions) if axis == 1 else FRONT

    return body


def _pad(*pads: int, mode: str = "constant") -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image()
        old = g.opset < 11
        made = (
            g.node("Pad", source, pads=list(pads), mode=mode)
            if old
            else g.node("Pad", source, g.ints(*pads), mode=mode)
        )
        return made, FRONT + pads[1] + pads[5]

    return body


def _resize(*, sizes: bool = False, mode: str = "nearest") -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.image()
        if sizes:
            return g.node("Resize", source, None, None, g.ints(1, FRONT, 16, 16), mode=mode), FRONT
        scales = g.held(np.asarray([1, 1, 2, 2], np.float32))
        whole = g.held(np.zeros(0, np.float32))  # a region of interest had to be given, and might be empty
        first = {10: [], 11: [whole]}.get(g.opset, [None])
        return g.node("Resize", source, *first, scales, mode=mode), FRONT

    return body


def _resize_across(g: Sketch) -> tuple[ir.Value, int]:
    """Twice as many channels, each beside a copy of itself."""
    scales = g.held(np.asarray([1, 2, 1, 1], np.float32))
    return g.node("Resize", g.image(), None, scales, mode="nearest"), 2 * FRONT


def _upsample(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    if g.opset < 9:
        return g.node("Upsample", source, scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"), FRONT
    return g.node("Upsample", source, g.held(np.asarray([1, 1, 2, 2], np.float32)), mode="nearest"), FRONT


def _depth_to_space(mode: str) -> Body:
    return lambda g: (g.node("DepthToSpace", g.image(), blocksize=2, mode=mode), FRONT // 4)


def _space_to_depth(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("SpaceToDepth", g.image(), blocksize=2), 4 * FRONT


def _shuffle(g: Sketch) -> tuple[ir.Value, int]:
    parts = g.node("Reshape", g.image(), g.ints(0, 3, 4, SIDE, SIDE))
    return g.node("Reshape", g.node("Transpose", parts, perm=[0, 2, 1, 3, 4]), g.ints(0, FRONT, SIDE, SIDE)), FRONT


def _many(op_type: str) -> Body:
    return lambda g: (g.node(op_type, g.image(), g.other(), g.other(), g.other()), FRONT)


def _two(op_type: str, *shape: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        left = g.image()
        right = g.drawn(*shape, positive=True) if shape else g.other()
        return g.node(op_type, left, right), FRONT

    return body


def _power(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("Pow", g.node("Abs", g.image()), g.drawn(FRONT, 1, 1, positive=True)), FRONT


def _reduce(op_type: str, axis: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        source = g.node("Add", g.node("Abs", g.image()), g.scalar(0.5))
        listed = g.opset >= 18 or (op_type == "ReduceSum" and g.opset >= 13)
        made = g.node(op_type, source, g.ints(axis)) if listed else g.node(op_type, source, axes=[axis])
        return (made, FRONT) if axis != 1 else (g.node("Mul", source, made), FRONT)

    return body


def _einsum_weight(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("Einsum", g.words(), g.drawn(FRONT, 7), equation="nlc,cd->nld"), 7


def _einsum_image(g: Sketch) -> tuple[ir.Value, int]:
    return g.node("Einsum", g.image(), g.drawn(6, FRONT), equation="nchw,oc->nohw"), 6


def _einsum_pair(g: Sketch) -> tuple[ir.Value, int]:
    words = g.words()
    scores = g.node("Softmax", g.node("Einsum", words, words, equation="nic,njc->nij"), axis=-1)
    return g.node("MatMul", scores, words), FRONT


def _where(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    return g.node("Where", g.node("Greater", source, g.scalar(0.0)), source, g.other()), FRONT


def _where_mask(g: Sketch) -> tuple[ir.Value, int]:
    mask = g.held((np.arange(SIDE * SIDE) % 3 == 0).reshape(1, 1, SIDE, SIDE))
    return g.node("Where", mask, g.image(), g.scalar(-1.0)), FRONT


def _expand(*, channels: bool) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        pooled = g.node("GlobalAveragePool", g.image())
        spread = g.node("Expand", pooled, g.ints(1, FRONT if channels else 1, SIDE, SIDE))
        return g.node("Concat", spread, g.other(), axis=1), 2 * FRONT

    return body


def _tile(axis: int) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        counts = [1, 1, 1, 1]
        counts[axis] = 2
        return g.node("Tile", g.image(), g.ints(*counts)), FRONT * counts[1]

    return body


def _legacy_flatten(g: Sketch) -> tuple[ir.Value, int]:
    source = g.node("GlobalAveragePool", g.image())
    batch = g.node("Gather", g.node("Shape", source), g.held(np.asarray(0, np.int64)), axis=0)
    parts = [g.node("Unsqueeze", batch, axes=[0]), g.ints(-1)]
    return g.node("Reshape", source, g.node("Concat", *parts, axis=0)), FRONT


def _legacy_view(g: Sketch) -> tuple[ir.Value, int]:
    source = g.image()
    lengths = [g.node("Gather", g.node("Shape", source), g.held(np.asarray(i, np.int64)), axis=0) for i in (0, 1)]
    per_group = g.node("Div", lengths[1], g.held(np.asarray(3, np.int64)))
    whole = [g.node("Unsqueeze", length, axes=[0]) for length in (lengths[0], per_group)]
    five = g.node("Concat", whole[0], g.ints(3), whole[1], g.ints(SIDE, SIDE), axis=0)
    turned = g.node("Transpose", g.node("Reshape", source, five), perm=[0, 2, 1, 3, 4])
    return g.node("Reshape", turned, g.node("Concat", whole[0], g.ints(-1, SIDE, SIDE), axis=0)), FRONT


def _zeros(g: Sketch) -> tuple[ir.Value, int]:
    """Zeros as large as the activation, made at run time, as legacy exports write `torch.zeros_like`."""
    source = g.image()
    zeros = g.node("ConstantOfShape", g.node("Shape", source), value=ir.tensor(np.zeros(1, np.float32)))
    return g.node("Concat", source, zeros, axis=1), 2 * FRONT


def _size(g: Sketch) -> tuple[ir.Value, int]:
    """Divided by the number of elements, as a mean over everything is written."""
    source = g.image()
    count = g.node("Cast", g.node("Size", source), to=1)
    return g.node("Div", source, count), FRONT


def _zero_weight(g: Sketch) -> tuple[ir.Value, int]:
    """A bias that a file writes as ConstantOfShape and a scale that it writes as a chain of nodes."""
    bias = g.node("ConstantOfShape", g.ints(6), value=ir.tensor(np.full(1, 0.25, np.float32)))
    kernel = g.node("Mul", g.drawn(6, FRONT, 3, 3), g.node("Expand", g.scalar(2.0), g.ints(6, 1, 1, 1)))
    return g.node("Conv", g.image(), kernel, bias, pads=[1] * 4), 6


def _quantised(g: Sketch) -> tuple[ir.Value, int]:
    source, scale, zero = g.image(), g.held(np.float32(0.05)), g.held(np.int8(0))
    codes = g.node("QuantizeLinear", source, scale, zero)
    return g.node("DequantizeLinear", codes, scale, zero), FRONT


def _quantised_weight(g: Sketch) -> tuple[ir.Value, int]:
    codes = g.held(g.random.integers(-99, 99, (6, FRONT, 3, 3)).astype(np.int8))
    scale = g.held(np.full(6, 0.01, np.float32))
    kernel = g.node("DequantizeLinear", codes, scale, g.held(np.zeros(6, np.int8)), axis=0)
    return g.node("Conv", g.image(), kernel, pads=[1] * 4), 6


def _alias(kind: str) -> Body:
    """A weight behind an Identity, or in a Constant node."""

    def body(g: Sketch) -> tuple[ir.Value, int]:
        kernel = g.drawn(6, FRONT, 3, 3)
        if kind == "Identity":
            kernel = g.node("Identity", kernel)
        else:
            kernel = g.node("Constant", value=ir.tensor(kernel.const_value.numpy()))
            g.weights.pop()
        return g.node("Conv", g.image(), kernel, pads=[1] * 4), 6

    return body


def _channels_last(g: Sketch) -> tuple[ir.Value, int]:
    """As tf2onnx writes a network whose tensors have channels last: Transposes, biases added there, padded by hand."""
    image = g.node("Transpose", g.feed("N", SIDE, SIDE, 3), perm=[0, 3, 1, 2])
    made = g.node("Conv", image, g.drawn(FRONT, 3, 3, 3), name="front", pads=[1] * 4)
    last = g.node("Relu", g.node("Add", g.node("Transpose", made, perm=[0, 2, 3, 1]), g.drawn(FRONT)))
    pooled = g.node("Reshape", g.node("ReduceMean", last, axes=[1, 2], keepdims=0), g.ints(-1, 1, 1, FRONT))
    last = g.node("Mul", last, g.node("Sigmoid", g.node("MatMul", pooled, g.drawn(FRONT, FRONT))))
    padded = g.node("Pad", last, g.ints(0, 0, 0, 0, 0, 1, 1, 0))
    return g.node("Transpose", padded, perm=[0, 3, 1, 2]), FRONT


def _reshaped(*shape: int, axis: int = -1, channels: int) -> Body:
    return lambda g: (g.node("Reshape", g.image(), g.ints(*shape)), channels)


def _top(g: Sketch) -> tuple[ir.Value, int]:
    g.node("TopK", g.image(), g.ints(FRONT), num_outputs=2, axis=1)
    return g.outputs()[0], FRONT


def _recurrent(op_type: str) -> Body:
    def body(g: Sketch) -> tuple[ir.Value, int]:
        steps = g.node("Transpose", g.words(), perm=[1, 0, 2])
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
        extra = {"linear_before_reset": 1} if op_type == "GRU" else {}
        weights = (g.drawn(1, 6 * gates, FRONT), g.drawn(1, 6 * gates, 6), g.drawn(1, 12 * gates))
        made = g.node(op_type, steps, *weights, hidden_size=6, **extra)
        return g.node("Transpose", g.node("Squeeze", made, g.ints(1)), perm=[1, 0, 2]), 6

    return body


_POINTWISE = (
    "Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Neg", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh",
    "ThresholdedRelu", "Dropout",
)  # fmt: skip
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_OVER_WHAT_STAYS = frozenset({"L1", "L2", "Mean", "Sum", "SumSquare"})  # channels that go are missing from these

FORMS: dict[str, Form] = {
    "conv 1-D": Form(body=_conv(1), axes=1),
    "conv 2-D": Form(body=_conv(2), opsets=ALL_OPSETS),
    "conv 3-D": Form(body=_conv(3), axes=3),
    "conv dilated, padded by name": Form(body=_conv(2, dilations=[2, 2])),
    "conv of 3 groups": Form(body=_conv(2, group=3), units=4),
    "conv of 3 groups, 1-D": Form(body=_conv(1, group=3), axes=1, units=4),
    "conv depthwise": Form(body=_conv(2, group=FRONT)),
    "conv depthwise, 3-D": Form(body=_conv(3, group=FRONT), axes=3),
    "conv depthwise, multiplier 2": Form(body=_conv(2, 2 * FRONT, group=FRONT)),
    "conv transposed, 1-D": Form(body=_transposed(1), axes=1),
    "conv transposed, 2-D": Form(body=_transposed(2), opsets=(7, 11, 17, 22)),
    "conv transposed, 3-D": Form(body=_transposed(3), axes=3),
    "conv transposed, 3 groups": Form(body=_transposed(2, 3), units=4),
    **{
        f"gemm {a}{b} bias {bias}": Form(
            body=_gemm(swap_a=a == "T", swap_b=b == "T", bias=bias),
            axes=-2,
            opsets=(7, 11, 17) if bias != "none" else (17,),
        )
        for a in "NT"
        for b in "NT"
        for bias in ("vector", "row", "number", "none")
    },
    "gemm alpha beta": Form(body=_gemm(alpha=0.5, beta=2.0), axes=-2),
    "matmul, weight right": Form(body=lambda g: (g.node("MatMul", g.words(), g.drawn(FRONT, 7)), 7), axes=-3),
    "matmul, weight left": Form(body=_weight_left, axes=-3),
    "matmul, a weight per head": Form(body=_weight_per_head, axes=-3, units=4),
    "batch norm of images": Form(body=_batch_norm(2), opsets=ALL_OPSETS),
    "batch norm of sequences": Form(body=_batch_norm(1), axes=1, opsets=(7, 9, 14, 15)),
    "batch norm of features": Form(body=_batch_norm(0), axes=-2, opsets=(7, 9, 14, 15)),
    "layer norm across": Form(body=_layer_norm, axes=-3),
    "layer norm in parts across": Form(body=_layer_norm_in_parts(-1), axes=-3),
    "rms norm": Form(body=_rms_norm, axes=-3, opsets=(23,)),
    "rms norm in parts": Form(body=_rms_norm_in_parts, axes=-3),
    "layer norm along": Form(body=_layer_norm_along, axes=-3),
    "layer norm in parts along": Form(body=_layer_norm_in_parts(1), axes=-3),
    "group norm": Form(body=_group_norm, opsets=(21,), units=3),
    "group norm in parts": Form(body=_group_norm_in_parts, units=3),
    "instance norm": Form(body=_instance_norm, opsets=(7, 17)),
    "lp norm across": Form(body=one("LpNormalization", axis=1)),
    "lp norm along": Form(body=one("LpNormalization", axis=2)),
    "local response": Form(body=one("LRN", size=3), units=MIXING, named="LRN"),
    "prelu per channel": Form(body=_prelu(FRONT, 1, 1), opsets=(7, 9, 16)),
    "prelu, one slope": Form(body=_prelu(1)),
    **{name.lower(): Form(body=one(name)) for name in _POINTWISE},
    "gelu": Form(body=one("Gelu"), opsets=(20,)),
    "gelu by tanh": Form(body=one("Gelu", approximate="tanh"), opsets=(20,)),
    "mish": Form(body=one("Mish"), opsets=(18,)),
    "swish": Form(body=one("Swish"), opsets=(24,)),
    "gelu in parts": Form(body=_gelu_in_parts),
    "gelu by tanh in parts": Form(body=_gelu_by_tanh),
    "mish in parts": Form(body=_mish_in_parts),
    "hard sigmoid in parts": Form(body=_hard_sigmoid_in_parts),
    "hard swish in parts": Form(body=_hard_swish_in_parts),
    "clip by attributes": Form(body=one("Clip", min=0.0, max=6.0), opsets=(7, 10)),
    "clip by inputs": Form(
        body=lambda g: (g.node("Clip", g.image(), g.scalar(0.0), g.scalar(6.0)), FRONT), opsets=(11, 13)
    ),
    "clip below only": Form(body=lambda g: (g.node("Clip", g.image(), None, g.scalar(0.5)), FRONT)),
    "concat across": Form(body=_concat(1), opsets=(7, 13)),
    "concat along": Form(body=_concat(2)),
    "split across": Form(body=_split(1, sizes=(5, 7)), opsets=(7, 13)),
    "split across, equal": Form(body=_split(1), opsets=(13,)),
    "split along": Form(body=_split(2, sizes=(3, 5)), opsets=(11, 13)),
    "slice across": Form(body=_slice(1, 2, 9), units=7, opsets=(9, 10, 13)),
    "slice across from the end": Form(body=_slice(1, -5, 2**31), units=5),
    "slice across in steps": Form(body=_slice(1, 0, FRONT, 2), units=MIXING, named="Slice"),
    "slice along": Form(body=_slice(2, 0, SIDE, 2)),
    "gather across": Form(body=_gather(1, 3, 1, -1, 7), units=4, opsets=(7, 11, 13)),
    "gather along": Form(body=_gather(3, 0, 2, 5)),
    "pad across": Form(body=_pad(0, 2, 0, 0, 0, 3, 0, 0), opsets=(7, 11, 13)),
    "pad along": Form(body=_pad(0, 0, 1, 2, 0, 0, 1, 2), opsets=(7, 13)),
    "pad along by reflection": Form(body=_pad(0, 0, 1, 2, 0, 0, 1, 2, mode="reflect")),
    "pad across by reflection": Form(body=_pad(0, 2, 0, 0, 0, 2, 0, 0, mode="reflect"), units=MIXING, named="Pad"),
    "resize by scales": Form(body=_resize(), opsets=(10, 11, 13, 18)),
    "resize across": Form(body=_resize_across, units=MIXING, named="Resize"),
    "resize linear": Form(body=_resize(mode="linear")),
    "resize cubic": Form(body=_resize(mode="cubic")),
    "resize to sizes": Form(body=_resize(sizes=True)),
    "upsample": Form(body=_upsample, opsets=(7, 9)),
    "depth to space, rows": Form(body=_depth_to_space("DCR"), units=3),
    "depth to space, columns": Form(body=_depth_to_space("CRD"), units=3),
    "space to depth": Form(body=_space_to_depth),
    # In the turned tensor a channel has two axes; only whole positions in all three parts can be taken out of it.
    "channel shuffle": Form(body=_shuffle, units=4),
    **{f"{name.lower()} of four": Form(body=_many(name)) for name in ("Sum", "Mean", "Max", "Min")},
    **{name.lower(): Form(body=_two(name)) for name in ("Add", "Sub", "Mul")},
    **{f"{name.lower()} a constant per channel": Form(body=_two(name, FRONT, 1, 1)) for name in ("Add", "Mul", "Div")},
    "pow by a constant per channel": Form(body=_power),
    "mul a constant per pixel": Form(body=_two("Mul", 1, 1, SIDE, SIDE)),
    "mul a constant per channel and row": Form(body=_two("Mul", 1, FRONT, SIDE, 1)),
    **{f"reduce {name} along": Form(body=_reduce(f"Reduce{name}", 2), opsets=(13, 18)) for name in _REDUCTIONS},
    **{
        f"reduce {name} across": Form(body=_reduce(f"Reduce{name}", 1))
        if name in _OVER_WHAT_STAYS
        else Form(body=_reduce(f"Reduce{name}", 1), units=MIXING, named=f"Reduce{name}")
        for name in _REDUCTIONS
    },
    "arg max across": Form(
        body=lambda g: (g.node("Cast", g.node("ArgMax", g.image(), axis=1), to=1), 1), units=MIXING, named="ArgMax"
    ),
    "softmax across": Form(body=one("Softmax", axis=1), units=MIXING, named="Softmax"),
    "softmax along": Form(body=one("Softmax", axis=3)),
    "softmax of all behind": Form(body=one("Softmax", axis=2), opsets=(11,)),
    "log softmax across": Form(body=one("LogSoftmax", axis=1), units=MIXING, named="LogSoftmax"),
    "hardmax across": Form(body=one("Hardmax", axis=1), units=MIXING, named="Hardmax"),
    "running sum along": Form(body=lambda g: (g.node("CumSum", g.image(), g.held(np.asarray(2, np.int64))), FRONT)),
    "running sum across": Form(
        body=lambda g: (g.node("CumSum", g.image(), g.held(np.asarray(1, np.int64))), FRONT),
        units=MIXING,
        named="CumSum",
    ),
    "mean variance across": Form(body=one("MeanVarianceNormalization", axes=[1, 2, 3])),
    "mean variance along": Form(body=one("MeanVarianceNormalization", axes=[0, 2, 3])),
    "einsum with a weight": Form(body=_einsum_weight, axes=-3),
    "einsum as a convolution": Form(body=_einsum_image),
    "einsum of two": Form(body=_einsum_pair, axes=-3),
    "where of two": Form(body=_where),
    "where by pixel": Form(body=_where_mask),
    "expand along": Form(body=_expand(channels=False)),
    "expand along, channels written": Form(body=_expand(channels=True)),
    "tile along": Form(body=_tile(2)),
    "tile across": Form(body=_tile(1)),
    "max pool": Form(body=one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), opsets=(7, 8, 10, 11, 12, 22)),
    "average pool": Form(body=one("AveragePool", kernel_shape=[3, 3], pads=[1] * 4), opsets=(7, 10, 11, 19)),
    "lp pool": Form(body=one("LpPool", kernel_shape=[2, 2], p=2)),
    "global average pool": Form(body=one("GlobalAveragePool")),
    "global max pool": Form(body=one("GlobalMaxPool")),
    "squeeze, unsqueeze": Form(
        body=lambda g: (
            g.node("Unsqueeze", g.node("Squeeze", g.node("GlobalMaxPool", g.image()), g.ints(2)), g.ints(2)), FRONT
        )
    ),
    "flatten with pixels": Form(body=lambda g: (g.node("Flatten", g.image()), FRONT * SIDE * SIDE), axes=-2),
    "channels behind pixels": Form(
        body=lambda g: (
            g.node("Transpose", g.node("Reshape", g.image(), g.ints(0, FRONT, -1)), perm=[0, 2, 1]), FRONT
        ),
        axes=-3,
    ),
    "shape arithmetic of a flatten": Form(body=_legacy_flatten, axes=-2, opsets=(9, 11)),
    "shape arithmetic of a shuffle": Form(body=_legacy_view, units=4, opsets=(9, 11)),
    "zeros made at run time": Form(body=_zeros, opsets=(9, 17)),
    "number of elements": Form(body=_size),
    "weights made by chains": Form(body=_zero_weight),
    "quantised activations": Form(body=_quantised, units=MIXING, named="QuantizeLinear"),
    "quantised weights": Form(body=_quantised_weight, units=MIXING, named="Conv"),
    "half precision": Form(body=_conv(2), dtype=HALF),
    "half precision, normalised": Form(body=_batch_norm(2), dtype=HALF),
    "channels last": Form(body=_channels_last),
    "weight behind Identity": Form(body=_alias("Identity")),
    "weight in a Constant": Form(body=_alias("Constant"), opsets=(7, 13)),
    "top k across": Form(body=_top, units=MIXING, named="TopK"),
    **{
        name.lower(): Form(body=_recurrent(name), axes=-3, units=MIXING, named=name)
        for name in ("LSTM", "GRU", "RNN")
    },
}  # fmt: skip
