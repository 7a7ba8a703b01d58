"""Convolution and pooling give what ONNX Runtime gives."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.workers.pruning.graph.single import assert_agrees, normal

AUTO = st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])


def _windows(draw: st.DrawFn, axes: int, *, kernel_max: int = 3) -> dict[str, object]:
    sizes = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    kernel = draw(st.lists(st.integers(1, kernel_max), min_size=axes, max_size=axes))
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": draw(sizes), "auto_pad": draw(AUTO)}
    if attributes["auto_pad"] == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, max(size - 1, 0))) for size in kernel * 2]
    if attributes["auto_pad"].startswith("SAME"):  # ONNX Runtime refuses to pool with gaps between windows
        attributes["strides"] = [min(size, stride) for size, stride in zip(kernel, attributes["strides"], strict=True)]
    return attributes


@st.composite
def convolutions(draw: st.DrawFn):
    axes = draw(st.integers(1, 3))
    attributes = _windows(draw, axes)
    if attributes["auto_pad"] in {"NOTSET", "VALID"}:
        attributes["dilations"] = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    groups = draw(st.integers(1, 3))
    attributes["group"] = groups
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    x = normal([draw(st.integers(1, 2)), channels, *draw(st.lists(st.integers(5, 9), min_size=axes, max_size=axes))])
    weight = normal([filters, channels // groups, *attributes["kernel_shape"]], 1)
    bias = [normal([filters], 2)] if draw(st.booleans()) else []
    return [x, weight, *bias], attributes


@given(convolutions())
def test_convolution_agrees(case):
    """Any stride, dilation, group, padding and number of axes."""
    inputs, attributes = case

    assert_agrees("Conv", inputs, attributes, constants=range(1, len(inputs)))


@st.composite
def transposed_convolutions(draw: st.DrawFn):
    axes = draw(st.integers(1, 3))
    attributes = _windows(draw, axes)
    strides = attributes["strides"]
    attributes["dilations"] = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    groups = draw(st.integers(1, 2))
    attributes["group"] = groups
    channels, filters = groups * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(3, 6), min_size=axes, max_size=axes))
    if attributes["auto_pad"] == "NOTSET" and draw(st.booleans()):
        del attributes["pads"]
        attributes["output_shape"] = [
            stride * (length - 1) + extra + (size - 1) * dilation + 1 - draw(st.integers(0, 2))
            for length, stride, extra, size, dilation in zip(
                lengths,
                strides,
                attributes["output_padding"],
                attributes["kernel_shape"],
                attributes["dilations"],
                strict=True,
            )
        ]
        assume(min(attributes["output_shape"]) > 0)
    if attributes["auto_pad"].startswith("SAME"):
        attributes["dilations"] = [1] * axes
        attributes["output_padding"] = [0] * axes
    x = normal([2, channels, *lengths])
    weight = normal([channels, filters, *attributes["kernel_shape"]], 1)
    bias = [normal([filters * groups], 2)] if draw(st.booleans()) else []
    return [x, weight, *bias], attributes


@given(transposed_convolutions())
def test_transposed_convolution_agrees(case):
    """Any stride, dilation, group, padding, output_padding and output_shape."""
    inputs, attributes = case

    assert_agrees("ConvTranspose", inputs, attributes, constants=range(1, len(inputs)))


@st.composite
def pools(draw: st.DrawFn, *, dilated: bool):
    axes = draw(st.integers(1, 3))
    attributes = _windows(draw, axes)
    attributes["ceil_mode"] = int(attributes["auto_pad"] == "NOTSET" and draw(st.booleans()))
    if dilated and attributes["auto_pad"] == "NOTSET":
        attributes["dilations"] = draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes))
    x = normal([2, 2, *draw(st.lists(st.integers(6, 10), min_size=axes, max_size=axes))])
    return x, attributes


@given(pools(dilated=True))
def test_max_pool_agrees(case):
    """Any window, stride, dilation, padding and rounding of the length."""
    x, attributes = case

    assert_agrees("MaxPool", [x], attributes, opset=12)


@given(pools(dilated=False), st.booleans())
def test_average_pool_agrees(case, include):
    """Any window, stride, padding, rounding of the length, counting the padding or not."""
    x, attributes = case
    attributes["count_include_pad"] = int(include)

    assert_agrees("AveragePool", [x], attributes, opset=19)


@given(pools(dilated=False), st.sampled_from([1, 2, 3]))
def test_lp_pool_agrees(case, order):
    """Windows without rounding up, which came later."""
    x, attributes = case
    del attributes["ceil_mode"]

    assert_agrees("LpPool", [x], attributes | {"p": order}, opset=11)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_global_pool_agrees(op_type, axes):
    """Each channel becomes one number."""
    assert_agrees(op_type, [normal([2, 3, *[5] * axes])])


def test_pooling_by_more_than_half_a_window_of_padding_agrees():
    """torch refuses such padding, ONNX does not."""
    attributes = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [1, 1]}

    assert_agrees("AveragePool", [normal([1, 2, 4, 4])], attributes)
    assert_agrees("MaxPool", [normal([1, 2, 4, 4])], {**attributes, "kernel_shape": [3, 3], "pads": [2, 2, 2, 2]})
