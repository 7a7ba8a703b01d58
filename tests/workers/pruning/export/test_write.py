"""The written file: the interface of the upload, its metadata, the same bytes each time."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests import networks
from workers.pruning.errors import ParityFailed
from workers.pruning.export.write import write
from workers.pruning.graph.load import load
from workers.pruning.graph.weights import replace_weights, weights

METADATA = {"espalier.method": "auto", "espalier.seed": "0"}


def upload(**changes):
    """Give a file as a user might have made it, with metadata of their own."""
    proto = networks.proto(networks.CHAIN)
    proto.producer_name, proto.producer_version = "exporter", "7"
    proto.doc_string, proto.graph.doc_string = "for the orchard", "a chain"
    proto.model_version, proto.domain = 3, "org.example"
    for name, value in {"author": "someone", **changes}.items():
        proto.metadata_props.add(key=name, value=value)
    return load(proto.SerializeToString())


def test_equal_graphs_give_equal_bytes():
    """Writing twice, from graphs loaded twice, gives the same bytes whatever the order of the metadata."""
    turned = dict(reversed(METADATA.items()))

    assert write(upload(), upload(), METADATA) == write(upload(), upload(), turned)


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_the_interface_of_the_upload_is_kept(name):
    """Inputs, outputs, dtypes, symbolic axes, opsets and names are those of the file that was uploaded."""
    source = onnx.load_from_string(networks.onnx_bytes(name))
    graph = load(source.SerializeToString())

    written = onnx.load_from_string(write(graph, graph, METADATA))

    weights_of_source = {tensor.name for tensor in source.graph.initializer}
    assert list(written.graph.input) == [i for i in source.graph.input if i.name not in weights_of_source]
    assert list(written.graph.output) == list(source.graph.output)
    assert list(written.opset_import) == list(source.opset_import)
    assert written.graph.name == source.graph.name
    assert written.ir_version == source.ir_version


def test_what_stands_around_the_nodes_is_kept():
    """Producer, documentation, domain and version of the file stay; metadata is kept and added to, in order."""
    written = onnx.load_from_string(write(upload(), upload(), METADATA))

    assert (written.producer_name, written.producer_version) == ("exporter", "7")
    assert (written.doc_string, written.graph.doc_string) == ("for the orchard", "a chain")
    assert (written.model_version, written.domain) == (3, "org.example")
    assert [(entry.key, entry.value) for entry in written.metadata_props] == [
        ("author", "someone"),
        ("espalier.method", "auto"),
        ("espalier.seed", "0"),
    ]


def test_pruning_again_states_the_last_pruning():
    """Metadata of an earlier pruning is replaced, not repeated."""
    graph = upload(**{"espalier.method": "random"})

    written = onnx.load_from_string(write(graph, graph, METADATA))

    assert [entry.value for entry in written.metadata_props if entry.key == "espalier.method"] == ["auto"]


def test_the_graph_is_left_as_it_was():
    """Writing does not add the metadata to the graph itself."""
    graph = upload()

    write(graph, graph, METADATA)

    assert dict(graph.metadata_props) == {"author": "someone"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: setattr(graph.graph.outputs[0], "name", "z"), ["output 'y'", "'z' float32['N', 4]"]),
        (lambda graph: setattr(graph.graph.inputs[0], "name", "z"), ["input 'x'", "'z' float32['N', 3, 8, 8]"]),
        (
            lambda graph: setattr(graph.graph.inputs[0], "shape", ir.Shape([1, 3, 8, 8])),
            ["input 'x'", "float32[1, 3, 8, 8]", "float32['N', 3, 8, 8]"],
        ),
        (lambda graph: setattr(graph.graph.outputs[0], "dtype", ir.DataType.FLOAT16), ["output 'y'", "float16"]),
        (lambda graph: graph.graph.outputs.append(graph.graph.inputs[0]), ["number of outputs", "found 2; allowed 1"]),
        (lambda graph: graph.opset_imports.update({"": 18}), ["other opsets", "18", "17"]),
    ],
)
def test_another_interface_is_refused(change, words):
    """A file that could not stand where the upload stood is not written; the first difference is named."""
    graph = upload()
    change(graph)

    with pytest.raises(ParityFailed) as error:
        write(graph, upload(), METADATA)

    for word in words:
        assert word in error.value.message


def test_files_that_the_checker_refuses_are_not_written():
    """A weight whose shape contradicts the graph does not reach a user."""
    graph = upload()
    broken = replace_weights(graph, {"fc_w": np.zeros((4, 5), np.float32)})

    with pytest.raises(ParityFailed, match="ONNX checker refuses"):
        write(broken, graph, METADATA)
    assert weights(graph)["fc_w"].shape == (4, 12)
