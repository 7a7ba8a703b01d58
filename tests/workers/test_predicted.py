"""What a file will take is known before anything is cut, and a limit on it holds for the file that is delivered."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from tests.matrix.architectures import exported
from tests.networks import graph as network_of
from tests.workers.pruning.graph.narrowed import narrowed
from tests.workers.pruning.graph.test_storage import stored_in_half
from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import seeded
from tests.workers.pruning.surgery.keeps import random_keep, widths
from workers.pipeline import prune
from workers.predicted import predict
from workers.prune_spec import PruneSpec, Target
from workers.pruning.allocation.budget import cost
from workers.pruning.errors import TargetUnreachable
from workers.pruning.graph.cost import count
from workers.pruning.graph.load import load
from workers.pruning.graph.save import to_bytes
from workers.pruning.graph.shapes import nominal_shapes
from workers.pruning.graph.split import write_split
from workers.pruning.groups.cost_model import cost_model
from workers.pruning.groups.find import find
from workers.pruning.surgery.cut import cut
from workers.pruning.training.recipe import FinetuneSettings

# A weight expanded to a computed shape, which two read, and a Split without sizes; one axis is 128 units long, whose
# length takes a byte less once one of them has gone.
LISTS = """net (float[N,3,5] x) => (float[N,3,64] y)
<float[5,128] w1, float[1,1,128] token, float[1,1,128] other, float[128,128] w2, float[64,64] w3>
{
  [first] h = MatMul (x, w1)
  [shape] lengths = Shape (h)
  [expand] tokens = Expand (token, lengths)
  [again] others = Expand (other, lengths)
  [add] added = Sum (h, tokens, others)
  [second] m = MatMul (added, w2)
  [split] left, right = Split <axis = -1> (m)
  [both] both = Mul (left, right)
  [third] y = MatMul (both, w3)
}"""
CHAIN = """
<ir_version: 8, opset_import: ["" : 17]>
chain (float[N, 3, 8, 8] x, float[40, 3, 3, 3] w1, float[40] b1, float[48, 40, 3, 3] w2, float[48] b2, float[5, 48] w3)
    => (float[N, 5] y)
{
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)
  r2 = Relu (c2)
  pooled = GlobalAveragePool (r2)
  flat = Flatten (pooled)
  y = Gemm <transB = 1> (flat, w3)
}
"""
SPEC = PruneSpec(
    target_sets=((),),
    method="magnitude",
    options={"compensate": False},
    finetune=FinetuneSettings(steps=0),
    round_to=1,
    measure=False,
)


def lists() -> ir.Model:
    return network_of(LISTS)


def vision_transformer() -> ir.Model:
    return load(exported("vit", "legacy"))


@pytest.mark.parametrize("build", [lists, vision_transformer])
def test_lists_that_a_cut_writes_out_are_predicted_closely(build) -> None:
    """Of twenty cuts none has a larger file than predicted, nor one that is smaller by 1 % and 64 bytes."""
    graph = build()
    grouping, shapes = find(graph), nominal_shapes(graph)
    model = predict(graph, grouping, shapes=shapes, before=count(graph))
    loose = cost_model(graph, grouping)

    for seed in range(20):
        keep = random_keep(grouping, seed)
        predicted, counted = (
            cost(model, widths(grouping, keep)).size_bytes,
            count(cut(graph, grouping, keep)).size_bytes,
        )
        assert counted <= predicted <= 1.01 * counted + 64
        assert predicted < cost(loose, widths(grouping, keep)).size_bytes


def test_weights_stored_in_half_are_counted_so() -> None:
    """Before and after a cut the figure is the length of the file but for its metadata, not that of float32 weights."""
    graph = load(stored_in_half("FLOAT16"))
    grouping = find(graph)
    keep = random_keep(grouping, 0)
    model = cost_model(graph, grouping)
    full, half = (count(one).size_bytes for one in (graph, cut(graph, grouping, keep)))

    assert full < len(to_bytes(graph)) - 1000  # by hand: 1,120 weights of the three kernels save 2 bytes each
    assert cost(model, model.widths).size_bytes == full
    assert half <= cost(model, widths(grouping, keep)).size_bytes <= 1.01 * half


def delivered(folder, content: bytes, target: Target, spec: PruneSpec = SPEC) -> tuple[int, dict]:
    """Bytes of everything that a job with this target delivers for the network, and its result."""
    path = folder / "network.onnx"
    path.write_bytes(content)
    out = folder / "out"
    result = prune(replace(spec, target_sets=((target,),)), network=path, dataset=None, out=out, run=run_of())
    return sum(file.stat().st_size for file in out.glob("pruned.onnx*")), result


UPLOADS = {
    "float32": lambda: to_bytes(seeded(CHAIN)),
    "float16": lambda: to_bytes(narrowed(seeded(CHAIN), ir.DataType.FLOAT16)),
    "bfloat16": lambda: to_bytes(narrowed(seeded(CHAIN))),
    "fixed batch": lambda: to_bytes(seeded(CHAIN.replace("float[N,", "float[1,"))),
    "stored in half": lambda: stored_in_half("FLOAT16"),
    "lists": lambda: exported("vit", "legacy"),
}


@pytest.mark.parametrize("upload", UPLOADS)
def test_a_limit_on_the_file_holds_for_what_is_delivered(upload: str, tmp_path) -> None:
    """Metadata, header and casts included, the file takes no more than it may, and not 2 % less; the result says so."""
    size, result = delivered(tmp_path, UPLOADS[upload](), Target(metric="size_bytes", ratio=0.6))
    (target,) = result["targets"]
    slack = {"stored in half": 0.9}.get(upload, 0.98)  # units of a network of 3 kB are large

    assert slack * target["limit"] <= size <= target["limit"]
    assert (target["met"], target["reached"], result["after"]["size_bytes"]) == (True, size, size)


def test_a_limit_holds_for_two_files_together(tmp_path) -> None:
    """A network that came with its weights beside it is given back so, padding and references within the limit."""
    source = tmp_path / "source.onnx"
    network, companion = write_split(to_bytes(seeded(CHAIN)), source)
    (tmp_path / "network.onnx.data").write_bytes(companion.read_bytes())
    content = network.read_bytes().replace(b"source.onnx.data", b"networkonnx.data")
    size, result = delivered(tmp_path, content, Target(metric="size_bytes", value=60_000.0))

    assert size <= 60_000
    assert result["targets"][0]["reached"] == size


def test_a_limit_below_metadata_and_graph_is_refused_before_any_work(tmp_path) -> None:
    """What stands around the weights counts: a file of 700 bytes cannot be had."""
    with pytest.raises(TargetUnreachable, match="size_bytes"):
        delivered(tmp_path, to_bytes(seeded(CHAIN)), Target(metric="size_bytes", value=700.0))


def test_what_is_predicted_does_not_depend_on_which_unit_goes() -> None:
    """The trial takes the first unit of every group; taking the last gives the same length."""
    graph = lists()
    grouping = find(graph)
    ends = [[group.start for group in grouping.groups], [group.stop - 1 for group in grouping.groups]]
    sizes = {count(cut(graph, grouping, _without(grouping, gone))).size_bytes for gone in ends}

    assert len(sizes) == 1


def _without(grouping, gone):
    keep = random_keep(grouping, 0)
    return replace(keep, mask=~np.isin(np.arange(grouping.num_units), gone))
