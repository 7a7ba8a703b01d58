"""The preprocessing object: every key and value that means nothing is refused with what is allowed."""

import numpy as np
import pytest

from tests.workers.pruning.training.uploads import IMAGE_INPUT, archive, folders, npz, refused
from workers.pruning.errors import InvalidDataset
from workers.pruning.training.data import open_dataset
from workers.pruning.training.preprocessing import Wish, infer, merge, network_layout, parse, resize_rows
from workers.pruning.types import TensorSpec


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stdev": 1}, ["stdev", "scale, mean, std, layout, channel_order, resize"]),
        ({"scale": "1/255"}, ["preprocessing.scale", "'1/255'", "finite number"]),
        ({"scale": True}, ["preprocessing.scale", "True"]),
        ({"scale": float("nan")}, ["preprocessing.scale", "nan"]),
        ({"mean": []}, ["preprocessing.mean", "empty list"]),
        ({"mean": [0.5, "a", 0.5]}, ["preprocessing.mean", "'a'"]),
        ({"mean": [0.5, 0.5]}, ["preprocessing.mean", "found 2", "1, or one for each of 3 channels"]),
        ({"std": [0.5, 0.0, 0.5]}, ["preprocessing.std", "zero"]),
        ({"layout": "CHWN"}, ["preprocessing.layout", "'CHWN'", "NHWC, NCHW"]),
        ({"layout": ["NHWC"]}, ["preprocessing.layout", "NHWC, NCHW"]),
        ({"channel_order": "rgb"}, ["preprocessing.channel_order", "'rgb'", "RGB, BGR"]),
        ({"resize": 224}, ["preprocessing.resize", "224", "[height, width]"]),
        ({"resize": [0, 8]}, ["preprocessing.resize", "[0, 8]"]),
        ({"resize": [8, 8, 3]}, ["preprocessing.resize", "[8, 8, 3]"]),
        ({"resize": [9, 9]}, ["resized to [9, 9]", "'batch', 3, 8, 8"]),
        ({"layout": "NCHW"}, ["samples of shape [8, 8, 3]", "layout"]),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path, given, words):
    """The refusal names the key, the value and what is allowed."""
    with pytest.raises(InvalidDataset) as error:
        open_dataset(npz(tmp_path), IMAGE_INPUT, preprocessing=given, seed=0)

    for word in words:
        assert word in refused(error)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layout": "NCHW"}, ["Images are always NHWC"]),
        ({"resize": [9, 9]}, ["preprocessing.resize", "[9, 9]", "[8, 8]"]),
    ],
)
def test_images_have_their_own_refusals(tmp_path, given, words):
    """Decoded images have one layout and one size: the network's."""
    with pytest.raises(InvalidDataset) as error:
        open_dataset(archive(tmp_path, folders("a", "b")), IMAGE_INPUT, preprocessing=given, seed=0)

    for word in words:
        assert word in refused(error)


def test_null_means_not_given():
    """A key that is null is inferred, as if it were not there."""
    assert parse({"scale": None, "mean": None, "resize": None}, "here") == Wish()


def test_single_numbers_stand_for_all_channels():
    """A mean given as one number is the mean of every channel."""
    assert parse({"mean": 0.5, "std": 2}, "here") == Wish(mean=(0.5,), std=(2.0,))


def test_each_key_is_merged_on_its_own():
    """Keys of the job win, others come from the archive."""
    assert merge(Wish(scale=1.0), Wish(scale=2.0, layout="NCHW")) == Wish(scale=1.0, layout="NCHW")


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (("N", 3, 32, 32), "NCHW"),
        ((1, 128, 128, 3), "NHWC"),
        (("N", 1, 28, 28), "NCHW"),
        ((1, 28, 28, 1), "NHWC"),
        (("N", 16, 8, 8), "NCHW"),
        (("N", 3, "H", "W"), "NCHW"),
        (("N", "H", "W", 3), "NHWC"),
        (("N", 3, 32, 3), "NCHW"),
        (("N", 784), None),
    ],
)
def test_the_networks_layout_is_read_from_its_shape(shape, layout):
    """Axis 1 has the channels unless only the last axis can."""
    assert network_layout(shape) == layout


def test_nhwc_networks_get_nhwc_samples():
    """Samples stored channels first are turned for a network that takes channels last."""
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 6, 5, 3))
    stored = np.arange(2 * 3 * 6 * 5, dtype=np.float32).reshape(2, 3, 6, 5)

    done = infer(Wish(), spec, stored.shape[1:], stored.dtype)

    assert (done.layout, done.network_layout) == ("NCHW", "NHWC")
    np.testing.assert_array_equal(done.apply(stored), stored.transpose(0, 2, 3, 1))


def test_samples_of_several_networks_layouts_are_taken_as_they_are():
    """A sample that fits both ways is taken in the network's own layout, unless the layout is given."""
    spec = TensorSpec(name="x", dtype="float32", shape=("N", 3, 3, 3))
    stored = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)

    np.testing.assert_array_equal(infer(Wish(), spec, (3, 3, 3), stored.dtype).apply(stored), stored)
    turned = infer(Wish(layout="NHWC"), spec, (3, 3, 3), stored.dtype).apply(stored)
    np.testing.assert_array_equal(turned, stored.transpose(0, 3, 1, 2))


def test_applying_leaves_the_stored_samples_alone():
    """Batches are new arrays: writing to one changes no sample."""
    spec = TensorSpec(name="x", dtype="uint8", shape=("N", 4))
    stored = np.zeros((2, 4), np.uint8)

    infer(Wish(), spec, (4,), stored.dtype).apply(stored)[:] = 7

    assert stored.max() == 0


def test_resizing_is_pillows_bilinear_filter():
    """Halving a ramp of 0, 40, 80, 120 gives the antialiased values of a triangle filter, worked by hand."""
    # Output 0 is centred between inputs 0 and 1 with support 2: weights .75, .75, .25 over (0, 40, 80) = 50 / 1.75.
    rows = np.array([0, 40, 80, 120], np.float32).reshape(1, 1, 4)

    resized = resize_rows(rows, (1, 2), "NHWC")

    np.testing.assert_allclose(resized[0, 0], [50 / 1.75, 120 - 50 / 1.75], rtol=1e-5)
