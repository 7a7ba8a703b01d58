"""Operators that only ONNX Runtime knows: taken apart into the standard, told about and left, or refused."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from tests.workers.pruning.graph.single import run_reference
from tests.workers.pruning.seeded import MIXED, RESIDUAL, seeded
from workers.pruning.errors import InvalidGraph, UnsupportedOperator
from workers.pruning.graph.cost import count
from workers.pruning.graph.execute import foreign_nodes
from workers.pruning.graph.load import load, rewritten
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.shapes import shapes_at_batch
from workers.pruning.groups.find import find

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
TOKENS = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
FILTERS = "float[4, 3, 3, 3] w, float[4] b, float[4, 4, 1, 1] v"
VECTORS = "float[8] scale, float[8] b, float[8] s"
QKV = "float[8, 24] w, float[24] b"
CONV = f"(float[N, 3, 8, 8] x, {FILTERS}) => (float[N, 4, 8, 8] y)"
TOKEN = f"(float[N, 5, 8] x, {VECTORS}) => (float[N, 5, 8] y)"
ATTENTION = f"(float[N, 5, 8] x, {QKV}) => (float[N, 5, 8] y)"
ACTIVATIONS = {
    "Relu": "", "Sigmoid": "", "Tanh": "", "LeakyRelu": "0.1", "Clip": "0.1, 0.9", "HardSigmoid": "0.3, 0.4",
}  # fmt: skip
SETTINGS = {"LeakyRelu": ", activation_alpha = 0.1", "Elu": ", activation_alpha = 0.7"}


def _conv(kind):
    params = f", activation_params = [{ACTIVATIONS[kind]}]" if ACTIVATIONS[kind] else ""
    first = f'com.microsoft.FusedConv <activation = "{kind}"{params}, pads = [1, 1, 1, 1]> (x, w, b)'
    return CONV, f'h = {first}  y = com.microsoft.FusedConv <activation = "{kind}"{params}> (h, v, , h)', 2


def _gemm(kind):
    own = f'activation = "{kind}"{SETTINGS.get(kind, "")}, transA = 1, alpha = 0.5'
    text = f"t = Transpose <perm = [1, 0]> (x)  y = com.microsoft.FusedGemm <{own}> (t, w, b)"
    return "(float[N, 8] x, float[8, 4] w, float[4] b) => (float[N, 4] y)", text, 1


def _matmul(settings):
    square = "h = com.microsoft.FusedMatMul <transB = 1, alpha = 0.3> (x, x)"
    text = f"{square}  i = Tanh (h)  y = com.microsoft.FusedMatMul <{settings}> (i, i)"
    return "(float[N, 5, 8] x) => (float[N, 5, 5] y)", text, 2


FORMS = {
    **{f"conv {kind}": _conv(kind) for kind in ACTIVATIONS},
    **{f"gemm {kind}": _gemm(kind) for kind in ("Relu", "LeakyRelu", "Elu", "Tanh")},
    "matmul of a transpose": _matmul("transB = 1"),
    "matmul of transposes": _matmul("transA = 1, transB = 1, alpha = 2.0"),
    "gelu": (TOKEN, "y = com.microsoft.Gelu (x)", 1),
    "gelu with a bias": (TOKEN, "y = com.microsoft.BiasGelu (x, b)", 1),
    "fast gelu": (TOKEN, "h = com.microsoft.FastGelu (x)  y = com.microsoft.FastGelu (h, b)", 2),
    "quick gelu": (TOKEN, "h = com.microsoft.QuickGelu (x)  y = com.microsoft.QuickGelu <alpha = 1.0> (h)", 2),
    "skip norm": (TOKEN, "y = com.microsoft.SkipLayerNormalization <epsilon = 0.01> (x, x, scale, b, s)", 1),
    "skip norm with its sum": (
        TOKEN.replace("float[N, 5, 8] y", "float[N, 5, 8] y, float[N, 5, 8] z"),
        "y, , , z = com.microsoft.SkipLayerNormalization (x, x, scale)", 1),
    "skip rms norm": (TOKEN, "y = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 0.01> (x, x, scale, b)", 1),
    "rms norm": (TOKEN, "y = SimplifiedLayerNormalization <axis = -1, epsilon = 0.01> (x, scale)", 1),
    "attention": (ATTENTION, "y = com.microsoft.Attention <num_heads = 2> (x, w, b)", 1),
    "causal attention": (ATTENTION, "y = com.microsoft.Attention <num_heads = 2, unidirectional = 1> (x, w, b)", 1),
    "attention by its own scale": (ATTENTION, "y = com.microsoft.Attention <num_heads = 4, scale = 0.2> (x, w, b)", 1),
    "separate projections": (
        "(float[N, 5, 8] x, float[8, 8] k, float[8, 12] w, float[28] b) => (float[N, 5, 12] y)",
        "p = MatMul (x, k)  q = MatMul (x, w)\ny = com.microsoft.MultiHeadAttention <num_heads = 2> (x, p, q, b)", 1),
}  # fmt: skip


def _header(opset):
    return f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'


def _file(form, opset):
    ends, body, _ = FORMS[form]
    return to_bytes(seeded(f"{_header(opset)} net {ends} {{ {body} }}"))


def _feed(form):
    if form.startswith("gemm"):
        return {"x": TOKENS[0]}
    return {"x": IMAGES if form.startswith("conv") else TOKENS}


def _require_equal(content, graph, feeds):
    pairs = zip(run_reference(content, feeds), run_reference(to_bytes(graph), feeds), strict=True)
    for wanted, found in pairs:
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("form", FORMS)
def test_every_rewrite_gives_what_onnx_runtime_gives(form, opset):
    """Only standard operators are left, under the names of the outputs; numbers agree to 1e-5 of the largest."""
    content = _file(form, opset)
    graph = load(content)
    onnx.checker.check_model(onnx.load_from_string(to_bytes(graph)), full_check=True)

    assert sum(rewritten(graph).values()) == FORMS[form][2]
    assert not [node for node in graph.graph if node.domain]
    assert not foreign_nodes(graph)
    _require_equal(content, graph, _feed(form))


@pytest.mark.parametrize("opset", [7, 10])
def test_old_opsets_get_the_forms_of_their_time(opset):
    """Limits of Clip are attributes up to opset 10; Erf came with 9, so a Gelu of opset 7 is left to ONNX Runtime."""
    content = _file("conv Clip", opset)
    _require_equal(content, load(content), {"x": IMAGES})
    content = _file("gelu", opset)
    graph = load(content)

    _require_equal(content, graph, {"x": TOKENS})
    assert len(foreign_nodes(graph)) == (1 if opset == 7 else 0)


@pytest.mark.parametrize("opset", [13, 16])
def test_layer_normalisation_of_before_the_standard(opset):
    """ONNX Runtime saves it in the standard domain, where the checker does not know it before opset 17."""
    text = f"net {TOKEN} {{ y = LayerNormalization <axis = -1> (x, scale, b) }}"
    content = to_bytes(seeded(_header(opset) + text))
    graph = load(content)

    assert rewritten(graph) == {"LayerNormalization": 1}
    _require_equal(content, graph, {"x": TOKENS})


BERT = f"""bert (int32[N, L] ids, int32[N, L] kinds, int32[N, L] mask, float[10, 8] words, float[7, 8] places,
    float[2, 8] tables, {VECTORS}, float[8, 24] w, float[24] c) => (float[N, L, 8] y) {{
  e, words_given, sum = com.microsoft.EmbedLayerNormalization <epsilon = 0.01>
    (ids, kinds, words, places, tables, scale, b, mask)
  a = com.microsoft.Attention <num_heads = 2> (e, w, c, MASK)
  y = com.microsoft.SkipLayerNormalization (e, a, scale, s) }}"""


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("mask", ["mask", "words_given"])
def test_embedding_and_masks(mask, opset):
    """A raw mask, and the number of words."""
    network = ir.from_onnx_text(_header(opset) + BERT.replace("MASK", mask))
    rng = np.random.default_rng(0)
    for value in list(network.graph.inputs)[3:]:
        network.graph.inputs.remove(value)
        value.const_value = ir.tensor(rng.normal(0, 0.5, value.shape.numpy()).astype(np.float32), name=value.name)
        network.graph.register_initializer(value)
    content = to_bytes(network)
    graph = load(content)
    padded = np.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    ids = rng.integers(0, 10, (2, 5)).astype(np.int32)

    _require_equal(content, graph, {"ids": ids, "kinds": ids % 2, "mask": padded})
    assert not foreign_nodes(graph)


def test_half_precision_gets_constants_of_its_type():
    """ONNX Runtime has no such kernel on processors, so that the reference is the float32 network."""
    wide = seeded(f"{_header(17)} net {TOKEN} {{ y = com.microsoft.BiasGelu (x, b) }}")
    network = onnx.load_from_string(to_bytes(wide))
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for held in network.graph.initializer:
        held.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held).astype(np.float16), held.name))
    graph = load(network.SerializeToString())
    (found,) = run_reference(to_bytes(graph), {"x": TOKENS.astype(np.float16)})
    (wanted,) = run_reference(to_bytes(wide), {"x": TOKENS})

    np.testing.assert_allclose(found, wanted, atol=5e-3)


@pytest.mark.parametrize("text", [MIXED, RESIDUAL])
def test_what_the_optimiser_saved_is_pruned_like_the_original(text, tmp_path):
    """Same groups, same work."""
    original = load(to_bytes(seeded(text)))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(to_bytes(original), options, providers=["CPUExecutionProvider"])
    graph = load(tmp_path / "optimised.onnx")

    assert rewritten(graph)["com.microsoft::FusedConv"] > 2
    assert [group.width for group in find(graph).groups] == [group.width for group in find(original).groups]
    assert count(graph).macs == count(original).macs


def _left(body, *, ends=CONV, opset=13, held=""):
    return to_bytes(seeded(f"{_header(opset)} net {ends} {held} {{ {body} }}"))


def test_what_has_no_rewrite_is_left_with_its_shape():
    """Onnx cannot infer it; it is asked of ONNX Runtime, and holds for any batch."""
    graph = load(_left("h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  i = com.microsoft.Inverse (h)  y = Conv (i, v)"))
    inverse = next(node for node in graph.graph if node.op_type == "Inverse")

    assert rewritten(graph) == {}
    assert foreign_nodes(graph) == {inverse.name}
    assert [str(length) for length in inverse.outputs[0].shape] == ["N", "4", "8", "8"]
    assert shapes_at_batch(graph, 3)["i"] == (3, 4, 8, 8)
    assert "rewritten" not in str(ir.to_proto(graph).metadata_props)


def test_a_rewrite_behind_what_is_left_waits_for_its_shape():
    """How many axes there are to transpose is known when ONNX Runtime has been asked."""
    graph = load(
        _left("h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  i = com.microsoft.Inverse (h)\n"
              "y = com.microsoft.FusedMatMul <transA = 1> (i, i)")
    )  # fmt: skip

    assert rewritten(graph) == {"com.microsoft::FusedMatMul": 1}
    assert len(foreign_nodes(graph)) == 1


def test_operators_within_functions_of_the_file_are_found():
    """A function is put in place of its calls before its nodes are."""
    network = onnx.load_from_string(_left("y = Relu (h)  ".replace("Relu (h)", "mine.act (x)"), ends=TOKEN))
    network.opset_import.add(domain="mine", version=1)
    inner = network.functions.add(name="act", domain="mine", input=["a"], output=["c"])
    inner.opset_import.add(domain="com.microsoft", version=1)
    inner.node.add(op_type="Gelu", domain="com.microsoft", input=["a"], output=["c"], name="bend")
    graph = load(network.SerializeToString())

    assert rewritten(graph) == {"com.microsoft::Gelu": 1}
    _require_equal(network.SerializeToString(), graph, {"x": TOKENS})


def test_what_nobody_can_run_is_refused_by_name():
    """The message names node, domain and operator, what is allowed and what to do."""
    network = onnx.load_from_string(_left("y = com.microsoft.Gelu (x)", ends=TOKEN))
    network.opset_import.add(domain="acme.ops", version=1)
    network.graph.node[0].domain, network.graph.node[0].op_type = "acme.ops", "Frobnicate"
    refused = r"nobody here can run; at node 'y'; found acme.ops::Frobnicate; allowed .* com.microsoft.*Export without"

    with pytest.raises(InvalidGraph, match=refused):
        load(network.SerializeToString())


def test_a_type_without_a_kernel_is_refused_with_the_reason():
    """An inverse of int32 numbers; the message lists the nodes that are left."""
    content = _left("y = com.microsoft.Inverse (x)", ends="(int32[N, 3, 3] x) => (int32[N, 3, 3] y)")
    with pytest.raises(UnsupportedOperator, match=r"does not run this network.*com.microsoft::Inverse 'y'; found"):
        load(content)


def test_files_of_an_old_version_need_not_repeat_their_weights():
    """ONNX Runtime saves what it made under the version of what it read, which may ask for that."""
    network = onnx.load_from_string(_file("conv Relu", 8))
    network.ir_version = 3

    assert load(network.SerializeToString()).ir_version == 4


@pytest.mark.data
@pytest.mark.parametrize("name", ["ultraface_rfb320", "winml_cifar10", "mnist_cntk", "yolox_nano"])
def test_foreign_files_that_the_optimiser_saved(name, data_dir, tmp_path):
    """Same groups and same work as the file they were made of; no operator of ONNX Runtime is left."""
    path = data_dir / "zoo" / f"{name}.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    original, graph = load(path), load(tmp_path / "optimised.onnx")

    assert rewritten(graph)
    assert not [node for node in graph.graph if node.domain]
    assert sorted(group.width for group in find(graph).groups) == sorted(group.width for group in find(original).groups)
    assert count(graph).macs == count(original).macs
