"""Whole jobs of methods that prune in rounds: what stops them is stated, and other classes are learned first."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from tests.workers.pruning.journals import run_of
from tests.workers.pruning.seeded import answers, seeded
from workers.pipeline import prune
from workers.prune_spec import PruneSpec, Target
from workers.pruning.errors import InvalidDataset
from workers.pruning.graph.save import to_bytes
from workers.pruning.training.recipe import FinetuneSettings

NETWORK = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "by hand">
small (float[N, 3, 8, 8] x, float[12, 3, 3, 3] w1, float[12] b1, float[10, 12, 3, 3] w2, float[10] b2,
       float[4, 10] w3, float[4] b3) => (float[N, 4] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  c = Relu (a)
  d = Conv <pads = [1, 1, 1, 1]> (c, w2, b2)
  e = Relu (d)
  f = GlobalAveragePool (e)
  g = Flatten (f)
  y = Gemm <transB = 1> (g, w3, b3)
}
"""
SPEC = PruneSpec(
    target_sets=((Target(metric="macs", ratio=0.6),),),
    method="taylor",
    options={"share_per_round": 0.2, "ranking_samples": 64, "max_accuracy_drop": 1.0, "transfer_epochs": 4.0},
    finetune=FinetuneSettings(steps=4, batch_size=32),
    round_to=1,
    measure=False,
)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(to_bytes(seeded(NETWORK, seed=3)))
    return path


def stored(path, label):
    """Images of several brightnesses, with what `label` says of them."""
    rng = np.random.default_rng(0)
    images = (0.3 * rng.standard_normal((240, 3, 8, 8)) + rng.standard_normal((240, 3, 1, 1))).astype(np.float32)
    labels = label(images)
    np.savez(path, x=images[:200], y=labels[:200], x_val=images[200:], y_val=labels[200:])
    return path


def own_answers(images):
    """The classes that the network chooses."""
    return answers(seeded(NETWORK, seed=3), images)[0].argmax(1)


def six_classes(images):
    """Classes by brightness, two more than the network has."""
    return 6 * np.argsort(np.argsort(images.mean((1, 2, 3)))) // len(images)


def test_a_method_that_stops_by_itself_says_so(network, tmp_path):
    """With no drop allowed but the smallest, the target is not met, and result and warning say why."""
    spec = replace(
        SPEC,
        target_sets=((Target(metric="macs", ratio=0.1),),),
        options={"share_per_round": 0.2, "ranking_samples": 64, "max_accuracy_drop": 1e-6},
        finetune=FinetuneSettings(steps=0),
        min_keep=0.0,
    )
    data = stored(tmp_path / "data.npz", own_answers)
    result = prune(spec, network=network, dataset=data, out=tmp_path / "out", run=run_of())

    assert result["stopped_by"] == "accuracy"
    assert result["target_met"] is False
    assert result["facts"]["stopped_by"] == "accuracy"
    assert not result["facts"]["rounds"][-1]["accepted"]
    assert any("Pruning stopped before the target" in warning for warning in result["warnings"])


def test_other_classes_are_learned_before_pruning(network, tmp_path):
    """The file has six answers; before and after are both judged on the six classes."""
    data = stored(tmp_path / "data.npz", six_classes)
    result = prune(SPEC, network=network, dataset=data, out=tmp_path / "out", run=run_of())
    session = ort.InferenceSession((tmp_path / "out" / result["file"]).read_bytes())

    assert session.get_outputs()[0].shape[1] == 6
    assert (result["target_met"], result["stopped_by"]) == (True, "target")
    assert result["before"]["accuracy"] > 1 / 6
    assert result["after"]["agreement"] <= 1.0


def test_other_methods_refuse_other_classes(network, tmp_path):
    """Only the method that transfers takes labels that the network does not know."""
    data = stored(tmp_path / "data.npz", six_classes)
    for spec in (replace(SPEC, method="auto", options={}), replace(SPEC, options={"transfer": "never"})):
        with pytest.raises(InvalidDataset, match="A label is not a class of the network"):
            prune(spec, network=network, dataset=data, out=tmp_path / "out", run=run_of())
