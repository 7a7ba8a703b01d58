"""Activations, arithmetic, comparison and reductions give what ONNX Runtime gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.pruning.graph.single import assert_agrees, integers, normal

PLAIN = [
    *("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Abs", "Neg", "Reciprocal"),
    *("Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "IsNaN", "IsInf"),
]
WITH_ATTRIBUTES = [
    ("LeakyRelu", {"alpha": 0.2}, 17),
    ("Elu", {"alpha": 0.7}, 17),
    ("Celu", {"alpha": 0.7}, 17),
    ("Selu", {}, 17),
    ("Selu", {"alpha": 1.2, "gamma": 0.9}, 17),
    ("ThresholdedRelu", {"alpha": 0.4}, 17),
    ("HardSigmoid", {}, 17),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, 17),
    ("Gelu", {}, 20),
    ("Gelu", {"approximate": "tanh"}, 20),
    ("Mish", {}, 18),
    ("Shrink", {"bias": 0.1, "lambd": 0.3}, 17),
    ("IsInf", {"detect_negative": 0}, 17),
]

REDUCTIONS = [
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
]


@pytest.mark.parametrize("op_type", PLAIN)
def test_function_of_one_input_agrees(op_type):
    """On numbers of both signs, with three axes."""
    assert_agrees(op_type, [normal([3, 4, 5]) * 2])


@pytest.mark.parametrize("op_type", ["Sqrt", "Log", "Acosh"])
def test_function_of_positive_numbers_agrees(op_type):
    """Where it is defined."""
    assert_agrees(op_type, [np.abs(normal([3, 4])) + 1.1])


@pytest.mark.parametrize("op_type", ["Asin", "Acos", "Atanh"])
def test_function_of_small_numbers_agrees(op_type):
    """Where it is defined."""
    assert_agrees(op_type, [np.tanh(normal([3, 4]))])


@pytest.mark.parametrize(("op_type", "attributes", "opset"), WITH_ATTRIBUTES)
def test_activation_with_attributes_agrees(op_type, attributes, opset):
    """Default and other attributes."""
    assert_agrees(op_type, [normal([3, 4, 5]) * 2], attributes, opset=opset)


@pytest.mark.parametrize("slope", [[1], [4, 1, 1], [1, 4, 1, 1], [5, 5], [1, 1, 1]])
def test_prelu_agrees(slope):
    """One slope, one per channel, or one per position."""
    assert_agrees("PRelu", [normal([2, 4, 5, 5]), normal(slope, 1)], constants=[1])


@given(
    st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]), st.sampled_from([9, 11, 13, 17]), st.sampled_from([0, 1, 2])
)
def test_softmax_agrees(op_type, opset, axis):
    """One axis since opset 13, everything behind the axis before."""
    assert_agrees(op_type, [normal([2, 3, 4])], {"axis": axis}, opset=opset)
    assert_agrees(op_type, [normal([2, 3])], opset=opset)


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (None, 0.3), (0.1, None), (None, None)])
def test_clip_agrees(low, high):
    """Bounds as attributes, constants and inputs, also one or none."""
    attributes = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    bounds = [None if bound is None else np.asarray(bound, np.float32) for bound in (low, high)]
    given_ = [index for index, bound in enumerate(bounds, 1) if bound is not None]

    assert_agrees("Clip", [normal([3, 4])], attributes, opset=9)
    assert_agrees("Clip", [normal([3, 4]), *bounds], constants=given_, opset=13)
    assert_agrees("Clip", [normal([3, 4]), *bounds], opset=13)


SHAPES = st.sampled_from(
    [([2, 3, 4], [2, 3, 4]), ([2, 3, 4], [4]), ([3, 1], [1, 4]), ([2, 3, 4, 4], [3, 1, 1]), ([], [2])]
)


@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"]), SHAPES, st.booleans())
def test_arithmetic_agrees(op_type, shapes, held):
    """With broadcasting, by a computed or by a constant operand."""
    shapes = ([2, 3, 4], [3, 4]) if op_type == "PRelu" else shapes

    assert_agrees(op_type, [normal(shapes[0]), normal(shapes[1], 1)], constants=[1] if held else [])


@given(st.sampled_from(["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"]))
def test_integer_arithmetic_agrees(op_type):
    """Division cuts towards zero; the remainder has the sign of the divisor."""
    assert_agrees(op_type, [integers(-7, 7, 5, -5), integers(2, -2, 3, 3)])


def test_float_remainder_and_power_agree():
    """Fmod keeps the sign of the dividend; powers of floats and of integers keep their type."""
    assert_agrees("Mod", [normal([8]) * 5, normal([8], 1) * 2], {"fmod": 1})
    assert_agrees("Pow", [np.abs(normal([8])), normal([8], 1)])
    assert_agrees("Pow", [normal([8]), integers(*[2] * 8)])


@given(st.sampled_from(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]), SHAPES)
def test_comparison_agrees(op_type, shapes):
    """With broadcasting; the result is boolean."""
    left, right = (np.asarray(np.round(normal(shape, seed)), np.float32) for seed, shape in enumerate(shapes))

    assert_agrees(op_type, [left, right])


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic_agrees(op_type):
    """All four combinations, and negation and choice by a condition."""
    left, right = np.asarray([False, False, True, True]), np.asarray([False, True, False, True])

    assert_agrees(op_type, [left, right])
    assert_agrees("Not", [left])
    assert_agrees("Where", [left, normal([3, 4]), normal([4], 1)])


@given(
    st.sampled_from(REDUCTIONS),
    st.sampled_from([None, [0], [-1], [1, 2], [0, -1]]),
    st.booleans(),
    st.sampled_from([9, 11, 13, 18, 20]),
)
def test_reduction_agrees(op_type, axes, keep, opset):
    """Axes by attribute and by input, kept or dropped."""
    x = np.abs(normal([2, 3, 4])) + 0.1
    by_input = opset >= (13 if op_type == "ReduceSum" else 18)
    attributes: dict[str, object] = {"keepdims": int(keep)}
    if axes is not None and not by_input:
        attributes["axes"] = axes
    inputs = [x, integers(*axes)] if axes is not None and by_input else [x]

    assert_agrees(op_type, inputs, attributes, constants=range(1, len(inputs)), opset=opset)


def test_reduction_over_no_axes_can_be_the_identity():
    """noop_with_empty_axes."""
    assert_agrees("ReduceSum", [normal([2, 3]), integers()], {"noop_with_empty_axes": 1}, constants=[1])


@given(st.sampled_from(["ArgMax", "ArgMin"]), st.sampled_from([0, 1, -1]), st.booleans(), st.booleans())
def test_position_of_the_extreme_agrees(op_type, axis, keep, last):
    """The first or the last of equal entries."""
    x = np.round(normal([3, 4, 5])).astype(np.float32)

    assert_agrees(op_type, [x], {"axis": axis, "keepdims": int(keep), "select_last_index": int(last)})


@given(st.booleans(), st.booleans(), st.sampled_from([0, 1, -1]))
def test_running_sum_agrees(exclusive, reverse, axis):
    """Forward and backward, with and without the entry itself."""
    attributes = {"exclusive": int(exclusive), "reverse": int(reverse)}

    assert_agrees("CumSum", [normal([3, 4]), np.asarray(axis, np.int64)], attributes, constants=[1])


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_agrees(largest):
    """Values and positions."""
    assert_agrees("TopK", [normal([3, 8]), integers(3)], {"axis": -1, "largest": largest}, constants=[1], num_outputs=2)


@pytest.mark.parametrize("target", [1, 6, 7, 9, 11])
def test_cast_agrees(target):
    """Float, integer, boolean and double."""
    assert_agrees("Cast", [normal([3, 4]) * 3], {"to": target})
