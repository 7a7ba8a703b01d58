"""Networks with nodes that torch has no function for, through a whole job: LSTM, If, Loop, NonMaxSuppression."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.workers.pruning.graph.single import run_reference
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import seeded
from tests.workers.pruning.surgery.keeps import random_keep
from workers.analysis import analyse
from workers.pipeline import prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.graph.cost import count
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.trunk import restored
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.surgery.mask import mask
from workers.pruning.training.recipe import FinetuneSettings
from workers.stops import trunk_of

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
CONVS = (
    """float[16, 3, 3, 3] w1, float[16] b1, float[16, 16, 3, 3] w2, float[16] b2, float[8, 16, 3, 3] w3, float[8] b3"""
)
STACK = """  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
  e = Relu (d)
  f = Conv <pads = [1, 1, 1, 1]> (e, w3, b3)
"""
TAGGER = f"""tagger (float[N, 3, 8, 8] x, {CONVS}, float[2, 24, 64] wl, float[2, 24, 6] rl, float[2, 48] bl,
  float[2, 18] pl, float[12, 16] w4, float[16] b4, float[16, 5] w5, float[5] b5) => (float[N, 8, 5] y)
  <int64[3] merged = {{0, 0, 64}}, int64[3] joined = {{0, 0, 12}}> {{
{STACK}  g = Transpose <perm = [3, 0, 1, 2]> (f)
  h = Reshape (g, merged)
  i = LSTM <hidden_size = 6, direction = "bidirectional"> (h, wl, rl, bl, , , , pl)
  j = Transpose <perm = [2, 0, 1, 3]> (i)
  k = Reshape (j, joined)
  l = MatMul (k, w4)
  m = Add (l, b4)
  n = Relu (m)
  o = MatMul (n, w5)
  y = Add (o, b5)
}}"""
HEAD = """  pooled = GlobalAveragePool (q)
  flat = Flatten (pooled)
  hidden = Gemm <transB = 1> (flat, w4, b4)
  active = Relu (hidden)
  y = Gemm <transB = 1> (active, w5, b5)
}"""
DENSE = "float[16, 8] w4, float[16] b4, float[4, 16] w5, float[4] b5) => (float[N, 4] y)"
BRANCH = f"""branch (float[N, 3, 8, 8] x, {CONVS}, {DENSE} <float zero = {{0}}> {{
{STACK}  mean = ReduceMean <keepdims = 0> (f)
  high = Greater (mean, zero)
  q = If (high) <then_branch = yes () => (float[M, 8, 8, 8] u) {{ u = Relu (f) }},
                 else_branch = no () => (float[M, 8, 8, 8] v) {{ w = Relu (f) v = Neg (w) }}>
{HEAD}"""
LOOP = f"""loop (float[N, 3, 8, 8] x, {CONVS}, {DENSE} <int64 n = {{3}}, bool go = {{1}}> {{
{STACK}  q = Loop (n, go, f) <body = b (int64 i, bool on, float[M, 8, 8, 8] s) => (bool more, float[M, 8, 8, 8] t) {{
      more = Identity (on)  u = Tanh (s)  t = Add (u, f) }}>
{HEAD}"""
BOXES = f"""boxes (float[1, 3, 8, 8] x, {CONVS}, float[6, 8, 1, 1] w4, float[6] b4)
  => (float[k, 4] picked, int64[k, 3] which)
  <int64[3] rows = {{1, 64, 6}}, int64[2] cuts = {{4, 2}}, int64[1] last = {{2}},
   int64[1] ax = {{1}}, int64 most = {{5}}, float iou = {{0.5}}, float low = {{0.5}}> {{
{STACK}  g = Relu (f)
  h = Conv (g, w4, b4)
  i = Transpose <perm = [0, 2, 3, 1]> (h)
  j = Reshape (i, rows)
  boxes, logits = Split <axis = 2> (j, cuts)
  p = Sigmoid (logits)
  scores = Transpose <perm = [0, 2, 1]> (p)
  which = NonMaxSuppression (boxes, scores, most, iou, low)
  row = Gather <axis = 1> (which, last)
  flat = Squeeze (row, ax)
  all = Squeeze (boxes)
  picked = Gather (all, flat)
}}"""
SECOND = """float[6, 8, 1, 1] w4, float[6] b4, float[16, 8, 3, 3] w5, float[16] b5, float[12, 16] w6, float[12] b6,
  float[4, 12] w7, float[4] b7"""
HEADS = """  g = Relu (f)
  h = Conv (g, w4, b4)
  i = Transpose <perm = [0, 2, 3, 1]> (h)
  j = Reshape (i, rows)
  boxes, logits = Split <axis = 2> (j, cuts)
  p = Sigmoid (logits)
  all = Squeeze (boxes, ax0)
"""
ROIS = """  rc = Conv (rois, w5, b5)
  rr = Relu (rc)
  rp = GlobalAveragePool (rr)
  rf = Flatten (rp)
  rg = Gemm <transB = 1> (rf, w6, b6)
  ra = Relu (rg)
  second = Gemm <transB = 1> (ra, w7, b7)
}"""
STAGES = f"""stages (float[1, 3, 8, 8] x, {CONVS}, {SECOND}) => (float[1, 64, 2] p, float[5, 4] second)
  <int64[3] rows = {{1, 64, 6}}, int64[2] cuts = {{4, 2}}, int64[1] ax0 = {{0}}, int64[1] five = {{5}},
   int64[5] image = {{0, 0, 0, 0, 0}}> {{
{STACK}{HEADS}  best = ReduceMax <axes = [2], keepdims = 0> (p)
  most, at = TopK (best, five)
  row = Squeeze (at, ax0)
  picked = Gather (all, row)
  rois = RoiAlign <output_height = 3, output_width = 3, sampling_ratio = 2> (g, picked, image)
{ROIS}"""
SUPPRESSED = (
    STAGES.replace("float[5, 4] second)", "float[k, 4] final)").replace(
        "five = {5}",
        """five = {5}, int64[1] column = {2}, int64[1] ax1 = {1}, int64[3] one = {1, 5, 4}, int64[3] flat = {1, 1, 5},
   int64 few = {3}, float iou = {0.5}""",
    )[:-1]
    + """
  refined = Reshape (second, one)
  sure = ReduceMax <axes = [1], keepdims = 0> (second)
  sures = Reshape (sure, flat)
  which = NonMaxSuppression (refined, sures, few, iou)
  rest = Gather <axis = 1> (which, column)
  left = Squeeze (rest, ax1)
  final = Gather (second, left)
}"""
)
LEFT = f"""left (float[1, 3, 8, 8] x, {CONVS}, {SECOND}) => (float[1, 64, 2] p, float[k, 4] second)
  <int64[3] rows = {{1, 64, 6}}, int64[2] cuts = {{4, 2}}, int64[1] ax0 = {{0}}, int64[1] last = {{2}},
   int64[1] ax = {{1}}, int64 most = {{5}}, float iou = {{0.5}}, float low = {{0.5}}, int64[1] one = {{0}}> {{
{STACK}{HEADS}  scores = Transpose <perm = [0, 2, 1]> (p)
  which = NonMaxSuppression (boxes, scores, most, iou, low)
  row = Gather <axis = 1> (which, last)
  flat = Squeeze (row, ax)
  picked = Gather (all, flat)
  column = Gather <axis = 1> (which, one)
  image = Squeeze (column, ax)
  rois = RoiAlign <output_height = 3, output_width = 3, sampling_ratio = 2> (g, picked, image)
{ROIS}"""
BEHIND = """  i = Conv <pads = [1, 1, 1, 1]> (q, v4, c4)
  j = Relu (i)
  k = Conv <pads = [1, 1, 1, 1]> (j, v5, c5)
  l = Relu (k)
  m = GlobalAveragePool (l)
  o = Flatten (m)
  y = Gemm <transB = 1> (o, v6, c6)
}"""
LAYERS = "float[16, 8, 3, 3] v4, float[16] c4, float[8, 16, 3, 3] v5, float[8] c5, float[5, 8] v6, float[5] c6"
ENDS = f"(float[N, 3, 8, 8] x, {CONVS}, {LAYERS}) => (float[N, 5] y)"
CONTRIB = f"""contrib {ENDS} {{
{STACK}  q = com.microsoft.ScaledSiLU (f)
{BEHIND}"""
BRANCHED = f"""branched {ENDS} <float zero = {{0}}> {{
{STACK}{BRANCH[BRANCH.index("  mean =") : BRANCH.index("  pooled =")]}{BEHIND}"""
LOOPED = f"""looped {ENDS} <int64 n = {{3}}, bool go = {{1}}> {{
{STACK}{LOOP[LOOP.index("  q =") : LOOP.index("  pooled =")]}{BEHIND}"""
MAP = f"""map (float[N, 3, 8, 8] x, {CONVS}) => (int64[N, 1, 8, 8] y) {{
{STACK}  g = Softmax <axis = 1> (f)
  y = ArgMax <axis = 1> (g)
}}"""
NETWORKS = {
    "tagger": TAGGER, "branch": BRANCH, "loop": LOOP, "boxes": BOXES, "map": MAP, "left": LEFT, "stages": STAGES,
    "suppressed": SUPPRESSED,
    "contrib": CONTRIB, "fused": LOOPED.replace("  j = Relu (i)", "  j = com.microsoft.Gelu (i)"),
    "branched": BRANCHED, "looped": LOOPED,
}  # fmt: skip
HALF = PruneSpec(
    target_sets=((Target(metric="flops", ratio=0.5),),),
    options={"calibration_samples": 32},
    finetune=FinetuneSettings(steps=4, batch_size=16),
    round_to=1,
    measure=False,
)
UNREPAIRED = {**HALF.options, "compensate": False}  # since the repair leaves little to learn


def _content(name):
    return to_bytes(seeded(HEADER + NETWORKS[name], seed=1))


def _network(name):
    return load(_content(name))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Noise, with a mean of its own for each sample, labelled by brightness."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    images = rng.standard_normal((64, 3, 8, 8)) + rng.standard_normal((64, 3, 1, 1))
    labels = 4 * np.argsort(np.argsort(images.mean((1, 2, 3)))) // 64
    np.savez(path, x=images.astype(np.float32), y=labels)
    return path


@pytest.fixture(scope="module")
def unlabelled(dataset):
    path = dataset.with_name("unlabelled.npz")
    np.savez(path, x=np.load(dataset)["x"])
    return path


def _pruned(name, spec, dataset, folder):
    """The result, the upload and what was made of it."""
    (folder / "net.onnx").write_bytes(_content(name))
    result = prune(spec, network=folder / "net.onnx", dataset=dataset, out=folder, run=run_of())
    return result, onnx.load(folder / "net.onnx"), onnx.load(folder / "pruned.onnx")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tagger", None),
        (
            "branch",
            "No gradient passes Greater 'high', If 'q': layers in front are scored by, and fine-tuned towards, what",
        ),
        ("loop", "No gradient passes Loop 'q': layers in front are scored by, and fine-tuned towards, what"),
        ("boxes", "Nothing is learned behind NonMaxSuppression 'which'"),
        ("map", "No gradient passes ArgMax 'y'"),
        ("left", "Nothing is learned behind NonMaxSuppression 'which'"),
        ("stages", "Layers behind Squeeze 'all', RoiAlign 'rois' work on rows picked from an image: rois (5 rows"),
    ],
)
def test_half_of_the_work_goes_whatever_stops_the_gradient(name, said, unlabelled, tmp_path):
    """Pruned, compensated, fine-tuned and checked; the file has the interface of the upload and all of it runs."""
    result, old, new = _pruned(name, HALF, unlabelled, tmp_path)
    onnx.checker.check_model(new, full_check=True)
    ort.InferenceSession(new.SerializeToString()).run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})
    repaired = [point["stage"] for point in result["curve"] if "loss" not in point]

    assert result["target_met"]
    assert repaired == ["raw", "compensated", "finetuned"]
    assert max(result["parity"].values()) < 1e-4
    assert result["finetune"]["loss_before"] > 0
    assert list(old.graph.output) == list(new.graph.output)
    assert [node.name for node in old.graph.node] == [node.name for node in new.graph.node]
    assert any(warning.startswith(said) for warning in result["warnings"]) if said else True
    assert set(result["warnings"]) >= {warning for warning in analyse(_network(name))["warnings"] if said}


@pytest.mark.parametrize("name", ["contrib", "branched", "looped"])
def test_layers_on_both_sides_of_a_stop_are_pruned_and_learn(name, unlabelled, tmp_path):
    """Those behind have gradients of the answers, those in front of what enters the stop; training lowers the loss."""
    spec = replace(HALF, options=UNREPAIRED, finetune=FinetuneSettings(steps=40, batch_size=16))
    result, _, new = _pruned(name, spec, unlabelled, tmp_path)
    widths = {layer["name"]: (layer["before"], layer["after"]) for layer in result["layers"]}
    onnx.checker.check_model(new, full_check=True)

    assert result["target_met"]
    assert max(result["parity"].values()) < 1e-4
    assert widths["d"][1] < 16
    assert widths["i"][1] < 16
    assert widths["f"] == (8, 8)  # what the stop reads stays
    assert result["finetune"]["loss_after"] < result["finetune"]["loss_before"]
    assert result["finetune"]["kept"]


@pytest.mark.parametrize("name", ["stages", "suppressed"])
def test_both_stages_of_a_detector_are_pruned_and_learn(name, unlabelled, tmp_path):
    """Rows of one image are samples of the second; its work counts five times, as the file's own does."""
    spec = replace(HALF, options=UNREPAIRED, finetune=FinetuneSettings(steps=20, batch_size=16))
    result, _, new = _pruned(name, spec, unlabelled, tmp_path)
    untrained = _pruned(name, replace(spec, finetune=FinetuneSettings(steps=0)), unlabelled, tmp_path)[2]
    widths = {layer["name"]: (layer["before"], layer["after"]) for layer in result["layers"]}
    second = [onnx.numpy_helper.to_array(_held(each, "w6")) for each in (new, untrained)]

    assert widths["d"][1] < 16
    assert widths["rc"][1] < 16
    assert result["before"]["macs"] == count(trunk_of(_network(name)).graph).macs == 258864
    assert result["after"]["macs"] == count(trunk_of(load(new.SerializeToString())).graph).macs
    assert result["finetune"]["loss_after"] < result["finetune"]["loss_before"]
    assert np.abs(second[0] - second[1]).max() > 0
    assert len(new.graph.input) == 1


@pytest.mark.parametrize("name", ["stages", "suppressed", "contrib", "branched", "looped"])
def test_the_whole_network_cut_is_the_whole_network_masked(name):
    """With what stops gradients, and what lies behind it, in place."""
    part = trunk_of(_network(name))
    grouping = find(part.graph)
    keep = random_keep(grouping, seed=3)
    masked, small = (restored(change(part.graph, grouping, keep), part) for change in (mask, cut))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}

    assert count(cut(part.graph, grouping, keep)).macs < count(part.graph).macs
    for wanted, found in zip(*(run_reference(to_bytes(each), feeds) for each in (masked, small)), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_rows_that_depend_on_each_other_are_no_samples():
    """A softmax over the rows: what one row gives alone is not what it gives beside others, so the stage is left."""
    text = STAGES.replace("  second = Gemm", "  among = Softmax <axis = 0> (ra)  second = Gemm").replace(
        "(ra, w7", "(among, w7"
    )
    part = trunk_of(load(to_bytes(seeded(HEADER + text, seed=1))))

    assert [value.name for value in part.graph.graph.inputs] == ["x"]
    assert {"rc", "rg", "among", "second"} <= set(part.tail)


def test_layers_behind_what_the_data_size_are_named():
    """With the reason: how much of them runs, and so what they cost, is not known."""
    frozen = {entry["node"]: entry["reason"] for entry in analyse(_network("left"))["frozen"]}

    assert {name for name, reason in frozen.items() if "as much as the data make it" in reason} == {
        "rc",
        "rg",
        "second",
    }


def test_an_operator_of_onnx_runtime_alone_is_named_with_its_domain():
    """As what stays, as what stops gradients, and as what is not counted."""
    found = analyse(_network("contrib"))

    assert {"node": "q", "reason": "operator com.microsoft::ScaledSiLU is not followed"} in found["frozen"]
    assert any("1 com.microsoft::ScaledSiLU. They stay" in warning for warning in found["warnings"])
    assert any(warning.startswith("No gradient passes com.microsoft::ScaledSiLU 'q'") for warning in found["warnings"])
    assert found["op_types"]["com.microsoft::ScaledSiLU"] == 1


def test_what_was_rewritten_is_said_by_analysis_and_result(unlabelled, tmp_path):
    """And the pruned network has the standard operators."""
    result, _, new = _pruned("fused", HALF, unlabelled, tmp_path)
    said = "rewritten in those of the ONNX standard, which give the same: 1 com.microsoft::Gelu"

    assert any(said in warning for warning in result["warnings"])
    assert any(said in warning for warning in analyse(_network("fused"))["warnings"])
    assert "Erf" in {node.op_type for node in new.graph.node}
    assert not [node for node in new.graph.node if node.domain]


@pytest.mark.parametrize("name", ["loop", "boxes"])
def test_layers_in_front_of_a_stop_are_worth_something_and_learn(name, unlabelled, tmp_path):
    """Removed channels of every group had a score above zero, and training changed the first layer."""
    spec = replace(HALF, options=UNREPAIRED)
    result, _, new = _pruned(name, replace(spec, finetune=FinetuneSettings(steps=0)), unlabelled, tmp_path)
    trained = _pruned(name, spec, unlabelled, tmp_path)[2]
    first = [onnx.numpy_helper.to_array(_held(each, "w1")) for each in (new, trained)]

    assert all(group["score_removed"] > 0 for group in result["facts"]["groups"] if group["kept"] < group["of"])
    assert first[0].shape == first[1].shape
    assert np.abs(first[0] - first[1]).max() > 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("magnitude", {}),
        ("taylor", {"share_per_round": 0.3, "ranking_samples": 32, "max_accuracy_drop": 1.0, "transfer": "never"}),
        ("easiedge", {}),
        ("dynhp", {}),
    ],
)
def test_other_methods_take_such_a_network(method, options, dataset, tmp_path):
    """Each gives a smaller network that runs."""
    spec = replace(HALF, method=method, options=options, target_sets=((Target(metric="flops", ratio=0.7),),))
    result, _, new = _pruned("loop", spec, dataset, tmp_path)
    ort.InferenceSession(new.SerializeToString()).run(None, {"x": np.ones((2, 3, 8, 8), np.float32)})

    assert result["after"]["macs"] < result["before"]["macs"]


def _held(network, name):
    return next(tensor for tensor in network.graph.initializer if tensor.name == name)
