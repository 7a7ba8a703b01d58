"""Files that are refused, and what the refusal says; nothing runs, opens another file or allocates for them."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import CHAIN, onnx_bytes, proto
from workers.pruning.errors import (
    ExternalData,
    GraphTooLarge,
    InvalidGraph,
    NonFiniteScore,
    PruningError,
    UnknownShape,
    UnsupportedOpset,
)
from workers.pruning.graph.caps import NEWEST_OPSET, Caps
from workers.pruning.graph.load import load

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def _archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()


def test_an_empty_file_is_named(tmp_path):
    """As bytes and as a path."""
    path = tmp_path / "empty.onnx"
    path.touch()

    for source in (b"", path):
        with pytest.raises(InvalidGraph, match="The file is empty; found 0 bytes"):
            load(source)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x02}q\x00." + b"\0" * 99, "a pickle"),
        (b"\x80\x05\x95\x0f\x00" + b"\0" * 99, "a pickle"),
        (_archive("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py"), "a TorchScript archive"),
        (_archive("net/archive_format", "net/models/model.json"), "a torch.export archive"),
        (_archive("net/data.pkl", "net/data/0", "net/version"), "a pickle in a zip archive"),
        (_archive("net/inner.onnx"), "a zip archive that contains an ONNX file"),
        (_archive("other.txt"), "a zip archive"),
        (b"PK\x03\x04" + b"\0" * 99, "a damaged zip archive"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "an HDF5 file"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 99, "a TensorFlow Lite file"),
        (b"\x1f\x8b\x08" + b"\0" * 99, "a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_another_format_is_named_with_advice(content, kind):
    """By its first bytes or its table of contents; nothing is unpacked."""
    with pytest.raises(InvalidGraph) as caught:
        load(content)

    assert str(caught.value.actual).startswith(kind)
    assert "torch.onnx.export" in caught.value.advice


def test_files_that_torch_writes_are_named(tmp_path):
    """Real files of torch.save, torch.export.save and zip-less pickles."""
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    torch.save(module.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3),)), tmp_path / "net.pt2")

    for name, kind in (("state.pt", "a pickle"), ("old.pt", "a pickle"), ("net.pt2", "a torch.export archive")):
        with pytest.raises(InvalidGraph) as caught:
            load(tmp_path / name)
        assert str(caught.value.actual).startswith(kind)


@given(st.binary(min_size=1, max_size=2000))
def test_random_bytes_are_refused(content):
    """Whatever they are, by an error of the engine."""
    with pytest.raises(PruningError):
        load(content)


@given(st.integers(1, 5000))
def test_a_truncated_file_is_refused(length):
    """Cut anywhere."""
    whole = onnx_bytes("chain")

    with pytest.raises(PruningError):
        load(whole[: min(length, len(whole) - 1)])


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(data):
    """One byte changed anywhere outside the large weights gives a graph or an error of the engine, nothing else."""
    whole = bytearray(onnx_bytes("squeeze_excite"))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] = data.draw(st.integers(0, 255))

    try:
        load(bytes(whole))
    except PruningError as error:
        assert error.message


def test_a_constant_that_does_not_fit_its_shape_is_named():
    """Three numbers in a tensor that has lost its length."""
    text = HEADER + "odd (float[1,3] x) => (float[1,3] y) { [held] k = Constant <value = float[3] {1, 2, 3}> ()"
    model = onnx.parser.parse_model(text + " y = Add (x, k) }")
    tensor = model.graph.node[0].attribute[0].t
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.arange(3, dtype=np.float32)))
    del tensor.dims[:]

    with pytest.raises(InvalidGraph):
        load(model.SerializeToString())


def test_a_file_larger_than_the_cap_is_refused_unread(tmp_path):
    """By its size alone: the file is sparse, and its bytes are no ONNX."""
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 3 << 30)

    with pytest.raises(GraphTooLarge, match="found 3,221,225,472 bytes; allowed 2,147,483,647 bytes"):
        load(path)
    with pytest.raises(GraphTooLarge, match="allowed 100 bytes"):
        load(b"x" * 101, Caps(content_bytes=100))


@pytest.mark.parametrize(("version", "text"), [(6, "found 6"), (NEWEST_OPSET + 1, f"found {NEWEST_OPSET + 1}")])
def test_an_opset_outside_the_range_is_refused(version, text):
    """The message states the range."""
    model = proto(CHAIN)
    model.opset_import[0].version = version

    with pytest.raises(UnsupportedOpset, match=f"{text}; allowed 7 to {NEWEST_OPSET}"):
        load(model.SerializeToString())


def test_a_file_without_an_opset_is_refused():
    """Nothing is assumed."""
    model = proto(CHAIN)
    del model.opset_import[:]

    with pytest.raises(UnsupportedOpset, match="names no opset"):
        load(model.SerializeToString())


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../../secret", "link"])
@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph"])
def test_external_data_is_refused_and_not_opened(tmp_path, monkeypatch, location, place):
    """Wherever the tensor stands and wherever it points; the message names both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = proto(CHAIN)
    tensor = model.graph.initializer[0]
    if place != "initializer":
        node = model.graph.node.add(op_type="Constant", output=["k"])
        tensor = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
        tensor.CopyFrom(model.graph.initializer[0])
        tensor.name = "held"
        if place == "subgraph":
            outer = model.graph.node.add(op_type="If", input=["x"], output=["z"])
            outer.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.node.append(node)
            model.graph.node.remove(node)
            tensor = outer.attribute[0].g.node[0].attribute[0].t
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())

    for source in (path, path.read_bytes()):
        with pytest.raises(ExternalData) as caught:
            load(source)
        assert tensor.name in caught.value.where
        assert repr(location) in str(caught.value.actual)


@pytest.mark.parametrize(
    "body",
    [
        "y = ConstantOfShape (s)",
        "c = ConstantOfShape (s) y = Expand (x, s)",
        "y = Expand (x, s)",
        "y = Tile (x, s)",
    ],
)
def test_a_tiny_graph_that_asks_for_gigabytes_is_refused_without_allocating(body):
    """By inferred shapes alone."""
    text = HEADER + "bomb (float[1,1] x) => (float[a,b] y) <int64[2] s = {92682, 92682}> {" + body + "}"
    content = onnx.parser.parse_model(text).SerializeToString()

    tracemalloc.start()
    with pytest.raises(GraphTooLarge, match="elements"):
        load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 16 << 20


def test_a_chain_of_growing_constants_is_refused():
    """Where shape inference does not know the sizes, folding counts them before it allocates."""
    text = (
        HEADER
        + """bomb (float[1] x) => (float[n] y) <float[1] a = {30000}, float[1] zero = {0}> {
        squared = Mul (a, a)
        n = Cast <to = 7> (squared)
        c = ConstantOfShape (n)
        y = Add (x, c) }"""
    )

    with pytest.raises(GraphTooLarge, match=r"ConstantOfShape.*found 900,000,000 elements"):
        load(onnx.parser.parse_model(text).SerializeToString())


def test_counts_and_ranks_beyond_the_caps_are_refused():
    """Each with the number found and the number allowed."""
    for caps, what in (
        (Caps(nodes=3), "too many nodes; found 7; allowed 3"),
        (Caps(initializers=3), "too many initializers; found 6; allowed 3"),
        (Caps(rank=3), "too many axes"),
        (Caps(tensor_elements=100), "too large"),
        (Caps(total_elements=1000), "too large together"),
        (Caps(weight_elements=1000), "weights are too large together"),
    ):
        with pytest.raises(GraphTooLarge, match=what):
            load(onnx_bytes("chain"), caps)


def test_nested_bodies_beyond_the_cap_are_refused():
    """If within If within If."""
    inner = onnx.GraphProto(name="body")
    inner.node.add(op_type="Identity", input=["x"], output=["z"])
    for _ in range(10):
        outer = onnx.GraphProto(name="body")
        node = outer.node.add(op_type="If", input=["c"], output=["z"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
        inner = outer
    model = proto(CHAIN)
    model.graph.node.extend(inner.node)

    with pytest.raises(GraphTooLarge, match="nested too deeply; found 9; allowed 8"):
        load(model.SerializeToString())


def test_functions_that_expand_without_end_are_refused():
    """Their expansion is counted before it is made: 2 ** 20 nodes from twenty small functions."""
    model = proto(CHAIN)
    model.opset_import.add(domain="mine", version=1)
    for level in range(7):
        function = model.functions.add(name=f"f{level}", domain="mine", input=["a"], output=["b"])
        function.opset_import.add(domain="", version=17)
        function.opset_import.add(domain="mine", version=1)
        for copy in range(10):
            name = {"op_type": f"f{level - 1}", "domain": "mine"} if level else {"op_type": "Relu"}
            function.node.add(input=["a" if copy == 0 else f"v{copy}"], output=[f"v{copy + 1}"], **name)
        function.node.add(op_type="Identity", input=["v10"], output=["b"])
    model.graph.node.add(op_type="f6", domain="mine", input=["x"], output=["z"])

    with pytest.raises(GraphTooLarge, match="too many nodes"):
        load(model.SerializeToString())


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["conv1_w", "fc_b"])
def test_weights_that_are_not_finite_are_named(name, number):
    """With the node that reads them; large and small ones."""
    model = proto(CHAIN)
    tensor = next(entry for entry in model.graph.initializer if entry.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[2] = number
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))

    with pytest.raises(NonFiniteScore, match=rf"initializer '{name}' of node '{name[:-2]}'; found 1 of"):
        load(model.SerializeToString())


def test_infinity_in_a_mask_is_a_legal_constant():
    """Attention masks are added, not trained."""
    text = HEADER + "masked (float[N,2] x) => (float[N,2] y) <float[2] m = {0, -inf}> { y = Add (x, m) }"
    model = onnx.parser.parse_model(text.replace("-inf", "-1"))
    mask = np.asarray([0, -np.inf], np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(mask, "m"))

    assert load(model.SerializeToString()).graph.num_nodes() == 1


def test_contradicting_shapes_are_refused_by_the_checker():
    """The message is the checker's."""
    model = proto(CHAIN)
    model.graph.node[2].attribute[0].ints[:] = [1, 1, 1]

    with pytest.raises(InvalidGraph, match=r"checker|contradict"):
        load(model.SerializeToString())


def test_a_kernel_larger_than_its_input_is_refused():
    """The length that is left is negative; a Slice behind it would end the process within onnx."""
    text = """small (float[N,1,8,8] x) => (float[N,1,h,w] y)
        <float[1,1,1,39] w = {WEIGHTS}, int64[1] s = {0}, int64[1] e = {4}, int64[1] a = {3}> {
        c = Conv (x, w)
        y = Slice (c, s, e, a) }""".replace("WEIGHTS", ", ".join(["1"] * 39))

    with pytest.raises(InvalidGraph, match=r"negative length; at value 'c'; found \[1, 1, 8, -30\]"):
        load(onnx.parser.parse_model(HEADER + text).SerializeToString())


def test_a_weight_with_missing_bytes_is_refused():
    """Before anything reads it."""
    model = proto(CHAIN)
    model.graph.initializer[2].raw_data = model.graph.initializer[2].raw_data[:-4]

    with pytest.raises(InvalidGraph, match="wrong number of bytes; at initializer 'conv2_w'"):
        load(model.SerializeToString())


def test_an_input_without_a_rank_is_refused():
    """Nothing can be said about its channels."""
    text = HEADER + "free (float[] x) => (float[] y) { y = Relu (x) }"
    model = onnx.parser.parse_model(text)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")

    with pytest.raises((UnknownShape, InvalidGraph), match=r"shape"):
        load(model.SerializeToString())
