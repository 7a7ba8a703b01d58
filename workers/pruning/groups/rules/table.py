"""The one list of operators that label propagation understands."""

from collections.abc import Callable
from typing import Final

import onnx_ir as ir

from workers.pruning.groups.propagation import Propagation
from workers.pruning.groups.rules import einsum, elementwise, movement, products, spatial, statistics

Rule = Callable[[Propagation, ir.Node], None]

_UNARY: Final = frozenset({
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf",
    "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
})  # fmt: skip
_NARY: Final = frozenset({
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
_REDUCE: Final = frozenset({
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
})  # fmt: skip

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(_UNARY, elementwise.unary),
    **dict.fromkeys(_NARY, elementwise.nary),
    **dict.fromkeys(_REDUCE, statistics.reduce),
    "ArgMax": statistics.arg_reduce,
    "ArgMin": statistics.arg_reduce,
    "AveragePool": spatial.pool,
    "BatchNormalization": statistics.batch_normalization,
    "Concat": movement.concat,
    "Conv": products.conv,
    "ConvTranspose": products.conv_transpose,
    "CumSum": statistics.cumulative,
    "DepthToSpace": spatial.depth_to_space,
    "Einsum": einsum.einsum,
    "Expand": movement.expanded,
    "Flatten": movement.reshaped,
    "Gather": movement.gather,
    "Gemm": products.gemm,
    "GlobalAveragePool": spatial.pool,
    "GlobalLpPool": spatial.pool,
    "GlobalMaxPool": spatial.pool,
    "GroupNormalization": statistics.group_normalization,
    "Hardmax": statistics.softmax,
    "InstanceNormalization": statistics.instance_normalization,
    "LRN": statistics.across_channels,
    "LayerNormalization": statistics.layer_normalization,
    "LogSoftmax": statistics.softmax,
    "LpNormalization": statistics.over_what_stays,
    "LpPool": spatial.pool,
    "MatMul": products.matmul,
    "MaxPool": spatial.pool,
    "MeanVarianceNormalization": statistics.over_what_stays,
    "Pad": movement.pad,
    "RMSNormalization": statistics.layer_normalization,
    "Reshape": movement.reshaped,
    "Resize": spatial.resize,
    "Shape": statistics.shape_only,
    "Size": statistics.shape_only,
    "Slice": movement.sliced,
    "Softmax": statistics.softmax,
    "SpaceToDepth": spatial.space_to_depth,
    "Split": movement.split,
    "Squeeze": movement.reshaped,
    "Tile": movement.tile,
    "Transpose": movement.transposed,
    "Unsqueeze": movement.reshaped,
    "Upsample": spatial.resize,
}
