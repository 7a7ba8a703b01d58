"""From an upload to samples: what arrives at the network, what is held out, what is refused."""

import json

import numpy as np
import onnx_ir as ir
import pytest

from tests.networks import graph as small_graph
from tests.workers.pruning.training.uploads import (
    GREY_INPUT,
    IMAGE_INPUT,
    archive,
    folders,
    noise,
    npz,
    picture,
    refused,
)
from workers.pruning.errors import InvalidDataset, PruningError
from workers.pruning.graph.head import Head
from workers.pruning.graph.load import input_specs
from workers.pruning.training.archives import DataLimits
from workers.pruning.training.data import describe_dataset, open_dataset, require_match, synthetic
from workers.pruning.types import TensorSpec

OUTPUTS = (TensorSpec(name="logits", dtype="float32", shape=("batch", 4)),)


def everything(samples):
    return samples.batch(np.arange(len(samples)))[0]


def test_pixels_become_the_networks_layout_and_range(tmp_path):
    """uint8 NHWC samples reach an NCHW float network as (x / 255 - mean) / std, channel by channel."""
    x = np.zeros((10, 8, 8, 3), np.uint8)
    x[..., 0], x[..., 1], x[..., 2] = 0, 51, 255
    given = {"mean": [0.0, 0.1, 0.5], "std": [1.0, 0.5, 0.25]}

    data = open_dataset(npz(tmp_path, x=x, y=None), IMAGE_INPUT, preprocessing=given, seed=0)

    batch = everything(data.train)
    assert batch.shape == (9, 3, 8, 8)
    assert batch.dtype == np.float32
    assert batch.flags["C_CONTIGUOUS"]
    # By hand: 0 / 255; (0.2 - 0.1) / 0.5; (1 - 0.5) / 0.25.
    np.testing.assert_allclose(batch[0, :, 0, 0], [0.0, 0.2, 2.0], rtol=1e-6)


def test_what_was_applied_is_stated(tmp_path):
    """The dataset says every value that was used and which of them were inferred."""
    data = open_dataset(npz(tmp_path), IMAGE_INPUT, preprocessing={"mean": [0.5]}, seed=0)

    assert data.preprocessing == {
        "scale": 1 / 255,
        "mean": [0.5],
        "std": [1.0],
        "layout": "NHWC",
        "network_layout": "NCHW",
        "channel_order": "RGB",
        "resize": None,
        "inferred": ["scale", "std", "layout", "channel_order", "resize"],
    }


def test_float_samples_are_not_scaled(tmp_path):
    """Samples that are floats already are taken as they are."""
    x = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)

    data = open_dataset(npz(tmp_path, x=x, y=None), IMAGE_INPUT, seed=0)

    np.testing.assert_array_equal(everything(data.train), x[data.train.index])


def test_grey_samples_without_a_channel_axis_gain_one(tmp_path):
    """(N, H, W) fits a network with one channel, as MNIST is stored."""
    x = np.full((10, 8, 8), 255, np.uint8)

    data = open_dataset(npz(tmp_path, x=x, y=None), GREY_INPUT, seed=0)

    assert everything(data.train).shape == (9, 1, 8, 8)
    assert everything(data.train).max() == 1.0


def test_half_precision_networks_get_half_precision(tmp_path):
    """Samples have the dtype that the network takes."""
    spec = (TensorSpec(name="input", dtype="float16", shape=(1, 3, 8, 8)),)

    data = open_dataset(npz(tmp_path), spec, seed=0)

    assert everything(data.train).dtype == np.float16


def test_integer_networks_get_untouched_integers(tmp_path):
    """A network that takes uint8 gets the stored pixels."""
    spec = (TensorSpec(name="input", dtype="uint8", shape=(1, 8, 8, 3)),)
    x = np.arange(10 * 8 * 8 * 3, dtype=np.uint8).reshape(10, 8, 8, 3)

    data = open_dataset(npz(tmp_path, x=x, y=None), spec, seed=0)

    np.testing.assert_array_equal(everything(data.train), x[data.train.index])


def test_channel_order_bgr_reverses_the_channels(tmp_path):
    """With channel_order BGR the network sees the last stored channel first."""
    x = np.zeros((10, 8, 8, 3), np.uint8)
    x[..., 2] = 255

    data = open_dataset(npz(tmp_path, x=x, y=None), IMAGE_INPUT, preprocessing={"channel_order": "BGR"}, seed=0)

    np.testing.assert_array_equal(everything(data.train)[0, :, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_arrays_are_resized_on_request(tmp_path, layout):
    """Samples of another size are resized to the size asked for, whatever their layout."""
    x = np.full((10, 16, 12, 3), 100, np.uint8)
    x = x if layout == "NHWC" else np.moveaxis(x, -1, 1)

    data = open_dataset(npz(tmp_path, x=x, y=None), IMAGE_INPUT, preprocessing={"resize": [8, 8]}, seed=0)

    assert everything(data.train).shape == (9, 3, 8, 8)
    np.testing.assert_allclose(everything(data.train), 100 / 255, rtol=1e-6)
    assert data.preprocessing["resize"] == [8, 8]


def test_several_inputs_take_arrays_named_like_them(tmp_path):
    """A network with two inputs gets one array for each, in the order of its inputs."""
    inputs = (
        TensorSpec(name="picture", dtype="float32", shape=(None, 3, 8, 8)),
        TensorSpec(name="numbers", dtype="float32", shape=(None, 5)),
    )
    numbers = np.arange(50, dtype=np.float64).reshape(10, 5)
    pictures = np.zeros((10, 8, 8, 3), np.uint8)

    data = open_dataset(npz(tmp_path, x=None, y=None, numbers=numbers, picture=pictures), inputs, seed=0)

    first, second = data.train.batch(np.arange(9))
    assert first.shape == (9, 3, 8, 8)
    np.testing.assert_array_equal(second, numbers[data.train.index].astype(np.float32))


def test_a_tenth_is_held_out_stratified_and_seeded(tmp_path):
    """Of 200 samples in 4 classes 20 are held out, 5 of each class; the seed decides which."""
    file = npz(tmp_path, x=np.zeros((200, 8, 8, 3), np.uint8), y=np.repeat(np.arange(4), 50))

    first, again, other = (open_dataset(file, IMAGE_INPUT, seed=seed) for seed in (1, 1, 2))

    assert np.bincount(first.validation.labels).tolist() == [5, 5, 5, 5]
    assert not set(first.train.index) & set(first.validation.index)
    assert len(first.train) + len(first.validation) == 200
    np.testing.assert_array_equal(first.validation.index, again.validation.index)
    assert set(first.validation.index) != set(other.validation.index)
    assert first.holdout == "20 of 200 samples (1 in 10, each class in proportion), chosen by seed 1"


def test_held_out_arrays_are_never_trained_on(tmp_path):
    """x_val and y_val judge, all of x trains."""
    file = npz(tmp_path, x_val=np.full((3, 8, 8, 3), 255, np.uint8), y_val=np.array([0, 1, 2]))

    data = open_dataset(file, IMAGE_INPUT, seed=0)

    assert len(data.train) == 20
    assert everything(data.validation).min() == 1.0
    assert data.validation.labels.tolist() == [0, 1, 2]
    assert data.holdout == "y_val as uploaded, 3 samples"


def test_class_folders_become_labels_in_sorted_order(tmp_path):
    """Folders under train/ and val/, below one outer folder, give labels by name; leftovers of systems are ignored."""
    members = {f"set/{name}": content for name, content in folders("train/cat", "train/ant", "val/cat").items()}
    members |= {"__MACOSX/set/train/cat/._0.png": b"x", "set/.DS_Store": b"x", "set/notes.txt": b"read me"}

    data = open_dataset(archive(tmp_path, members), IMAGE_INPUT, seed=0)

    assert data.classes == ("ant", "cat")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.validation.labels.tolist() == [1, 1, 1]
    assert data.holdout == "val/ as uploaded, 3 samples"
    assert "Files that are no images were left out: 1." in data.notes
    np.testing.assert_allclose(everything(data.train)[:, 0, 0, 0], np.array([0, 10, 20, 0, 10, 20]) / 255, rtol=1e-6)


def test_loose_images_are_unlabelled(tmp_path):
    """Images in one folder, or in none, have no labels."""
    data = open_dataset(archive(tmp_path, folders("pictures")), IMAGE_INPUT, seed=0)

    assert data.kind == "unlabelled"
    assert data.num_classes is None
    assert len(data.train) + len(data.validation) == 3


def test_images_are_converted_to_the_networks_channels_and_size(tmp_path):
    """A grey network gets grey images of its size; that images were resized is stated."""
    members = {"a.png": picture((255, 255, 255), size=(20, 30)), "b.webp": picture(255, mode="L", kind="WEBP")}

    data = open_dataset(archive(tmp_path, members), GREY_INPUT, seed=0)

    assert everything(data.train).shape == (1, 1, 8, 8)
    assert everything(data.train).min() == 1.0
    assert "Resized bilinearly to 8 x 8: 1 of 2 images." in data.notes


def test_the_jobs_preprocessing_wins_over_the_archives(tmp_path):
    """Each key comes from the job, then from preprocessing.json, then from inference."""
    stored = json.dumps({"mean": [0.1], "std": [0.2]}).encode()
    members = folders("set/a", "set/b") | {"set/preprocessing.json": stored}

    data = open_dataset(archive(tmp_path, members), IMAGE_INPUT, preprocessing={"mean": [0.3]}, seed=0)

    assert (data.preprocessing["mean"], data.preprocessing["std"]) == ([0.3], [0.2])
    assert data.preprocessing["inferred"] == ["scale", "channel_order", "resize"]


def test_folder_names_that_are_numbers_are_warned_about(tmp_path):
    """Class folders 0 to 10 are numbered by character, as training tools do, and the dataset says so."""
    data = open_dataset(archive(tmp_path, folders(*(str(n) for n in range(11)), count=2)), IMAGE_INPUT, seed=0)

    assert data.classes[:3] == ("0", "1", "10")
    assert any("in the order of their characters" in note for note in data.notes)


def test_targets_that_are_no_class_numbers_are_left_unused(tmp_path):
    """Regression targets and masks make no labels; the dataset says that they were not used."""
    data = open_dataset(npz(tmp_path, y=np.zeros((20, 4), np.float32)), IMAGE_INPUT, seed=0)

    assert data.kind == "unlabelled"
    assert "not used as labels" in data.notes[0]


def test_labels_as_a_column_are_accepted(tmp_path):
    """Labels of shape (N, 1), as Keras stores them, are labels."""
    data = open_dataset(npz(tmp_path, y=(np.arange(20) % 4).reshape(20, 1)), IMAGE_INPUT, seed=0)

    assert data.num_classes == 4


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((20, 9, 8, 3), np.uint8)}, ["[9, 8, 3]", "'batch', 3, 8, 8", "resize"]),
        ({"x": np.zeros((20, 8, 8, 4), np.uint8)}, ["[8, 8, 4]", "'batch', 3, 8, 8"]),
        ({"x": np.zeros((20, 192), np.float32)}, ["[192]", "'batch', 3, 8, 8"]),
        ({"x": np.zeros(20, np.float32)}, ["[]", "'batch', 3, 8, 8"]),
        ({"x": np.zeros((20, 8, 8, 3), np.complex64)}, ["x", "complex64", "float32"]),
        ({"x": np.array(["a"] * 20)}, ["x", "<U1", "integers"]),
        ({"x": np.zeros((0, 8, 8, 3), np.uint8), "y": None}, ["empty", "x", "[0, 8, 8, 3]"]),
        ({"x": None}, ["no array", "y", "x"]),
        ({"y": np.zeros(19, np.int64)}, ["different lengths", "y", "[19]", "20 labels"]),
        ({"x_val": np.zeros((2, 8, 8, 3), np.uint8)}, ["Only one of the splits", "y without y_val"]),
        ({"y_val": np.zeros(2, np.int64)}, ["no array 'x_val'"]),
        ({"x_val": np.zeros((2, 3, 8, 8), np.uint8), "y_val": np.zeros(2, int)}, ["x_val is stored differently"]),
        ({"x": np.zeros((1, 8, 8, 3), np.uint8), "y": None}, ["One sample", "2 samples or more"]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, words):
    """Each refusal says which array, what was found and what is allowed."""
    file = npz(tmp_path, **arrays)

    with pytest.raises(InvalidDataset) as error:
        open_dataset(file, IMAGE_INPUT, seed=0)

    for word in words:
        assert word in refused(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_by_row(tmp_path, value):
    """NaN and infinity are refused, and the row is named."""
    x = np.zeros((20, 3, 8, 8), np.float32)
    x[17, 2, 3, 4] = value

    with pytest.raises(InvalidDataset, match=r"x\[17\]; found -?(nan|inf)"):
        open_dataset(npz(tmp_path, x=x), IMAGE_INPUT, seed=0)


def test_doubles_beyond_single_precision_are_refused(tmp_path):
    """A float64 that becomes infinite in float32 is refused, not trained on."""
    x = np.zeros((20, 3, 8, 8))
    x[3] = 1e300

    with pytest.raises(InvalidDataset, match=r"x\[3\]"):
        open_dataset(npz(tmp_path, x=x), IMAGE_INPUT, seed=0)


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, ["float32", "uint8"]), (np.int32, ["int32", "uint8"])])
def test_the_wrong_dtype_for_an_integer_network_is_refused(tmp_path, dtype, words):
    """A network that takes uint8 gets no floats and no wider integers."""
    spec = (TensorSpec(name="input", dtype="uint8", shape=(1, 8, 8, 3)),)

    with pytest.raises(InvalidDataset) as error:
        open_dataset(npz(tmp_path, x=np.zeros((20, 8, 8, 3), dtype)), spec, seed=0)

    for word in words:
        assert word in refused(error)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, ["no image and no array", "none"]),
        ({"labels.csv": b"1"}, ["no image and no array", "labels.csv"]),
        (folders("val/a", "val/b"), ["folder val/", "train/ beside val/"]),
        (folders("train/a", "other/b"), ["outside the splits", "other/b/0.png", "train/, val/"]),
        (folders("a", "b") | {"loose.png": picture()}, ["Some images lie in class folders", "loose.png"]),
        (folders("train/a", "train/b", "val/c"), ["no training images", "val/c/0.png", "a"]),
        (folders("a", "b") | {"a/9.gif": b"GIF89a"}, ["a/9.gif", ".gif", ".png"]),
        (folders("a", "b") | {"a/9.png": b"no picture"}, ["a/9.png", "cannot be read", "JPEG"]),
        (folders("a", "b") | {"a/9.png": noise()[:-500]}, ["a/9.png", "cannot be read"]),
        (folders("a", "b") | {"a/9.png": picture(kind="GIF")}, ["a/9.png", "cannot be read", "JPEG, PNG, WEBP"]),
        (folders("a", "b") | {"a/9.png": picture(0, mode="I;16")}, ["a/9.png", "8 bits"]),
        (folders("a", "b") | {"preprocessing.json": b"{"}, ["preprocessing.json", "not JSON"]),
        (folders("a", "b") | {"preprocessing.json": b"[" * 60_000}, ["preprocessing.json", "not JSON"]),
        (folders("a", "b") | {"preprocessing.json": b"[]"}, ["preprocessing.json", "not a JSON object"]),
        (folders("a", "b") | {"preprocessing.json": b'{"men": 1}'}, ["men", "scale, mean, std, layout"]),
    ],
)
def test_archives_that_are_no_dataset_are_refused(tmp_path, members, words):
    """Each refusal names the member and what is allowed."""
    file = archive(tmp_path, members)

    with pytest.raises(InvalidDataset) as error:
        open_dataset(file, IMAGE_INPUT, seed=0)

    for word in words:
        assert word in refused(error)


def test_images_of_any_size_need_one_size(tmp_path):
    """A network that takes any size gets images of one size, or is told to say which."""
    free = (TensorSpec(name="input", dtype="float32", shape=(None, 3, None, None)),)
    same = archive(tmp_path, folders("a", "b"))
    assert everything(open_dataset(same, free, seed=0).train).shape[1:] == (3, 8, 8)

    other = archive(tmp_path, folders("a", "b") | {"a/9.png": picture(size=(5, 6))})
    with pytest.raises(InvalidDataset, match=r"\[8, 8\], \[6, 5\].*resize"):
        open_dataset(other, free, seed=0)
    resized = open_dataset(other, free, preprocessing={"resize": [4, 6]}, seed=0)
    assert everything(resized.train).shape[1:] == (3, 4, 6)


def test_images_for_a_network_without_image_input_are_refused(tmp_path):
    """Images need an input of rank 4."""
    flat = (TensorSpec(name="input", dtype="float32", shape=(None, 64)),)

    with pytest.raises(InvalidDataset, match=r"one input of rank 4.*'input' \[None, 64\]"):
        open_dataset(archive(tmp_path, folders("a", "b")), flat, seed=0)


def test_the_class_count_must_equal_the_networks(tmp_path):
    """Three class folders do not fit a network with four outputs."""
    data = open_dataset(archive(tmp_path, folders("a", "b", "c")), IMAGE_INPUT, seed=0)

    with pytest.raises(InvalidDataset, match=r"class folders.*'logits'; found 3 folders: a, b, c; allowed 4"):
        require_match(data, OUTPUTS, Head.LOGITS)
    require_match(data, OUTPUTS, Head.OTHER)


@pytest.mark.parametrize(("label", "found"), [(4, "found 4"), (-1, "found -1")])
def test_labels_outside_the_networks_classes_are_refused(tmp_path, label, found):
    """A label that the network has no output for is named with its place."""
    y = np.arange(20) % 4
    y[13] = label
    data = open_dataset(npz(tmp_path, y=y), IMAGE_INPUT, seed=0)

    with pytest.raises(InvalidDataset) as error:
        require_match(data, OUTPUTS, Head.LOGITS)

    for word in ("y[13]", found, "allowed 0 to 3"):
        assert word in refused(error)


def test_labels_within_the_networks_classes_pass(tmp_path):
    """Labels that do not use every class are fine."""
    require_match(open_dataset(npz(tmp_path, y=np.zeros(20, int)), IMAGE_INPUT, seed=0), OUTPUTS, Head.LOGITS)


def test_arrays_are_described_without_a_network(tmp_path):
    """The description of an .npz has its counts, shape and dtype."""
    file = npz(tmp_path, x_val=np.zeros((4, 8, 8, 3), np.uint8), y_val=np.zeros(4, int))

    assert describe_dataset(file) == {
        "kind": "labelled",
        "num_samples": 24,
        "num_classes": 4,
        "classes": [],
        "shape": [8, 8, 3],
        "dtype": "uint8",
        "splits": {"train": 20, "val": 4},
        "has_preprocessing": False,
        "warnings": [],
    }


def test_images_are_described_without_a_network(tmp_path):
    """The description of images leaves open what differs between them."""
    members = folders("train/a", "train/b", "test/a") | {"train/a/9.png": picture(size=(8, 5))}

    described = describe_dataset(archive(tmp_path, members))

    assert described["shape"] == [None, 8, 3]
    assert described["splits"] == {"test": 3, "train": 7}
    assert (described["kind"], described["num_classes"], described["classes"]) == ("labelled", 2, ["a", "b"])


def test_the_report_states_the_data(tmp_path):
    """What the report says about data: kind, counts, what is held out, classes, preprocessing, notes."""
    data = open_dataset(archive(tmp_path, folders("a", "b", count=10)), IMAGE_INPUT, seed=0)

    stated = data.to_json()

    assert (stated["kind"], stated["num_train"], stated["num_held_out"]) == ("labelled", 18, 2)
    assert (stated["num_classes"], stated["classes"], stated["notes"]) == (2, ["a", "b"], [])
    assert stated["held_out"] == data.holdout
    assert stated["preprocessing"]["scale"] == 1 / 255


def test_batches_run_through_all_samples_in_order(tmp_path):
    """Batches of 8 of 18 samples are 8, 8 and 2, together every sample once."""
    data = open_dataset(npz(tmp_path), IMAGE_INPUT, seed=0)

    batches = [batch for (batch,) in data.train.batches(8)]

    assert [len(batch) for batch in batches] == [8, 8, 2]
    np.testing.assert_array_equal(np.concatenate(batches), everything(data.train))


def test_arrays_beside_the_data_are_left_unread(tmp_path):
    """Arrays of other names are not read, and the dataset says so."""
    data = open_dataset(npz(tmp_path, index=np.arange(5)), IMAGE_INPUT, seed=0)

    assert data.notes == ("Arrays left unread: index.",)


def test_networks_with_several_inputs_take_no_preprocessing(tmp_path):
    """One mean for two inputs means nothing; inputs of different lengths do not belong together."""
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=(None, 5)) for name in ("a", "b"))
    arrays = {"x": None, "y": None, "a": np.zeros((10, 5))}

    with pytest.raises(InvalidDataset, match=r"one input; found 2 inputs"):
        open_dataset(npz(tmp_path, **arrays, b=np.zeros((10, 5))), inputs, preprocessing={"scale": 2}, seed=0)
    with pytest.raises(InvalidDataset, match=r"different lengths; at b; found \[9, 5\]; allowed 10 samples, as in a"):
        open_dataset(npz(tmp_path, **arrays, b=np.zeros((9, 5))), inputs, seed=0)
    with pytest.raises(InvalidDataset, match="no array 'b'"):
        open_dataset(npz(tmp_path, **arrays), inputs, seed=0)


def test_too_many_samples_for_memory_are_refused(tmp_path):
    """Samples that would not fit into memory are refused with both figures."""
    with pytest.raises(InvalidDataset, match=r"too much memory; found 3,840 bytes; allowed at most 3,000 bytes"):
        open_dataset(npz(tmp_path), IMAGE_INPUT, seed=0, limits=DataLimits(max_decoded_bytes=3000))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("int64", ["cannot be pruned without data", "'input'", "int64"]), ("float32", ["unknown length", "'H'"])],
)
def test_samples_that_cannot_be_made_up_are_refused(dtype, words):
    """Integers that pick from no table and images of any size need data."""
    graph = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 13]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
    shape = ("N", 5) if dtype == "int64" else ("N", 3, "H", 8)

    with pytest.raises(PruningError) as error:
        synthetic(graph, (TensorSpec(name="input", dtype=dtype, shape=shape),), seed=0)

    for word in words:
        assert word in refused(error)


def test_token_ids_are_drawn_from_the_rows_of_their_table():
    """Seven words and two kinds, each drawn; the mask lets all through; numbers are noise; and a seed is a sample."""
    text = """
    g (int64[N,16] ids, int32[N,16] kinds, int64[N,16] hidden, float[N,4] x) => (float[N,16,4] y)
    <float[7,4] words, float[2,4] tables, int64[1] one = {1}> {
      i = Cast <to = 6> (ids)
      a = Gather <axis = 0> (words, i)
      b = Gather <axis = 0> (tables, kinds)
      c = Add (a, b)
      m = Unsqueeze (hidden, one)
      s = Cast <to = 1> (m)
      x1 = Unsqueeze (x, one)
      d = Add (c, x1)
      t = Transpose <perm = [0,2,1]> (s)
      y = Mul (d, t) }"""
    graph = small_graph(text)
    data, again = (synthetic(graph, input_specs(graph), seed=3, num_samples=40) for _ in range(2))
    ids, kinds, mask, x = data.train.batch(np.arange(20))

    assert set(range(7)) == set(ids.reshape(-1).tolist())
    assert {0, 1} == set(kinds.reshape(-1).tolist())
    assert {1} == set(mask.reshape(-1).tolist())
    assert [np.int64, np.int32, np.int64, np.float32] == [each.dtype.type for each in (ids, kinds, mask, x)]
    np.testing.assert_array_equal(ids, again.train.batch(np.arange(20))[0])


def test_open_axes_get_the_lengths_that_costs_are_counted_at():
    """224 for images, 64 for sequences, and the notes say so."""
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[N,2,H,W] x, float[N,T] t) => (float y) { y = Add(x, t) }'
    graph = ir.from_onnx_text(text.replace("y = Add(x, t)", "a = ReduceSum(x) b = ReduceSum(t) y = Add(a, b)"))

    data = synthetic(graph, input_specs(graph), seed=0, num_samples=4)

    assert [array.shape[1:] for array in data.train.batch(np.arange(2))] == [(2, 224, 224), (64,)]
    assert any("'x'" in note and "2x224x224" in note for note in data.notes)


def test_pixel_networks_get_made_up_pixels():
    """A network that takes uint8 gets pixels over their whole range."""
    graph = ir.from_onnx_text('<ir_version: 8, opset_import: ["": 13]> g (float[N] x) => (float[N] y) { y = Relu(x) }')

    data = synthetic(graph, (TensorSpec(name="input", dtype="uint8", shape=("N", 8, 8, 3)),), seed=0)

    assert everything(data.validation).dtype == np.uint8
    assert (everything(data.validation).min(), everything(data.validation).max()) == (0, 255)


def test_synthetic_samples_depend_on_seed_and_index_alone():
    """The same sample is the same whichever batch asks for it; another seed gives another."""
    graph = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N,3,8,8] input) => (float[N,3,8,8] y) { y = Relu(input) }"""
    )

    data, other = (synthetic(graph, IMAGE_INPUT, seed=seed, num_samples=40) for seed in (0, 1))

    assert data.kind == "synthetic"
    assert (len(data.train), len(data.validation)) == (36, 4)
    np.testing.assert_array_equal(data.train.batch(np.array([5, 7]))[0][1], data.train.batch(np.array([7]))[0][0])
    assert not np.array_equal(everything(data.train), everything(other.train))
    assert everything(data.train).std() == pytest.approx(1.0, abs=0.1)


def test_synthetic_samples_excite_the_first_layer_as_its_statistics_say():
    """Noise is so strong that the variance behind the first convolution is the stored one: by hand, 9 for weight 1."""
    graph = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[N,1,8,8] input, float[2,1,1,1] w, float[2] s, float[2] b, float[2] m, float[2] v) => (float[N,2,8,8] z)
        { y = Conv(input, w)  z = BatchNormalization(y, s, b, m, v) }"""
    )
    values = {"w": np.ones((2, 1, 1, 1)), "s": np.ones(2), "b": np.zeros(2), "m": np.zeros(2), "v": np.full(2, 9.0)}
    for value in list(graph.graph.inputs)[1:]:
        graph.graph.inputs.remove(value)
        value.const_value = ir.tensor(values[value.name].astype(np.float32), name=value.name)
        graph.graph.register_initializer(value)
    spec = (TensorSpec(name="input", dtype="float32", shape=("N", 1, 8, 8)),)

    data = synthetic(graph, spec, seed=0, num_samples=400)

    assert everything(data.train).std() == pytest.approx(3.0, rel=0.25)
