"""Weights in a companion file: put in place on the way in, moved out where one message is too small."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.networks import onnx_bytes
from workers.pruning.errors import ExternalData
from workers.pruning.graph.external import content_of, inlined
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.split import LARGEST_MESSAGE, as_file_or_bytes, split, write_split

NETWORK = "residual"


def outside(**entries: str) -> onnx.ModelProto:
    """Give a network whose one weight of 3 x 4 floats refers to a companion in the words of `entries`."""
    body = "g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { y = MatMul (x, w) }"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 17]> {body}')
    weight = proto.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[3, 4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return proto


def test_moving_weights_out_and_in_again_gives_the_same_bytes(tmp_path):
    """Whatever lay in the file before lies there again."""
    content = onnx_bytes(NETWORK)

    path, companion = write_split(content, tmp_path / "network.onnx")

    assert path.stat().st_size < len(content)
    assert companion.name == "network.onnx.data"
    assert content_of(path) == content
    assert to_bytes(load(path)) == to_bytes(load(content))


def test_a_split_network_is_what_onnx_and_onnx_runtime_read(tmp_path):
    """Both find the weights by the name and the offsets that were written; each lies on a page boundary."""
    content = onnx_bytes(NETWORK)
    path, companion = write_split(content, tmp_path / "network.onnx")
    noise = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)

    onnx.checker.check_model(str(path), full_check=True)
    first, second = (ort.InferenceSession(source) for source in (str(path), content))
    shapes = {spec.name: [n if isinstance(n, int) else 2 for n in spec.shape] for spec in first.get_inputs()}
    feeds = {name: np.resize(noise, shape) for name, shape in shapes.items()}

    for a, b in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
    assert companion.stat().st_size % 4096 == 0


def test_a_companion_of_another_library_is_read(tmp_path):
    """As onnx itself saves it, all tensors in one file of a name of the exporter's choice."""
    proto = onnx.load_from_string(onnx_bytes(NETWORK))
    onnx.save_model(
        proto, str(tmp_path / "theirs.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    (tmp_path / "weights.bin").rename(tmp_path / "theirs.onnx.data")

    assert to_bytes(load(tmp_path / "theirs.onnx")) == to_bytes(load(onnx_bytes(NETWORK)))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"location": "a", "offset": "8", "length": "48"}, "bytes 8 to 56; allowed up to 48"),
        ({"location": "a", "length": "44"}, "length 44; allowed 48"),
        ({"location": "a", "offset": "-1"}, "offset of a weight is no number"),
        ({"location": "a", "offset": "9" * 30}, "offset of a weight is no number"),
        ({"location": "a", "basepath": "/etc"}, "unknown way.*basepath"),
    ],
)
def test_a_reference_that_cannot_be_followed_is_refused_by_the_name_of_its_tensor(entries, text):
    """With what it says and what it may say."""
    with pytest.raises(ExternalData, match=rf"(?s)(?=.*tensor 'w')(?=.*{text})"):
        inlined(outside(**entries).SerializeToString(), memoryview(bytes(48)))


def test_a_path_in_a_reference_is_never_opened():
    """The bytes come from the companion whatever the location says."""
    weight = np.arange(12, dtype=np.float32)
    proto = outside(location="../../etc/passwd")

    loaded = load(inlined(proto.SerializeToString(), memoryview(weight.tobytes())))

    value = loaded.graph.initializers["w"].const_value
    assert value is not None
    np.testing.assert_array_equal(value.numpy().reshape(-1), weight)


def test_weights_in_several_files_are_refused_with_the_way_to_one():
    """One tensor per file is how old exporters save."""
    proto = outside(location="w")
    other = proto.graph.initializer.add()
    other.CopyFrom(proto.graph.initializer[0])
    other.name = "v"
    other.external_data[0].value = "v"

    with pytest.raises(ExternalData, match=r"(?s)several files.*'v', 'w'.*all_tensors_to_one_file"):
        inlined(proto.SerializeToString(), memoryview(bytes(96)))


def test_weights_that_together_exceed_the_companion_are_refused():
    """A small file that a thousand large weights share would otherwise fill the memory."""
    proto = outside(location="a")
    for number in range(3):
        other = proto.graph.initializer.add()
        other.CopyFrom(proto.graph.initializer[0])
        other.name = f"v{number}"

    with pytest.raises(ExternalData, match="192 bytes are referred to; allowed 48"):
        inlined(proto.SerializeToString(), memoryview(bytes(48)))


def test_a_network_without_its_companion_is_refused(tmp_path):
    """The companion is asked for by the name of the part that takes it."""
    (tmp_path / "network.onnx").write_bytes(split(onnx_bytes(NETWORK), "w.data").network)

    with pytest.raises(ExternalData, match="external_data"):
        load(tmp_path / "network.onnx")


def test_only_what_no_message_holds_is_written_to_a_file():
    """Small networks stay bytes."""
    content = onnx_bytes(NETWORK)
    with as_file_or_bytes(content) as readable:
        assert readable is content
    assert LARGEST_MESSAGE == 2**31 - 1
