"""Operators that move data give what ONNX Runtime gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.pruning.graph.single import assert_agrees, integers, normal


@pytest.mark.parametrize("target", [[6, 4], [0, -1], [-1], [2, 0, 2, 2], [0, 3, 4, 1]])
@pytest.mark.parametrize("held", [True, False])
def test_reshape_agrees(target, held):
    """Zero copies an axis, -1 computes it; by a constant or at run time."""
    assert_agrees("Reshape", [normal([2, 3, 4]), integers(*target)], constants=[1] if held else [])


@given(st.permutations([0, 1, 2, 3]))
def test_transpose_agrees(order):
    """Any order, and the reversed one by default."""
    assert_agrees("Transpose", [normal([2, 3, 4, 5])], {"perm": order})
    assert_agrees("Transpose", [normal([2, 3, 4])])


@given(st.integers(-3, 3))
def test_flatten_agrees(axis):
    """Two axes, split anywhere."""
    assert_agrees("Flatten", [normal([2, 3, 4])], {"axis": axis})


@pytest.mark.parametrize("axes", [[0], [-1], [0, 2], [0, -1]])
def test_squeeze_and_unsqueeze_agree(axes):
    """Axes as attribute and as input."""
    assert_agrees("Squeeze", [normal([1, 3, 1])[..., :1] if axes != [0] else normal([1, 3])], {"axes": axes}, opset=11)
    assert_agrees("Squeeze", [normal([1, 3, 1]), integers(*axes)], constants=[1])
    assert_agrees("Unsqueeze", [normal([3, 4])], {"axes": [abs(axis) for axis in axes]}, opset=11)
    assert_agrees("Unsqueeze", [normal([3, 4]), integers(*axes)], constants=[1])


def test_expansion_and_tiling_agree():
    """Broadcasting in both directions, repetition of every axis."""
    assert_agrees("Expand", [normal([3, 1]), integers(2, 1, 4)], constants=[1])
    assert_agrees("Expand", [normal([3, 1]), integers(2, 1, 4)])
    assert_agrees("Tile", [normal([2, 3]), integers(2, 3)])


def test_shape_and_filling_agree():
    """Shapes, parts of shapes, sizes, constants of a shape, ranges."""
    assert_agrees("Shape", [normal([2, 3, 4])])
    assert_agrees("Shape", [normal([2, 3, 4])], {"start": 1, "end": -1}, opset=15)
    assert_agrees("Size", [normal([2, 3, 4])])
    assert_agrees("ConstantOfShape", [integers(2, 3)])
    assert_agrees("Range", [np.asarray(entry, np.int64) for entry in (2, 11, 3)])


@given(st.sampled_from([0, 1, 2, -1]), st.integers(1, 3))
def test_concatenation_agrees(axis, count):
    """Any number of tensors along any axis."""
    assert_agrees("Concat", [normal([2, 3, 4], seed) for seed in range(count)], {"axis": axis})


def test_split_agrees():
    """Lengths as attribute, as input, and equal ones by default or by number."""
    assert_agrees("Split", [normal([2, 6])], {"axis": 1, "split": [2, 4]}, opset=11, num_outputs=2)
    assert_agrees("Split", [normal([2, 6]), integers(1, 2, 3)], {"axis": 1}, constants=[1], num_outputs=3)
    assert_agrees("Split", [normal([2, 6])], {"axis": 1}, num_outputs=3)
    assert_agrees("Split", [normal([2, 7])], {"axis": 1, "num_outputs": 3}, opset=18, num_outputs=3)


EDGE = st.one_of(st.integers(-8, 8), st.sampled_from([2**63 - 1, -(2**63)]))


@given(st.lists(st.tuples(EDGE, EDGE, st.sampled_from([1, 1, 2, 3, -1, -2])), min_size=1, max_size=3), st.booleans())
def test_slice_agrees(parts, held):
    """Any beginning, end and step, forward and backward, beyond the ends as well."""
    starts, ends, steps = (integers(*column) for column in zip(*parts, strict=True))
    inputs = [normal([4, 5, 6]), starts, ends, integers(*range(len(parts))), steps]

    assert_agrees("Slice", inputs, constants=range(1, 5) if held else [])


def test_slice_by_attributes_agrees():
    """As before opset 10."""
    assert_agrees("Slice", [normal([4, 5])], {"starts": [1, 0], "ends": [3, -1], "axes": [0, 1]}, opset=9)
    assert_agrees("Slice", [normal([4, 5])], {"starts": [1], "ends": [2**31 - 1]}, opset=9)


@given(st.integers(-3, 2), st.sampled_from([[], [2], [2, 2]]), st.booleans())
def test_gather_agrees(axis, shape, held):
    """Positions of any rank, negative ones too."""
    positions = np.random.default_rng(0).integers(-3, 3, shape).astype(np.int64)

    assert_agrees("Gather", [normal([3, 4, 5]), positions], {"axis": axis}, constants=[1] if held else [])


def test_gathering_and_scattering_of_entries_agree():
    """By one position per entry, and by tuples of positions."""
    x, positions = normal([3, 4]), np.asarray([[0, -1], [2, 1]], np.int64)

    assert_agrees("GatherElements", [x, positions], {"axis": 1})
    assert_agrees("GatherND", [x, positions])
    assert_agrees("ScatterElements", [x, positions, normal([2, 2], 1)], {"axis": 1})
    assert_agrees("ScatterND", [x, positions, normal([2], 1)])


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [-1, 0, 2])
def test_triangles_agree(upper, diagonal):
    """Above and below any diagonal."""
    assert_agrees("Trilu", [normal([2, 4, 5]), np.asarray(diagonal, np.int64)], {"upper": upper})


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_agrees(axis):
    """A new axis anywhere; negative positions count from the end."""
    values = np.asarray([0.5, 2.0], np.float32)

    assert_agrees("OneHot", [integers(0, 2, -1), np.asarray(4, np.int64), values], {"axis": axis}, constants=[1, 2])


@given(st.sampled_from(["constant", "reflect", "edge", "wrap"]), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_padding_agrees(mode, pads):
    """Every mode along every axis."""
    assert_agrees("Pad", [normal([3, 3, 4, 5]), integers(*pads)], {"mode": mode}, constants=[1], opset=19)


def test_padding_by_attributes_values_axes_and_negative_pads_agrees():
    """As before opset 11, with a value, on chosen axes, and cropping."""
    value = np.asarray(1.5, np.float32)

    assert_agrees("Pad", [normal([2, 3])], {"pads": [0, 1, 1, 0], "value": 2.0}, opset=9)
    assert_agrees("Pad", [normal([2, 3]), integers(0, 1, 1, 0), value], constants=[1, 2])
    assert_agrees("Pad", [normal([2, 3]), integers(0, 1, 1, 0), value])
    assert_agrees("Pad", [normal([2, 3, 4]), integers(1, 2), value, integers(-1)], constants=[1, 2, 3], opset=18)
    assert_agrees("Pad", [normal([4, 5]), integers(-1, 1, 0, -2)], constants=[1])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_and_depth_agree(mode):
    """Both orders of the channels, and back."""
    assert_agrees("DepthToSpace", [normal([2, 12, 3, 2])], {"blocksize": 2, "mode": mode})
    assert_agrees("SpaceToDepth", [normal([2, 3, 4, 6])], {"blocksize": 2})


COORDINATES = st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
ROUNDING = st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
NOTHING = np.zeros(0, np.float32)


@given(COORDINATES, ROUNDING, st.lists(st.sampled_from([0.5, 0.6, 1.0, 1.5, 2.0, 3.0]), min_size=2, max_size=2))
def test_nearest_resizing_by_scales_agrees(coordinates, rounding, scales):
    """Every rule for positions and rounding, up and down."""
    attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    inputs = [normal([1, 2, 5, 4]), NOTHING, np.asarray([1, 1, *scales], np.float32)]

    assert_agrees("Resize", inputs, attributes, constants=[1, 2], opset=13)


@given(COORDINATES, ROUNDING, st.lists(st.integers(1, 11), min_size=2, max_size=2))
def test_nearest_resizing_to_sizes_agrees(coordinates, rounding, sizes):
    """Every rule for positions and rounding, to given lengths."""
    attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    inputs = [normal([1, 2, 5, 4]), NOTHING, NOTHING, integers(1, 2, *sizes)]

    assert_agrees("Resize", inputs, attributes, constants=[1, 2, 3], opset=13)


@given(COORDINATES, st.lists(st.integers(1, 11), min_size=2, max_size=2), st.booleans())
def test_linear_resizing_agrees(coordinates, sizes, by_scales):
    """Every rule for positions, to given lengths and by scales."""
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    if by_scales:
        third = [np.asarray([1, 1, sizes[0] / 5, sizes[1] / 4], np.float32)]
    else:
        third = [NOTHING, integers(1, 2, *sizes)]
    inputs = [normal([1, 2, 5, 4]), NOTHING, *third]

    assert_agrees("Resize", inputs, attributes, constants=range(1, len(inputs)), opset=13)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("settings", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
def test_cubic_interpolation(coordinates, settings):
    """Up along one axis and down along the other, with torch's coefficient and with Keys' own."""
    scales = np.asarray([1.0, 1.0, 2.5, 0.6], np.float32)
    attributes = {"mode": "cubic", "coordinate_transformation_mode": coordinates, **settings}

    assert_agrees("Resize", [normal([1, 2, 5, 10]), NOTHING, scales], attributes, constants=[1, 2], opset=13)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op_type", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_resizing_of_old_opsets_agrees(op_type, opset, mode):
    """Upsample and the first Resize put positions asymmetrically and round down."""
    scales = np.asarray([1, 1, 2, 2.5], np.float32)

    assert_agrees(op_type, [normal([1, 2, 5, 4]), scales], {"mode": mode}, constants=[1], opset=opset)


def test_resizing_of_chosen_axes_agrees():
    """Scales for some axes only."""
    scales = np.asarray([2.0, 3.0], np.float32)

    assert_agrees(
        "Resize", [normal([1, 2, 3, 4]), None, scales], {"mode": "nearest", "axes": [2, 3]}, constants=[2], opset=18
    )
