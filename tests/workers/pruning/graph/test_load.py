"""What loading makes of a graph: the same function in the form that every stage expects."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.networks import NETWORKS, RESIDUAL, graph, inputs, onnx_bytes, proto
from tests.workers.pruning.graph.single import run_reference
from workers.pruning.errors import GraphTooLarge
from workers.pruning.graph.caps import Caps
from workers.pruning.graph.load import input_specs, load, output_specs
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.weights import weights

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'


def _load_text(text: str, *, header: str = HEADER) -> ir.Model:
    return load(onnx.parser.parse_model(header + text).SerializeToString())


def _ops(loaded: ir.Model) -> list[str]:
    return [node.op_type for node in loaded.graph]


def _same_function(before: bytes, after: bytes, feeds: dict[str, np.ndarray]) -> None:
    for expected, actual in zip(run_reference(before, feeds), run_reference(after, feeds), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_of_a_network_stays(name):
    """Outputs before and after loading agree."""
    content = onnx_bytes(name)
    loaded = load(content)

    _same_function(content, to_bytes(loaded), {loaded.graph.inputs[0].name: inputs(loaded)[0]})


@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_has_a_shape_and_the_batch_stays_symbolic(name):
    """Including the outputs of all nodes."""
    loaded = graph(name)

    for node in loaded.graph:
        for value in node.outputs:
            assert value.shape is not None
            assert value.dtype is not None
    assert input_specs(loaded)[0].shape[0] == output_specs(loaded)[0].shape[0] == "N"


def test_loading_again_changes_nothing():
    """Loading is a projection: what it writes, it reads back byte for byte."""
    for name in NETWORKS:
        once = to_bytes(graph(name))

        assert to_bytes(load(once)) == once


def test_a_path_and_its_bytes_give_the_same_graph(tmp_path: Path):
    """The mapped file is closed afterwards: nothing of it is referred to."""
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_bytes("residual"))
    from_path = load(path)
    path.unlink()

    assert to_bytes(from_path) == to_bytes(load(onnx_bytes("residual")))


def test_names_inputs_outputs_and_metadata_stay():
    """Graph name, documentation, producer, opset, metadata, order and dtypes of inputs and outputs."""
    model = proto(RESIDUAL)
    model.doc_string, model.graph.doc_string = "of the file", "of the graph"
    model.metadata_props.add(key="author", value="someone")
    model.graph.input.add().CopyFrom(onnx.ValueInfoProto(name="unused"))
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.input[1].type.tensor_type.shape.dim.add(dim_value=2)
    saved = onnx.ModelProto.FromString(to_bytes(load(model.SerializeToString())))

    assert saved.graph.name == "residual"
    assert (saved.doc_string, saved.graph.doc_string) == ("of the file", "of the graph")
    assert saved.producer_name == "tests"
    assert [(entry.key, entry.value) for entry in saved.metadata_props] == [("author", "someone")]
    assert [(entry.domain, entry.version) for entry in saved.opset_import] == [("", 17)]
    assert [value.name for value in saved.graph.input] == ["x", "unused"]
    assert list(saved.graph.output) == list(model.graph.output)


def test_nodes_get_names_of_their_own():
    """Missing and repeated names are filled in; those that are unique stay."""
    loaded = _load_text("""named (float[N,2] x) => (float[N,2] y) {
        [same] a = Relu (x)
        [same] b = Sigmoid (a)
        c = Tanh (b)
        [last] y = Neg (c) }""")
    names = [node.name for node in loaded.graph]

    assert (names[0], names[3]) == ("same", "last")
    assert len(set(names)) == 4
    assert all(names)


def test_arithmetic_on_known_lengths_is_worked_out():
    """Remainders, bounds, signs and triangles, as unoptimised exports write rolled images and masks; -5 mod 8 is 3."""
    loaded = _load_text("""rolled (float[N,8] x, float[2,2] z) => (float[N,5] y, float[2,2] t)
        <int64[1] shift = {-5}, int64[1] end = {8}, int64[1] axis = {1}, int64 low = {0}, int64 high = {9},
         float[2,2] ones = {1, 1, 1, 1}> {
        s = Shape <start = 1> (x)
        m = Mod (shift, s)
        c = Clip (m, low, high)
        g = Sign (c)
        k = Mul (c, g)
        y = Slice (x, k, end, axis)
        lower = Trilu <upper = 0> (ones)
        t = Mul (z, lower) }""")

    assert [["Slice"], ["Mul"]] == [[node.op_type] for node in loaded.graph]
    start, triangle = (node.inputs[1].const_value.numpy() for node in loaded.graph)
    np.testing.assert_array_equal(start, [3])
    np.testing.assert_array_equal(triangle, [[1, 0], [1, 1]])


def test_shared_initializers_become_separate():
    """One bias that two convolutions read becomes two, with equal numbers; the first reader keeps the name."""
    loaded = _load_text("""shared (float[N,2,4,4] x) => (float[N,2,4,4] y)
        <float[2,2,1,1] v = {1, 2, 3, 4}, float[2,2,1,1] w = {4, 3, 2, 1}, float[2] b = {5, 6}> {
        [one] a = Conv (x, v, b)
        [two] y = Conv (a, w, b) }""")
    first, second = loaded.graph

    assert [value.name for value in first.inputs] == ["x", "v", "b"]
    assert [value.name for value in second.inputs] == ["a", "w", "b_2"]
    held = weights(loaded)
    np.testing.assert_array_equal(held["b"], held["b_2"])


def test_separating_a_large_shared_weight_is_capped():
    """Ten readers of one weight count ten times."""
    nodes = "".join(f"a{i + 1} = Add (a{i}, w) " for i in range(10))
    text = f"shared (float[4] a0) => (float[4] a10) <float[4] w = {{1, 2, 3, 4}}> {{ {nodes} }}"
    content = onnx.parser.parse_model(HEADER + text).SerializeToString()

    with pytest.raises(GraphTooLarge, match="found 40 elements; allowed 39"):
        load(content, Caps(weight_elements=39))


def test_initializers_listed_as_inputs_are_no_inputs():
    """As files before IR version 4 have to list them."""
    loaded = _load_text(
        """old (float[N,2] x, float[2,2] w) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }""",
        header='<ir_version: 3, opset_import: ["" : 8]>',
    )

    assert [spec.name for spec in input_specs(loaded)] == ["x"]
    assert loaded.ir_version == 4


def test_constants_become_initializers_and_aliases_vanish():
    """Constant of every kind, Identity of a weight, Identity between nodes."""
    loaded = _load_text("""aliases (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> {
        v = Identity (w)
        a = MatMul (x, v)
        b = Identity (a)
        k = Constant <value_floats = [1.0, 2.0]> ()
        c = Add (b, k)
        s = Constant <value_float = 2.0> ()
        y = Mul (c, s) }""")

    assert _ops(loaded) == ["MatMul", "Add", "Mul"]
    assert [value.name for node in loaded.graph for value in node.inputs] == ["x", "w", "a", "k", "c", "s"]


def test_an_identity_between_input_and_output_stays():
    """Names of inputs and outputs are promised."""
    loaded = _load_text("""passing (float[N,2] x) => (float[N,2] y, float[N,2] z) { y = Identity (x) z = Relu (x) }""")

    assert _ops(loaded) == ["Identity", "Relu"]


def test_parameters_behind_exporter_chains_are_found():
    """Expand, CastLike and Shape around constants, as exports without optimisation write them."""
    loaded = _load_text("""chain (float[N,2,4,4] x) => (float[N,3,4,4] y) <float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}> {
        shape = Shape <end = 1> (w)
        half = Constant <value_float = 0.5> ()
        cast = CastLike (half, x)
        b = Expand (cast, shape)
        y = Conv (x, w, b) }""")

    assert _ops(loaded) == ["Conv"]
    np.testing.assert_array_equal(weights(loaded)["b"], np.full(3, 0.5, np.float32))


def test_a_bias_of_zeros_is_dropped():
    """Exporters write one for every convolution without bias; other zeros stay."""
    loaded = _load_text(
        """zeros (float[N,2,4,4] x) => (float[N,2] y)
        <float[2,2,1,1] w = {1, 2, 3, 4}, float[2] b = {0, 0}, float[2,32] v, float[2] c = {0, 0}> {
        a = Conv (x, w, b)
        f = Flatten (a)
        y = Gemm <transB = 1> (f, v, c) }""".replace("float[2,32] v", "float[2,32] v = {" + "1," * 63 + "1}")
    )
    conv, _, gemm = loaded.graph

    assert len(conv.inputs) == 2
    assert len(gemm.inputs) == 3


def test_a_pad_chain_of_the_legacy_exporter_becomes_a_constant():
    """ConstantOfShape, Concat, Reshape, Slice, Transpose, Cast."""
    loaded = _load_text("""pads (float[N,2,4,4] x) => (float[N,2,6,4] y)
        <int64[1] four = {4}, int64[4] given = {0, 0, 0, 0},
        int64[2] pairs = {-1, 2}, int64[1] s = {-1}, int64[1] e = {-9223372036854775807}, int64[1] a = {0},
        int64[1] t = {-1}, int64[1] flat = {-1}, int64[4] more = {0, 0, 1, 1}> {
        z = ConstantOfShape <value: tensor = int64[1] {0}> (four)
        c = Concat <axis = 0> (more, z)
        r = Reshape (c, pairs)
        v = Slice (r, s, e, a, t)
        w = Transpose <perm = [1, 0]> (v)
        f = Reshape (w, flat)
        p = Cast <to = 7> (f)
        y = Pad (x, p) }""")

    assert _ops(loaded) == ["Pad"]
    # By hand: pairs (begin, end) with the last axis first; reversed, all beginnings, then all ends.
    np.testing.assert_array_equal(loaded.graph.initializers["p"].const_value.numpy(), [0, 0, 1, 0, 0, 0, 1, 0])


def test_a_reshape_with_the_batch_in_its_target_becomes_constant():
    """Shape, Gather, Unsqueeze and Concat around a symbolic batch end as 0, which copies the axis."""
    loaded = _load_text("""dynamic (float[N,2,3,4] x) => (float[N,24] y)
        <int64 zero = {0}, int64[1] first = {0}, int64[1] rest = {24}> {
        shape = Shape (x)
        n = Gather (shape, zero)
        u = Unsqueeze (n, first)
        t = Concat <axis = 0> (u, rest)
        y = Reshape (x, t) }""")
    (node,) = loaded.graph

    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), [0, 24])


def test_a_reshape_with_arithmetic_on_the_batch_computes_the_axis():
    """Batch times heads is unknown beforehand; -1 says so."""
    loaded = _load_text("""heads (float[N,6,4] x) => (float[M,3,4] y)
        <int64 zero = {0}, int64 two = {2}, int64[1] first = {0}, int64[2] rest = {3, 4}> {
        shape = Shape (x)
        n = Gather (shape, zero)
        m = Mul (n, two)
        u = Unsqueeze (m, first)
        t = Concat <axis = 0> (u, rest)
        y = Reshape (x, t) }""")
    (node,) = loaded.graph

    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), [-1, 3, 4])


def test_axes_that_share_a_meaningless_name_are_not_taken_for_equal():
    """Some exporters call every unknown axis by the same sign."""
    text = """unknown (float[N,2,h,w] x) => (float[N,c,p] y)
        <int64 two = {2}, int64 three = {3}, int64[1] z = {0}, int64[2] rest = {0, 2}> {
        shape = Shape (x)
        w = Gather (shape, three)
        u = Unsqueeze (w, z)
        t = Concat <axis = 0> (rest, u)
        y = Reshape (x, t) }"""
    model = onnx.parser.parse_model(HEADER + text)
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "?"
    node = load(model.SerializeToString()).graph[0]

    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), [0, 2, -1])


def test_dead_nodes_and_unused_initializers_vanish():
    """Outputs decide what is alive."""
    loaded = _load_text("""dead (float[N,2] x) => (float[N,2] y) <float[2] u = {1, 2}, float[2] w = {3, 4}> {
        d = Add (x, w)
        e = Relu (d)
        y = Neg (x) }""")

    assert _ops(loaded) == ["Neg"]
    assert not loaded.graph.initializers


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("opset", [10, 17])
def test_concatenation_with_zeros_becomes_padding(first, opset):
    """A shortcut that gains channels of zeros is padding, whatever the exporter calls it."""
    order = "zeros, x" if first else "x, zeros"
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    text = f"""widen (float[1,2,2,2] x) => (float[1,5,2,2] y) <int64[4] s = {{1, 3, 2, 2}}> {{
        zeros = ConstantOfShape (s)
        y = Concat <axis = 1> ({order}) }}"""
    content = onnx.parser.parse_model(header + text).SerializeToString()
    loaded = load(content)

    assert _ops(loaded) == ["Pad"]
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)}
    _same_function(content, to_bytes(loaded), feeds)


def test_functions_of_the_file_are_inlined():
    """An operator that the file defines itself becomes its nodes."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        outer (float[N,2] x) => (float[N,2] y) { [call] y = mine.Twice (x) }
        <domain: "mine", opset_import: ["" : 17]> Twice (a) => (b) { c = Relu (a) b = Neg (c) }""")
    loaded = load(model.SerializeToString())

    assert _ops(loaded) == ["Relu", "Neg"]
    assert not loaded.functions


def test_control_flow_is_left_alone():
    """If keeps its branches; the weights that a branch reads stay."""
    loaded = _load_text("""choice (bool c, float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> {
        a = Relu (x)
        y = If (c) <
          then_branch = then () => (float[N,2] t) { t = Add (a, w) },
          else_branch = other () => (float[N,2] e) { e = Neg (a) }
        > }""")

    assert _ops(loaded) == ["Relu", "If"]
    assert list(loaded.graph.initializers) == ["w"]
    content = to_bytes(loaded)
    feeds = {"c": np.asarray(True), "x": np.asarray([[-1.0, 2.0]], np.float32)}
    np.testing.assert_array_equal(run_reference(content, feeds)[0], [[1.0, 4.0]])


def test_an_axis_written_as_minus_one_is_unknown():
    """ONNX knows no negative lengths, some exporters write them."""
    model = onnx.parser.parse_model(HEADER + "minus (float[N,2] x) => (float[N,2] y) { y = Relu (x) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1

    assert input_specs(load(model.SerializeToString()))[0].shape == (None, 2)


def test_a_split_into_a_sequence_becomes_a_split():
    """As exports without optimisation write a chunk; by one length and by a list."""
    for parts, count in (("int64 n = {3}", 3), ("int64[2] n = {3, 5}", 2)):
        text = f"""chunk (float[N,8] x) => (float[N,m] y) <{parts}, int64 i = {{0}}, int64 j = {{-1}}> {{
            s = SplitToSequence <axis = 1> (x, n)
            a = SequenceAt (s, i)
            b = SequenceAt (s, j)
            y = Concat <axis = 1> (b, a) }}"""
        content = onnx.parser.parse_model(HEADER + text).SerializeToString()
        loaded = load(content)

        assert _ops(loaded) == ["Split", "Concat"]
        assert len(loaded.graph[0].outputs) == count
        feeds = {"x": np.arange(16, dtype=np.float32).reshape(2, 8)}
        _same_function(content, to_bytes(loaded), feeds)
