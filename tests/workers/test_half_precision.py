"""Whole jobs on networks that are half precision throughout: analysed, pruned with and without data, kept narrow."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.workers.pruning.graph.narrowed import narrowed
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import RESIDUAL, answers, images, seeded
from workers.pipeline import analyse_network, prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes, twin_bytes
from workers.pruning.training.recipe import FinetuneSettings

KINDS = {"bfloat16": ir.DataType.BFLOAT16, "float16": ir.DataType.FLOAT16}
SPEC = PruneSpec(
    target_sets=((Target(metric="flops", ratio=0.6),),),
    options={"calibration_samples": 32},
    finetune=FinetuneSettings(steps=2, batch_size=16),
    round_to=1,
    measure=False,
)
# bfloat16 layers between float32 ends, as a part of a network is exported that was told to compute so.
INNER = """
<ir_version: 8, opset_import: ["" : 17]>
inner (float[N, 3, 8, 8] x, float[8, 3, 3, 3] w1, float[8] b1, float[12, 8, 3, 3] w2, float[12] b2, float[4, 12] w3)
    => (float[N, 4] y)
{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  down = Cast <to = 16> (c1)
  r1 = Relu (down)
  c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
  r2 = Relu (c2)
  pooled = GlobalAveragePool (r2)
  up = Cast <to = 1> (pooled)
  flat = Flatten (up)
  y = Gemm <transB = 1> (flat, w3)
}
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Float32 images with the labels that the network itself gives."""
    x = images(96)
    labels = answers(seeded(RESIDUAL), x)[0].argmax(1)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=x[:64], y=labels[:64], x_val=x[64:], y_val=labels[64:])
    return path


def job(graph: ir.Model, folder, spec=SPEC, dataset=None):
    """Run a job; gives its result and the parsed file."""
    path = folder / "network.onnx"
    path.write_bytes(to_bytes(graph))
    result = prune(spec, network=path, dataset=dataset, out=folder / "out", run=run_of())
    return result, onnx.load(folder / "out" / "pruned.onnx")


def kinds(proto: onnx.ModelProto) -> set[int]:
    """Types of all weights and values of a file."""
    values = (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
    return {tensor.data_type for tensor in proto.graph.initializer} | {v.type.tensor_type.elem_type for v in values}


@pytest.mark.parametrize("kind", KINDS)
def test_an_analysis_is_whole(kind: str, tmp_path) -> None:
    """Groups, sensitivities and speed are there; a warning says how bfloat16 is judged, and nothing else is said."""
    path = tmp_path / "network.onnx"
    path.write_bytes(to_bytes(narrowed(seeded(RESIDUAL), KINDS[kind])))
    analysis = analyse_network(path)
    wide = tmp_path / "wide.onnx"
    wide.write_bytes(to_bytes(seeded(RESIDUAL)))
    expected = analyse_network(wide)

    assert analysis["inputs"][0]["dtype"] == kind
    assert analysis["macs"] == expected["macs"]
    assert [group["layers"] for group in analysis["prunable_groups"]] == [
        group["layers"] for group in expected["prunable_groups"]
    ]
    assert all(group["sensitivity"] is not None for group in analysis["prunable_groups"])
    assert analysis["speed"]
    assert ["float32 twin" in warning for warning in analysis["warnings"][:1]] == [True] * (kind == "bfloat16")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_data", [True, False])
def test_a_pruned_network_stays_narrow(kind: str, with_data: bool, tmp_path, dataset) -> None:
    """`auto` with training: the target holds, every type in the file is that of the upload, and the result says how."""
    graph = narrowed(seeded(RESIDUAL), KINDS[kind])
    result, file = job(graph, tmp_path, dataset=dataset if with_data else None)

    assert result["target_met"]
    assert kinds(file) <= {int(KINDS[kind]), onnx.TensorProto.INT64}
    assert result["parity"]["masked_vs_cut_max_abs"] < 2e-2
    assert result["after"]["agreement"] > 0.5
    assert any("float32 twin" in warning for warning in result["warnings"]) == (kind == "bfloat16")


def test_a_bfloat16_network_keeps_what_its_twin_keeps(tmp_path, dataset) -> None:
    """Without training, the same channels go as from the float32 network of the same weights, and weights agree to 1 %.

    A kept weight is rounded once more, to 8 bits: 0.4 % of it at most.
    """
    spec = replace(SPEC, finetune=FinetuneSettings(steps=0))
    narrow = load(to_bytes(narrowed(seeded(RESIDUAL))))
    (tmp_path / "wide").mkdir()
    ours, file = job(narrow, tmp_path, spec, dataset)
    theirs, wide = job(load(twin_bytes(narrow)), tmp_path / "wide", spec, dataset)
    found, expected = (
        {name: value.const_value.numpy().astype(np.float32) for name, value in graph.graph.initializers.items()}
        for graph in (load(file.SerializeToString()), load(wide.SerializeToString()))
    )

    assert ours["layers"] == theirs["layers"]
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=0.01 * np.abs(array).max())


def test_a_latency_that_cannot_be_had_is_not_stated(tmp_path) -> None:
    """ONNX Runtime has no bfloat16 convolution: the job succeeds, and no latency of a twin is passed off as its."""
    spec = replace(SPEC, finetune=FinetuneSettings(steps=0), measure=True)
    result, _ = job(narrowed(seeded(RESIDUAL)), tmp_path, spec)

    assert result["latency"] is None
    assert "latency_ms" not in result["after"]
    assert any("Latency on dev_local is not stated" in warning for warning in result["warnings"])


def test_a_network_that_computes_in_bfloat16_in_part_keeps_its_parts(tmp_path) -> None:
    """Between its Casts the file has bfloat16 weights and values, outside float32, as before."""
    graph = ir.from_proto(onnx.load_from_string(to_bytes(seeded(INNER))))
    for name in ("w2", "b2"):
        value = graph.graph.initializers[name]
        array = value.const_value.numpy().astype(ir.DataType.BFLOAT16.numpy())
        value.const_value = ir.Tensor(array, dtype=ir.DataType.BFLOAT16, name=name)
        value.type = ir.TensorType(ir.DataType.BFLOAT16)
    result, file = job(graph, tmp_path)
    types = {tensor.name: tensor.data_type for tensor in file.graph.initializer}

    assert result["target_met"]
    assert (types["w1"], types["w2"], types["b2"], types["w3"]) == (1, 16, 16, 1)
    assert [node.attribute[0].i for node in file.graph.node if node.op_type == "Cast"] == [16, 1]
