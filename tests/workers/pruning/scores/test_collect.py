"""Gates: zeroing them is removal, and their gradients come sample by sample."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import MIXED, RESIDUAL, answers, images, loaded
from workers.pruning.errors import NonFiniteScore, UnsupportedOperator
from workers.pruning.graph.execute import GraphModule
from workers.pruning.groups.find import find
from workers.pruning.scores import collect
from workers.pruning.scores.collect import accumulate, find_sites, gate_edits, parts
from workers.pruning.scores.output import read_outputs
from workers.pruning.surgery.cut import cut
from workers.pruning.types import Keep

ATTENTION = """
<ir_version: 8, opset_import: ["" : 17]>
attention (float[N, 5, 8] x, float[8, 12] wq, float[8, 12] wk, float[8, 12] wv, float[12, 8] wo, float[8, 4] wc)
    => (float[N, 5, 4] y)
{
  q = MatMul (x, wq)
  k = MatMul (x, wk)
  v = MatMul (x, wv)
  kt = Transpose <perm = [0, 2, 1]> (k)
  logits = MatMul (q, kt)
  weights = Softmax <axis = -1> (logits)
  mixed = MatMul (weights, v)
  o = MatMul (mixed, wo)
  active = Relu (o)
  y = MatMul (active, wc)
}
"""
WINDOWS = """
<ir_version: 8, opset_import: ["" : 17]>
windows (float[N, 6, 4] x, float[4, 5] w1, float[5, 3] w2) => (float[N, 6, 3] y)
<int64[2] rows = {-1, 4}, int64[3] back = {-1, 6, 3}>
{
  flat = Reshape (x, rows)
  h = MatMul (flat, w1)
  a = Relu (h)
  z = MatMul (a, w2)
  y = Reshape (z, back)
}
"""


def gated(graph: ir.Model, x: np.ndarray, gates: np.ndarray) -> np.ndarray:
    sites = find_sites(graph, find(graph))
    rows = torch.from_numpy(np.tile(gates.astype(np.float32), (len(x), 1)))
    with torch.no_grad():
        return GraphModule(graph).eval().run([torch.from_numpy(x)], edits=gate_edits(sites, rows))[0].numpy()


def gradients(graph: ir.Model, x: np.ndarray) -> np.ndarray:
    """Per-sample gradients of the first output's sum with respect to the gates."""
    grouping = find(graph)
    gates = torch.ones(len(x), grouping.num_units, requires_grad=True)
    edits = gate_edits(find_sites(graph, grouping), gates)
    (out,) = GraphModule(graph).eval().run([torch.from_numpy(x)], edits=edits)
    return torch.autograd.grad((out**2).sum(), gates)[0].numpy()


@pytest.mark.parametrize(("text", "shape"), [(MIXED, (3, 8, 8)), (RESIDUAL, (3, 8, 8)), (ATTENTION, (5, 8))])
def test_gates_of_zero_are_removal(text: str, shape: tuple[int, ...]) -> None:
    """A network with zeroed gates answers as the network from which these units were cut."""
    graph = loaded(text)
    grouping = find(graph)
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    mask = np.random.default_rng(1).random(grouping.num_units) > 0.3
    for group in grouping.groups:
        mask[group.start] = True

    removed = answers(cut(graph, grouping, Keep(mask=mask)), x)[0]

    np.testing.assert_allclose(gated(graph, x, mask), removed, atol=1e-5)
    assert np.abs(removed - answers(graph, x)[0]).max() > 1e-3


def test_a_batch_gives_what_single_samples_give() -> None:
    """One backward pass through a batch holds each sample's own gradients: BatchNormalization does not mix them."""
    graph, x = loaded(RESIDUAL), images(5)
    single = np.concatenate([gradients(graph, x[i : i + 1]) for i in range(len(x))])

    np.testing.assert_allclose(gradients(graph, x), single, rtol=1e-4, atol=1e-5)


def test_rows_of_one_sample_share_its_gates() -> None:
    """Where a network folds positions into the batch, every row still belongs to its sample."""
    graph = loaded(WINDOWS)
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    single = np.concatenate([gradients(graph, x[i : i + 1]) for i in range(len(x))])

    np.testing.assert_allclose(gradients(graph, x), single, rtol=1e-4, atol=1e-5)


def test_a_shared_gate_feels_all_that_read_it() -> None:
    """The gradient of a unit with several readers is the sum of the gradients at each of them."""
    graph, x = loaded(RESIDUAL), images(4)
    grouping = find(graph)
    sites = find_sites(graph, grouping)
    stream = next(group for group in grouping.groups if len(group.consumers) > 1)
    whole = gradients(graph, x)[:, stream.start : stream.stop]
    total = np.zeros_like(whole)
    for site in sites:
        gates = torch.ones(len(x), grouping.num_units, requires_grad=True)
        (out,) = GraphModule(graph).eval().run([torch.from_numpy(x)], edits=gate_edits([site], gates))
        (gradient,) = torch.autograd.grad((out**2).sum(), gates)
        total += gradient.numpy()[:, stream.start : stream.stop]

    assert sum(site.node in stream.consumers for site in sites) == 3
    np.testing.assert_allclose(whole, total, rtol=1e-4, atol=1e-5)


def test_samples_that_cannot_be_told_apart_are_refused() -> None:
    """A layer whose rows do not divide among the samples is named."""
    graph = loaded(WINDOWS)
    sites = find_sites(graph, find(graph))
    edits = gate_edits(sites, torch.ones(4, find(graph).num_units))
    with pytest.raises(UnsupportedOperator, match=r"samples cannot be told apart.*at z; found 18 rows for 4 samples"):
        GraphModule(graph).eval().run([torch.ones(3, 6, 4)], edits=edits)


def test_large_batches_are_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are split so that their activations fit, each sample once and in order."""
    graph = loaded(RESIDUAL)
    monkeypatch.setattr(collect, "_ACTIVATION_BYTES", 3 * collect._activation_bytes(graph))

    assert parts(graph, [images(8)]) == [slice(0, 3), slice(3, 6), slice(6, 8)]


def test_a_network_with_a_fixed_batch_gets_it_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is part of the network's shape cannot be split."""
    graph = loaded(RESIDUAL.replace("float[N, ", "float[8, "))
    monkeypatch.setattr(collect, "_ACTIVATION_BYTES", 1)

    assert parts(graph, [images(8)]) == [slice(0, 8)]


def test_an_infinite_score_is_refused_with_its_group() -> None:
    """The message names group and channel."""
    graph = loaded(RESIDUAL)
    grouping = find(graph)

    def objectives(_number: int, _part: slice, zs: list[torch.Tensor]):
        yield (zs[0] * 1e38).sum()

    with pytest.raises(NonFiniteScore, match=f"the score of channel .* is NaN or infinite; at {grouping.groups[0].id}"):
        accumulate(
            graph,
            grouping,
            [[images(4)]],
            objectives,
            torch.square,
            readings=read_outputs(graph),
            run=run_of(),
            message="",
        )
